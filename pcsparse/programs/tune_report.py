"""What `pcsparse tune` prints: of each group its layers, their choices, and what a new cloud costs."""

from collections.abc import Sequence

from pcsparse.engine.choice import PASSES, Choice
from pcsparse.engine.map_tuning import MapTrial, MapTuning
from pcsparse.engine.tuning import Cost, GroupTuning, Part, Tuning, Which
from pcsparse.kernels.map_ways import WAYS, Way

# of the choices, in the order of the columns
KINDS: tuple[Which, ...] = ("rule", "alone", "best")
_COLUMNS = ("rule, ms", "alone, ms", "group, ms")


def header() -> str:
    """Names of the columns."""
    return (
        "ms of all layers of a line, with everything there that is derived of their map: by the rule;\n"
        "tuned by themselves (alone); tuned with all layers of the map and what they derive of it (group)\n\n"
        f"{_row('layers', 'pass', _COLUMNS, 'choice')}"
    )


def report(number: int, group: GroupTuning) -> str:
    """A paragraph on one group."""
    maps = list({id(call.built): call.built for call in group.calls}.values())
    lines = [
        f"group {number}: {sum(len(call.names) for call in group.calls)} layers on "
        + ", ".join(f"k={kmap.volume} {kmap.n_in} -> {kmap.n_out}" for kmap in maps)
    ]
    lines += [line for tuning in group.passes for line in _lines(tuning)]
    lines += [_row("", "derived", [_ms(group.cost(kind), "derived") for kind in KINDS], _parts(group))]
    lines += [
        _row("", "new cloud", [_ms(group.cost(kind), "total") for kind in KINDS], f"gain {group.gain:.3f}")
    ]
    return "\n".join(lines)


def summary(groups: Sequence[GroupTuning]) -> str:
    """What a new cloud costs by each kind of choices, over all groups."""
    if not groups:
        return "the model has no convolutions"
    lines = [_row("all groups", "pass", _COLUMNS, "")]
    for of in PASSES:
        if any(tuning.of == of for group in groups for tuning in group.passes):
            costs = [_sum([group.cost(kind, (of,)) for group in groups]) for kind in KINDS]
            lines.append(_row("", of, [_ms(cost, "layers") for cost in costs], ""))
    totals = [_sum([group.cost(kind) for group in groups]) for kind in KINDS]
    lines.append(_row("", "derived", [_ms(cost, "derived") for cost in totals], ""))
    lines.append(_row("", "new cloud", [_ms(cost, "total") for cost in totals], _gains(totals)))
    return "\n".join(lines)


def maps_report(tuning: MapTuning) -> str:
    """A table of the ways to each map, the one that the rule picks marked, and how far the rule is off."""
    lines = [
        "ms of each map by every way that can make it, sorted keys and launches to table; * the rule's way",
        f"{'map':<26} {'inputs':>9} {'outputs':>9} {'cells':>14} " + " ".join(f"{way:>9}" for way in WAYS),
    ]
    for trial in tuning.trials:
        size, picked = trial.size, tuning.rule.pick(trial.size)
        times = [_way(trial, way) + ("*" if way == picked else " ") for way in WAYS]
        cells = "unknown" if size.cells is None else size.cells
        columns = " ".join(f"{time:>9}" for time in times)
        lines.append(f"{trial.name:<26} {size.rows:>9} {size.queries:>9} {cells:>14} {columns}".rstrip())
    said = {f"  {way}: {reason}" for trial in tuning.trials for way, reason in trial.rejected.items()}
    off = ", ".join(f"{way} {error:.0%}" for way, error in tuning.errors.items())
    margin = f"{tuning.rule.margin - 1:.0%}"
    lines += sorted(said)
    lines += [f"the rule is off by at most: {off}; it leaves the search for what it says is {margin} faster"]
    return "\n".join(lines)


def _way(trial: MapTrial, way: Way) -> str:
    return f"{1e3 * trial.times[way].median:.3f}" if way in trial.times else "-"


def _lines(tuning: Tuning) -> list[str]:
    p = tuning.calls[0].problem
    seconds = [tuning.times.get(getattr(tuning, kind)) for kind in KINDS]
    choice = _said(tuning.best, tuning)
    if tuning.alone != tuning.best:
        choice += f" (alone: {_said(tuning.alone, tuning)})"
    times = ["wrong" if taken is None else f"{1e3 * taken.median:.3f}" for taken in seconds]
    line = _row(f"  {p.c_in}->{p.c_out} n={p.n_out} x{tuning.layers}", tuning.of, times, choice)
    return [line, *(f"  rejected {t.choice.encode()}: {t.rejected}" for t in tuning.trials if t.rejected)]


def _said(choice: Choice, tuning: Tuning) -> str:
    return "the rule's" if choice == tuning.rule else choice.encode()


def _parts(group: GroupTuning) -> str:
    made = sorted(group.parts("best"), key=lambda part: -group.derived[part].median)
    several = len({id(call.built) for call in group.calls}) > 1
    return ", ".join(f"{_named(part, several)} {1e3 * group.derived[part].median:.3f}" for part in made)


def _named(part: Part, several: bool) -> str:
    number, derived = part
    return f"{derived} of map {number + 1}" if several else str(derived)


def _sum(costs: Sequence[Cost | None]) -> Cost | None:
    known = [cost for cost in costs if cost is not None]
    if len(known) < len(costs):
        return None
    return Cost(sum(cost.layers for cost in known), sum(cost.derived for cost in known))


def _gains(totals: Sequence[Cost | None]) -> str:
    rule, alone, best = totals
    if rule is None or alone is None or best is None or not best.total:
        return ""
    return (
        f"{rule.total / best.total:.3f} times faster than the rule, {alone.total / best.total:.3f} than alone"
    )


def _ms(cost: Cost | None, part: str) -> str:
    return "wrong" if cost is None else f"{1e3 * getattr(cost, part):.3f}"


def _row(layers: str, of: str, times: Sequence[str], choice: str) -> str:
    return f"{layers:<28} {of:<11} " + " ".join(f"{time:>9}" for time in times) + f"  {choice}"
