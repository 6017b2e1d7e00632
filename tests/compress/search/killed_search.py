"""A search for a process that is about to be killed: python -m tests.compress.search.killed_search LOG."""

import sys
import time
from pathlib import Path

from pcsparse.compress.search.amc import AMC
from pcsparse.compress.search.amc_settings import AMCSettings
from pcsparse.compress.search.ddpg import DDPGSettings
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import Assignment
from pcsparse.compress.search.trials import SearchResult
from tests.compress.search.spaces import additive, chain

SPACE = chain(5, tuple(range(8, 72, 8)))
SCORE = additive(SPACE, [0.1, 0.3, 0.02, 0.2, 0.1])
METHOD = AMC(AMCSettings(warm_up=10, agent=DDPGSettings(hidden=(32, 32), batch=16)))


class Counting:
    """Says on standard output that an evaluation begins."""

    def __init__(self, pause: float = 0.0, *, loud: bool = False) -> None:
        self.n = 0
        self._pause, self._loud = pause, loud

    def __call__(self, widths: Assignment) -> float:
        self.n += 1
        if self._loud:
            sys.stdout.write(f"{self.n}\n")
            sys.stdout.flush()
        time.sleep(self._pause)
        return SCORE(widths)


def run(log: Path | None, evaluate: Counting) -> SearchResult:
    return search(SPACE, evaluate, SPACE.cost(SPACE.largest) / 2, 24, 3, method=METHOD, log=log)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Counting(0.01, loud=True))
