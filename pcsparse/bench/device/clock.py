"""Times on an accelerator: what the caller waits, what the host spends, what the device spends.

Candidates run in turns, as in `timing.time_in_turns`. Each turn has two parts: one call between two
synchronisations, on the wall's clock; and one call behind a delay that keeps the device busy until the host
has launched everything, between two events. The first is what one frame costs, the second what a stream of
them costs.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pcsparse.timing import Timing

_WARM_UPS = 3
_FEWEST = 5
# of the device's clock, about 1 ms: longer than the launches of a layer take
_DELAY_CYCLES = 2_000_000


@dataclass(frozen=True)
class Times:
    """Of one candidate, seconds.

    Attributes:
        wall: from call to finished result.
        host: from call to return.
        device: between two events around the call; None where it was not asked for.
        peak: bytes that a run allocated beyond what lay there before; None off an accelerator.
    """

    wall: Timing
    host: Timing
    device: Timing | None = None
    peak: int | None = None

    @property
    def best(self) -> Timing:
        """The device's where it was measured, else the wall's."""
        return self.wall if self.device is None else self.device


def time_candidates(
    candidates: Mapping[str, Callable[[], object]],
    device: torch.device,
    *,
    runs: int,
    seconds: float = 5.0,
    events: bool = False,
    calls: int = 1,
) -> dict[str, Times]:
    """Time candidates in turns; every second round goes backwards.

    Args:
        candidates: by name; each call is one run.
        device: where they run.
        runs: rounds at most.
        seconds: after which no new round starts, once five are done.
        events: whether to time by events, too.
        calls: what is timed within each run, which takes that many times as long as what is reported.
    """
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in candidates}
    peaks = {name: _warm(run, device) for name, run in candidates.items()}
    names, begin = list(candidates), time.perf_counter()
    for turn in range(runs):
        if turn >= min(_FEWEST, runs) and time.perf_counter() - begin > seconds:
            break
        for name in names if turn % 2 == 0 else [*names[-2::-1], *names[-1:]]:
            wall, host = _once(candidates[name], device)
            spent = _between_events(candidates[name], device, calls) if events else 0.0
            taken[name].append((wall / calls, host / calls, spent / calls))
    found = {}
    for name, rounds in taken.items():
        wall_times, host_times, device_times = map(list, zip(*rounds, strict=True))
        found[name] = Times(
            Timing.of(wall_times),
            Timing.of(host_times),
            Timing.of(device_times) if events else None,
            peaks[name],
        )
    return found


def _warm(run: Callable[[], object], device: torch.device) -> int | None:
    for _ in range(_WARM_UPS):
        run()
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _once(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    _synchronise(device)
    begin = time.perf_counter()
    result = run()
    returned = time.perf_counter()
    _synchronise(device)
    done = time.perf_counter()
    # freeing a large result is not part of the run
    del result
    return done - begin, returned - begin


def _between_events(run: Callable[[], object], device: torch.device, calls: int) -> float:
    if device.type != "cuda":
        return _once(run, device)[0]
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(_DELAY_CYCLES * calls)
    begin.record()
    result = run()
    end.record()
    torch.cuda.synchronize(device)
    del result
    return begin.elapsed_time(end) / 1e3
