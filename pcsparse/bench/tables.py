"""Results as tables of text: the package beside its floor and goal, then the peers beside the package."""

from collections.abc import Iterable, Sequence

from pcsparse.bench.limits import REFERENCE_LIMITS, Limits, floor_of, peak_share
from pcsparse.bench.outcome import Outcome, Result
from pcsparse.bench.verify import Check
from pcsparse.timing import Timing


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def result_table(results: Sequence[Result], limits: Limits) -> str:
    """Cases in rows: time, goals, floor, share of the peak. A failed case shows its errors and no time.

    The share of the peak counts the channels of the case: what a kernel pads them to earns nothing.
    """
    columns = ("case", "pcsparse ms", "quartiles", "reach ms", "here", "ours/here", "at these peaks",
               "ours/that", "floor ms", "ours/floor", "of peak", "error/limit", "runs")  # fmt: skip
    text = table(columns, [_row(result, limits) for result in results if result.passed])
    if any(result.goal is not None for result in results):
        text += (
            "\nhere = reach ms grown with this cloud's pairs (networks: operations); at these peaks = that, "
            f"grown as the floor does from where goals were set ({REFERENCE_LIMITS}) to this machine: "
            "harsher on a faster one, milder on a slower one"
        )
    return text + "".join(
        f"\nFAILED  {result.case}: {name_failure(check)}"
        for result in results
        for check in result.ours.failed
    )


def _row(result: Result, limits: Limits) -> tuple[str, ...]:
    time, floor = result.ours.time, floor_of(result.works, limits)
    goals = (result.goal, result.scaled_goal, result.goal_at(limits))
    goal, here, there = ("-" if seconds is None else ms(seconds) for seconds in goals)
    if time is None:
        refused = f"skipped: {result.ours.refusal}"
        return (result.case, refused, "-", goal, here, "-", there, *("-" for _ in range(6)))
    checks = result.ours.checks
    worst = max((check.error / check.limit for check in checks if check.limit), default=0.0)
    share = peak_share(result.works, time.median, limits)
    return (
        result.case,
        ms(time.median),
        quartiles(time),
        goal,
        here,
        _ratio(time, goals[1]),
        there,
        _ratio(time, goals[2]),
        ms(floor) if floor else "-",
        f"{time.median / floor:.1f}" if floor else "-",
        f"{share:.0%}" if share else "-",
        f"{worst:.3f}" if any(check.limit for check in checks) else "equal",
        str(time.runs),
    )


def _ratio(time: Timing, goal: float | None) -> str:
    return "-" if goal is None else f"{time.median / goal:.2f}"


def peer_table(results: Sequence[Result]) -> str:
    """Cases in rows, peers in columns: milliseconds, and how many times as long as the package."""
    names = list(dict.fromkeys(peer.name for result in results for peer in result.peers))
    timed = [result for result in results if result.ours.time is not None and result.peers]
    rows = []
    for result in timed:
        cells = [_peer_cell(result, result.peer(name)) for name in names]
        time = result.ours.time
        rows.append((result.case, "-" if time is None else ms(time.median), *cells))
    text = table(("case", "pcsparse", *names), rows)
    notes: dict[str, list[str]] = {}
    for result in results:
        for peer in result.peers:
            for note in _notes(peer):
                notes.setdefault(note, []).append(result.case)
    return text + "".join(f"\n{note}: {', '.join(cases)}" for note, cases in notes.items())


def _peer_cell(result: Result, peer: Outcome | None) -> str:
    if peer is None:
        return "-"
    if peer.failed:
        return "WRONG"
    if peer.time is None or result.ours.time is None:
        return "impossible"
    return f"{ms(peer.time.median)} ({peer.time.median / result.ours.time.median:.2f})"


def _notes(peer: Outcome) -> Iterable[str]:
    if peer.refusal is not None:
        yield f"impossible  {peer.name}, {peer.refusal}"
    for check in peer.failed[:1]:
        yield f"WRONG  {peer.name}, {name_failure(check)}"


def name_failure(check: Check) -> str:
    """What a check that failed says."""
    return f"{check.what} is off by {check.error:.3g}, allowed is {check.limit:.3g}; not timed"


def ms(seconds: float) -> str:
    """Milliseconds with three digits or more."""
    return f"{1e3 * seconds:.2f}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def quartiles(timing: Timing) -> str:
    """Milliseconds from the first to the third."""
    return f"{ms(timing.q1)}-{ms(timing.q3)}"
