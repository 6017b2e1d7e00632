"""What EIE's evaluation comes to: a table beside the published figures, and a verdict on each bound."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pcsparse.hardware.eie_energy import SPMAT_READ
from pcsparse.hardware.eie_study import DEPTHS, PES, WIDTHS, LayerCurves, LayerResult

CLOSED_FORM = 0.03
PUBLISHED = 0.10
SECONDS_A_MILLION = 5.0
PUBLISHED_DEPTH = 8
PUBLISHED_WIDTH = 64
PUBLISHED_PES = 64
# a queue is deep enough when it has this share of what the deepest gains over the shallowest
_ENOUGH = 0.9
# of a PE each; the published curves are called near-linear without a number
_NEAR_LINEAR = 0.7
# what passes for "around half"
_HALF = (0.35, 0.65)
_IRREGULAR = "NT-We"
# empty slices are worth a word from here on, as a factor on the closed form
_EMPTY = 1.25
# a curve of a random layer that should rise may fall by this much
_NOISE = 0.005


@dataclass(frozen=True)
class Verdict:
    """One bound: what was asked for, what came out, and whether that is inside."""

    text: str
    passed: bool

    def __str__(self) -> str:
        return f"{'pass' if self.passed else 'FAIL'}  {self.text}"


def table_head() -> str:
    """The columns of `table_line`: microseconds, deviations in %, microjoule; a rule below."""
    head = (
        f"{'layer':<8} {'closed':>7} {'theory':>7} {'dev':>5} | {'paper':>6} {'dev':>6} | {'actual':>7} "
        f"{'paper':>6} {'dev':>6} | {'act/th':>6} {'paper':>6} | {'uJ':>6} {'P x t':>6}"
    )
    return f"{head}\n{'-' * len(head)}"


def table_line(result: LayerResult) -> str:
    """A layer beside the paper."""
    r, paper = result, result.layer
    return (
        f"{paper.name:<8} {r.closed_us:7.2f} {r.theory_us:7.2f} {_percent(r.theory_us, r.closed_us):>5} | "
        f"{paper.theory_us:6.1f} {_percent(r.theory_us, paper.theory_us):>6} | {r.actual_us:7.2f} "
        f"{paper.actual_us:6.1f} {_percent(r.actual_us, paper.actual_us):>6} | {r.ratio:6.3f} "
        f"{paper.actual_us / paper.theory_us:6.2f} | {r.energy_uj:6.2f} {r.power_uj:6.2f}"
    )


def remarks(results: Sequence[LayerResult]) -> list[str]:
    """What a reader of the table must know of single layers."""
    found = []
    for r in results:
        name = r.layer.name
        if r.layer.astray:
            found.append(f"{name}: {r.layer.astray}")
        if r.floor_us > _EMPTY * r.closed_us:
            found.append(
                f"{name}: a slice without entries costs a cycle, so that PEs with most rows are at work for "
                f"{r.floor_us:.2f} us, however deep the queues"
            )
        if r.one_pass is not None:
            one = r.one_pass
            found.append(
                f"{name}: more rows than the registers hold sums, so {r.row_batches} runs. With registers "
                f"for all of them, one run: closed form {one.closed_us:.2f}, theory {one.theory_us:.2f} "
                f"({_percent(one.theory_us, one.closed_us)} %), actual {one.actual_us:.2f} us, "
                f"act/th {one.actual_us / one.theory_us:.3f}"
            )
        found += [
            f"{name}: {misfit}; what is brought in between batches costs nothing here" for misfit in r.misfits
        ]
    return found


def layer_verdicts(results: Sequence[LayerResult]) -> list[Verdict]:
    """The bounds on times, products and the simulator's own speed."""
    closed = {r.layer.name: abs(r.theory_us / r.closed_us - 1) for r in results}
    for r in results:
        if r.one_pass is not None:
            closed[f"{r.layer.name} in one run"] = abs(r.one_pass.theory_us / r.one_pass.closed_us - 1)
    worst = max(closed, key=lambda name: closed[name])
    found = [
        Verdict(
            f"theoretical cycles within {CLOSED_FORM:.0%} of the closed form on all layers: at most "
            f"{closed[worst]:.2%} ({worst})",
            closed[worst] <= CLOSED_FORM,
        )
    ]
    near = {r.layer.name: abs(r.theory_us / r.layer.theory_us - 1) for r in results if not r.layer.astray}
    if near:
        worst = max(near, key=lambda name: near[name])
        found.append(
            Verdict(
                f"theoretical time within {PUBLISHED:.0%} of the published one on {len(near)} layers: at "
                f"most {near[worst]:.1%} ({worst})",
                near[worst] <= PUBLISHED,
            )
        )
    for r in results:
        low, high = r.layer.ratio
        text = f"actual over theory {low:.2f} to {high:.2f}, {r.layer.name}: {r.ratio:.3f}"
        found.append(Verdict(text, low <= r.ratio <= high))
    wrong = [r.layer.name for r in results if not r.exact]
    text = "products equal the dense ones bit for bit" + (f", but not {', '.join(wrong)}" if wrong else "")
    found.append(Verdict(text, not wrong))
    slowest = max(results, key=lambda r: r.seconds / max(r.n_weights, 1))
    seconds = 1e6 * slowest.seconds / max(slowest.n_weights, 1)
    text = (
        f"a million weights in under {SECONDS_A_MILLION:g} s: at most {seconds:.2f} s ({slowest.layer.name})"
    )
    return [*found, Verdict(text, seconds < SECONDS_A_MILLION)]


