"""Results of a device run as text and as JSON."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pcsparse.bench.device.limits import DeviceLimits
from pcsparse.bench.device.outcome import OURS, DeviceOutcome, DeviceResult
from pcsparse.bench.report import write_json
from pcsparse.bench.tables import ms, table
from pcsparse.timing import Environment

FORMAT = 1


@dataclass
class DeviceReport:
    """A whole run; it is written after every case, so that what was measured stays if the rest breaks off.

    Attributes:
        environment: where it ran.
        clouds: one line each.
        peers: (name, remark).
        absent: (name, why) of those that are not there.
        limits: of the device, once they are measured.
        sections: results by section.
        broken: (case, why) of cases that ended in an error, and of those for which no time was left.
        rehearsal: whether nothing here is a time of an accelerator.
    """

    environment: Environment
    clouds: tuple[str, ...]
    peers: tuple[tuple[str, str], ...]
    absent: tuple[tuple[str, str], ...]
    limits: DeviceLimits | None = None
    sections: dict[str, list[DeviceResult]] = field(default_factory=dict)
    broken: list[tuple[str, str]] = field(default_factory=list)
    rehearsal: bool = False

    def results(self) -> Iterable[DeviceResult]:
        """All of them."""
        return (result for results in self.sections.values() for result in results)

    def write(self, path: Path) -> None:
        """Write JSON; seconds and bytes, null where a check failed."""
        content: dict[str, Any] = {"format": FORMAT, **asdict(self), "summary": summary(self)}
        for name, results in self.sections.items():
            for entry, result in zip(content["sections"][name], results, strict=True):
                entry["ratio"] = result.ratio
        write_json(path, content)


def result_lines(results: Sequence[DeviceResult], limits: DeviceLimits | None) -> str:
    """One row a candidate; the best peer's time over the package's stands in the package's row."""
    columns = (
        "case",
        "library",
        "ms",
        "quartiles",
        "wall ms",
        "host us",
        "best peer / ours",
        "useful TFLOP/s",
        "of bf16 peak",
        "peak MiB",
        "error/limit",
    )
    rows, notes = [], []
    for result in results:
        name = f"{result.case} {result.precision}".strip()
        for outcome in result.outcomes:
            if outcome.refusal is not None:
                notes.append(f"not run  {name}, {outcome.name}: {outcome.refusal}")
            for check in outcome.failed[:3]:
                found = f"{check.what} is off by {check.error:.3g}, allowed is {check.limit:.3g}"
                notes.append(f"WRONG  {name}, {outcome.name}: {found}; not timed")
            if outcome.times is not None:
                rows.append(_row(name, result, outcome, limits))
    return "\n".join([table(columns, rows), *notes])


def short_line(result: DeviceResult) -> str:
    """A case on one line: milliseconds or that there are none; the best peer's time over the package's."""
    found = []
    for outcome in result.outcomes:
        if outcome.times is not None:
            text = f"{1e3 * outcome.times.best.median:.3f} ms"
        else:
            text = "WRONG" if outcome.failed else "not run"
        found.append(f"{outcome.name} {text}")
    ratio = "" if result.ratio is None else f"; ratio {result.ratio:.2f}"
    return f"{result.case} {result.precision}: {', '.join(found)}{ratio}"


def _row(
    name: str, result: DeviceResult, outcome: DeviceOutcome, limits: DeviceLimits | None
) -> tuple[str, ...]:
    times = outcome.times
    assert times is not None
    best, checks = times.best, [c for c in outcome.checks if c.limit]
    rate = result.operations / best.median
    if outcome.reference:
        # it does all products, there or not
        rate = 0.0
    ratio = result.ratio if outcome.name == OURS else None
    share = f"{rate / limits.bf16:.1%}" if rate and limits is not None else "-"
    return (
        name,
        outcome.name,
        f"{1e3 * best.median:.3f}",
        f"{1e3 * best.q1:.3f}-{1e3 * best.q3:.3f}",
        ms(times.wall.median),
        f"{1e6 * times.host.median:.0f}",
        "-" if ratio is None else f"{ratio:.2f}",
        f"{rate / 1e12:.1f}" if rate else "-",
        share,
        "-" if times.peak is None else f"{times.peak / 2**20:.0f}",
        f"{max(c.error / c.limit for c in checks):.2f}" if checks else "-",
    )


def summary(report: DeviceReport) -> dict[str, float]:
    """Geometric means of the best peer's time over the package's; the dense layer beside its product."""
    found = {}
    for name, results in report.sections.items():
        ratios = [result.ratio for result in results if result.ratio is not None]
        if ratios:
            found[f"{name}: best peer / pcsparse, geometric mean of {len(ratios)}"] = _mean(ratios)
    for result in report.sections.get("dense", []):
        product = next((o for o in result.outcomes if o.reference and o.times is not None), None)
        ours = result.ours
        if product is not None and product.times is not None and ours is not None and ours.times is not None:
            share = product.times.best.median / ours.times.best.median
            found[f"{result.case} {result.precision}: time of torch.mm / time of the layer"] = share
    return found


def _mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def summary_lines(report: DeviceReport) -> str:
    """The summary, what broke, and that a rehearsal is one."""
    lines = [f"{what}: {value:.3f}" for what, value in summary(report).items()]
    lines += [f"BROKEN  {case}: {why}" for case, why in report.broken]
    if report.rehearsal:
        lines.append("a REHEARSAL on a CPU: no time above says anything")
    return "\n".join(lines)
