"""Results of a device run as text and as JSON."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pcsparse.bench.device.limits import DeviceLimits
from pcsparse.bench.device.outcome import OURS, DeviceOutcome, DeviceResult
from pcsparse.bench.device.summary import Mean, means_lines, summary
from pcsparse.bench.report import write_json
from pcsparse.bench.tables import ms, table
from pcsparse.timing import Environment

# 2: the summary is a list of means with their goals
FORMAT = 2


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

    def means(self) -> tuple[Mean, ...]:
        """Of the ratios of like cases, with their goals."""
        return summary(self.sections, rehearsal=self.rehearsal)

    def write(self, path: Path) -> None:
        """Write JSON; seconds and bytes, null where a check failed."""
        means = [{**asdict(mean), "verdict": mean.verdict} for mean in self.means()]
        content: dict[str, Any] = {"format": FORMAT, **asdict(self), "summary": means}
        for name, results in self.sections.items():
            for entry, result in zip(content["sections"][name], results, strict=True):
                entry["ratio"] = result.ratio
        write_json(path, content)


def result_lines(results: Sequence[DeviceResult], limits: DeviceLimits | None) -> str:
    """One row a candidate; the best peer's time over the package's stands in the package's rows."""
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
    ratio = result.ratio_of(outcome) if outcome.name.startswith(OURS) and not outcome.reference else None
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


def summary_lines(report: DeviceReport) -> str:
    """Means beside their goals, what broke, and that a rehearsal is one."""
    means = report.means()
    lines = [f"\n{means_lines(means)}"] if means else []
    lines += [f"BROKEN  {case}: {why}" for case, why in report.broken]
    if report.rehearsal:
        lines.append("a REHEARSAL on a CPU: no time above says anything")
    return "\n".join(lines)
