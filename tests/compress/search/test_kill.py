"""A search that is killed in the middle and run again."""

import subprocess
import sys
from pathlib import Path

from tests.compress.search.killed_search import Counting, run

ROOT = Path(__file__).resolve().parents[3]


def test_a_kill_loses_at_most_the_evaluation_that_was_running(tmp_path):
    when = 15
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "tests.compress.search.killed_search", str(log)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == when:
                process.kill()
                break
        assert process.wait() < 0

    done = len(log.read_bytes().splitlines()) - 1
    # the one that had begun may be lost
    assert done >= when - 1
    counting = Counting()
    resumed = run(log, counting)
    whole = run(None, Counting())
    assert [(t.widths, t.score, t.reward, t.cached) for t in resumed.trials] == [
        (t.widths, t.score, t.reward, t.cached) for t in whole.trials
    ]
    assert resumed.best.widths == whole.best.widths
    assert counting.n == whole.evaluations - sum(not t.cached for t in whole.trials[:done])
    assert counting.n < whole.evaluations
