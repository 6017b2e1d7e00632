"""What a run of PointAcc's model comes to: what must hold, and ours beside the published figures.

The published figures are unverified: they are recalled from the paper, and on which layers and against which
design they were measured is not known here. So they stand beside ours and bind nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pcsparse.hardware.eie_report import Verdict
from pcsparse.hardware.pointacc import LayerRun, PointAccRun
from pcsparse.hardware.pointacc_memory import Traffic
from pcsparse.hardware.pointacc_study import CacheCurve, MapComparison

# what passes for a published "about"
_ABOUT = 0.1


@dataclass(frozen=True)
class Finding:
    """One figure of ours beside a published one.

    Attributes:
        what: was measured.
        ours: our figure.
        low: least of the published ones.
        high: largest of them.
        unit: behind the numbers.
    """

    what: str
    ours: float
    low: float
    high: float
    unit: str = "x"

    @property
    def inside(self) -> bool:
        """Whether ours is among the published figures; a single one is met within 10 %."""
        slack = _ABOUT if self.low == self.high else 0.0
        return self.low * (1 - slack) <= self.ours <= self.high * (1 + slack)

    def __str__(self) -> str:
        published = f"~{self.low:g}" if self.low == self.high else f"{self.low:g}-{self.high:g}"
        where = "inside" if self.inside else "outside"
        return (
            f"{self.what}: {self.ours:.3g}{self.unit}, published {published}{self.unit} (unverified): {where}"
        )


def verdicts(
    runs: Sequence[PointAccRun], maps: Sequence[MapComparison], curves: Sequence[CacheCurve]
) -> list[Verdict]:
    """What holds whatever the network: a false one is a fault of the model.

    Args:
        runs: of networks on chips.
        maps: by merger and hash.
        curves: of the input buffer.
    """
    known = [step.agrees for run in runs for step in run.mapping if step.agrees is not None]
    layers = [layer for run in runs for layer in run.layers]
    steps = [each.offsets * -(-(each.n_in + each.n_out) // each.width) for each in maps]
    plans = [plan for run in runs for plan in run.plans]
    return [
        Verdict(f"mapping: {sum(known)} of {len(known)} results are the engine's", all(known)),
        Verdict(
            f"hash: {sum(each.agrees for each in maps)} of {len(maps)} maps are the engine's",
            all(each.agrees for each in maps),
        ),
        Verdict(
            "merger: as many steps as all keys take, no more",
            [each.merged.steps for each in maps] == steps,
        ),
        Verdict(
            "cache: no layer moves more with it than without",
            all(
                layer.cached.traffic.total <= layer.uncached.total
                for layer in layers
                if layer.cached is not None and layer.uncached is not None
            ),
        ),
        Verdict(
            "cache: a larger one never moves more",
            all(
                before >= after
                for curve in curves
                for line in curve.inputs
                for before, after in pairwise(line)
            ),
        ),
        Verdict(
            "fusion: no chain moves more with it than without",
            all(plan.fused_bytes <= plan.alone_bytes for plan in plans),
        ),
        Verdict(
            "array: no layer computes more than all multipliers can",
            all(layer.matrix.utilisation <= 1 for layer in layers),
        ),
    ]


def findings(run: PointAccRun, maps: Sequence[MapComparison], points: Sequence[PointAccRun]) -> list[Finding]:
    """Ours beside the published figures.

    Args:
        run: of the sparse network.
        maps: of it.
        points: networks with chains of linear layers.
    """
    found = []
    if maps:
        steps, cycles = sum(each.merged.steps for each in maps), sum(each.merged.cycles for each in maps)
        hashed = sum(each.hashed.cycles for each in maps)
        largest = max(maps, key=lambda each: each.n_in)
        found += [
            Finding("kernel maps, hash over merger, keys on the chip", hashed / steps, 1.4, 1.4),
            Finding("kernel maps, hash on the chip over merger from the DRAM", hashed / cycles, 1.4, 1.4),
            Finding(f"storage, hash over merger, {largest.n_in} keys", largest.smaller, 14, 14),
        ]
    with_map = [layer for layer in run.layers if layer.cached is not None]
    if with_map:
        ours, plain, gathered = cache_traffic(with_map)
        found += [
            Finding("input features, uncached over cached", plain.inputs / ours.inputs, 3.5, 6.3),
            Finding("all features, uncached over cached", plain.features / ours.features, 3.5, 6.3),
            Finding(
                "all features, gather and scatter over cached", gathered.features / ours.features, 3.5, 6.3
            ),
        ]
    for each in points:
        alone = sum((group.traffic for plan in each.plans for group in plan.alone), Traffic())
        fused = sum((group.traffic for plan in each.plans for group in plan.groups), Traffic())
        for what, before, after in (
            ("bytes", alone.total, fused.total),
            ("features", alone.features, fused.features),
        ):
            saved = 100 * (1 - after / before)
            found.append(Finding(f"{each.network}, {what} of layers saved by fusion", saved, 33, 64, " %"))
    return found


def cache_traffic(layers: Sequence[LayerRun]) -> tuple[Traffic, Traffic, Traffic]:
    """Of layers with a map or gathered rows: with the cache, without, gathered and scattered."""
    ours = plain = gathered = Traffic()
    for layer in layers:
        if layer.cached is not None and layer.uncached is not None and layer.gathered is not None:
            ours, plain = ours + layer.cached.traffic, plain + layer.uncached
            gathered = gathered + layer.gathered
    return ours, plain, gathered