def curve_verdicts(curves: Sequence[LayerCurves]) -> list[Verdict]:
    """The published knees and directions."""
    return [*_depth(curves), *_width(curves), *_pes(curves)]


def width_energies(curves: Sequence[LayerCurves], *, kept: bool = False) -> list[float]:
    """Microjoule of all layers' reads of the sparse-matrix SRAM, by `WIDTHS`."""
    return [
        SPMAT_READ[width] / 1e6 * sum((c.reads_kept if kept else c.reads)[i] for c in curves)
        for i, width in enumerate(WIDTHS)
    ]


def mean_efficiency(curves: Sequence[LayerCurves]) -> list[float]:
    """Of all layers, by `DEPTHS`."""
    return [sum(c.efficiency[i] for c in curves) / len(curves) for i in range(len(DEPTHS))]


def _depth(curves: Sequence[LayerCurves]) -> list[Verdict]:
    mean = mean_efficiency(curves)
    gains = [(each - mean[0]) / (mean[-1] - mean[0]) for each in mean]
    knee = next(depth for depth, gain in zip(DEPTHS, gains, strict=True) if gain >= _ENOUGH)
    return [
        _rising(
            "efficiency does not fall with the depth of the queues", [c.efficiency for c in curves], curves
        ),
        Verdict(
            f"depth 1: about half of the cycles are idle: {1 - mean[0]:.0%}",
            _HALF[0] <= 1 - mean[0] <= _HALF[1],
        ),
        Verdict(
            f"depth {PUBLISHED_DEPTH} is the least with {_ENOUGH:.0%} of what {DEPTHS[-1]} gains: {knee} is "
            f"({', '.join(f'{d}: {e:.3f}' for d, e in zip(DEPTHS, mean, strict=True))})",
            knee == PUBLISHED_DEPTH,
        ),
    ]


def _width(curves: Sequence[LayerCurves]) -> list[Verdict]:
    fresh, kept = width_energies(curves), width_energies(curves, kept=True)
    best = WIDTHS[fresh.index(min(fresh))]
    return [
        Verdict(
            f"SRAM width of least energy is {PUBLISHED_WIDTH} bits, each column reading anew: {best} is "
            f"({', '.join(f'{w}: {e:.1f} uJ' for w, e in zip(WIDTHS, fresh, strict=True))}); "
            f"if columns went on with the row that was read last: {WIDTHS[kept.index(min(kept))]} "
            f"({', '.join(f'{e:.1f}' for e in kept)})",
            best == PUBLISHED_WIDTH,
        )
    ]


def _pes(curves: Sequence[LayerCurves]) -> list[Verdict]:
    at = PES.index(PUBLISHED_PES)
    shares = {c.name: c.speedup[at] / PUBLISHED_PES for c in curves}
    worst = min(shares, key=lambda name: shares[name])
    regular = {name: share for name, share in shares.items() if name != _IRREGULAR}
    least = min(regular, key=lambda name: regular[name])
    ends = {c.name: c.speedup[-1] / PES[-1] for c in curves if c.name != _IRREGULAR}
    least_at_end = min(ends, key=lambda name: ends[name])
    return [
        Verdict(
            f"speed-up at {PUBLISHED_PES} PEs at least {_NEAR_LINEAR:g} a PE but for {_IRREGULAR}: "
            f"{regular[least]:.2f} ({least}); at {PES[-1]}: {ends[least_at_end]:.2f} ({least_at_end})",
            regular[least] >= _NEAR_LINEAR,
        ),
        Verdict(
            f"{_IRREGULAR} gains least from PEs: {worst} does, {shares[worst]:.2f} a PE", worst == _IRREGULAR
        ),
        _rising(
            "the share of work that is no padding does not fall with PEs",
            [c.real_work for c in curves],
            curves,
        ),
        _rising("load balance does not rise with PEs", [c.balance[::-1] for c in curves], curves),
    ]


def _rising(text: str, values: Sequence[Sequence[float]], curves: Sequence[LayerCurves]) -> Verdict:
    """Whether no curve falls; the names of those that do."""
    falling = [
        curve.name
        for curve, each in zip(curves, values, strict=True)
        if any(after < before - _NOISE for before, after in pairwise(each))
    ]
    return Verdict(text + (f", but for {', '.join(falling)}" if falling else ""), not falling)


def _percent(value: float, of: float) -> str:
    return f"{100 * (value / of - 1):+.1f}"
