"""The study of kernel offsets: whether measured milliseconds fall as the pairs do.

A MinkUNet-18 loses the offsets that matter least, the same in all layers of a map, in steps. Each smaller
network must give what the whole one gives with zeros for weights, bit for bit; only then all are timed, in
turns. What is predicted comes from other numbers of offsets than those that are measured.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.cases import VOXEL_SIZE
from pcsparse.bench.report import write_json
from pcsparse.bench.scene import Scene
from pcsparse.compress.offset_cost import OffsetCost
from pcsparse.compress.offset_groups import Offsets
from pcsparse.compress.offset_measure import measure_offset_cost
from pcsparse.compress.offset_scores import offset_scores
from pcsparse.compress.offsets import choose_offsets, kept_counts, mask_offsets, slice_offsets
from pcsparse.compress.shared_maps import SharedMaps
from pcsparse.errors import RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import fuse
from pcsparse.programs.bench_compress_offsets_table import OffsetRow, offsets_figure, offsets_table
from pcsparse.programs.bench_settings import BenchSettings, at_threads, scene_of
from pcsparse.programs.output_file import output_file
from pcsparse.timing import Timing, environment, time_in_turns
from pcsparse.train.model_file import load_model

_CUBE = 27
KEEP = (_CUBE, 23, 19, 15, 9, 7, 3)
# where layers are timed to predict: all offsets, the fewest, and a share that no row keeps
_BETWEEN = (0.4,)


@dataclass(frozen=True)
class OffsetStudy:
    """What to measure.

    Attributes:
        keep: offsets of each 3^3 kernel; the whole kernel is always among them.
        checkpoint: of the network; None draws a MinkUNet-18.
        width: ratio of that network.
        runs: of each network.
    """

    keep: tuple[int, ...] = KEEP
    checkpoint: Path | None = None
    width: float = 1.0
    runs: int = 20


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, print tables; 0 if every network gave what zeros give, else 1."""
    parser = argparse.ArgumentParser(
        prog="bench_compress.py offsets", description="Drop kernel offsets, verify, then time."
    )
    parser.add_argument("--points", type=Path, help="a point file; default: a real sweep, else simulated")
    parser.add_argument("--voxel-size", type=float, nargs="+", default=[VOXEL_SIZE], help="metres")
    parser.add_argument("--keep", type=int, nargs="+", default=list(KEEP), help=f"offsets of {_CUBE}")
    parser.add_argument("--checkpoint", type=Path, help="a trained network; default: random weights")
    parser.add_argument("--width", type=float, default=1.0, help="of the network with random weights")
    parser.add_argument("--runs", type=int, default=20, help="of each network, in turns")
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--quick", action="store_true", help="a miniature street, width 0.25, 3 runs")
    parser.add_argument("--out", type=output_file, default=Path("bench-out/offsets.json"), help="JSON file")
    given = parser.parse_args(arguments)
    if given.quick:
        # what is asked for by name stays
        parser.set_defaults(width=0.25, runs=3)
        given = parser.parse_args(arguments)
    keep_freed_memory()
    return at_threads(given.threads, lambda: _run(given))


def _run(given: argparse.Namespace) -> int:
    where = environment()
    print(where.header(), flush=True)
    study = OffsetStudy(tuple(given.keep), given.checkpoint, given.width, given.runs)
    results = []
    for size in given.voxel_size:
        scene = scene_of(BenchSettings(quick=given.quick, cloud=given.points, voxel_size=size))
        rows, cost = run_offsets(study, scene)
        wrong = [row.offsets for row in rows if not row.same]
        for offsets in wrong:
            print(f"FAILED  {offsets} offsets: not what the network gives with zeros for weights")
        results.append({"scene": scene.name, "voxels": len(scene.coords), "voxel_size": size,
                        "busy": cost.busy, "rows": [asdict(row) for row in rows]})  # fmt: skip
        if not wrong:
            print(f"\n{offsets_table(rows)}", flush=True)
            figure = given.out.with_name(f"{given.out.stem}-{size:g}.png")
            offsets_figure(rows, f"{scene.name}, voxels of {size:g} m", figure)
            print(f"written: {figure}")
    after = environment()
    content = {"format": 1, "environment": asdict(where), "busy_after": after.busy, "results": results}
    write_json(given.out, content)
    print(f"written: {given.out}")
    if where.busy or after.busy:
        print("the machine was BUSY with other work: do not quote these times")
    return int(any(not row["same"] for result in results for row in result["rows"]))


def run_offsets(study: OffsetStudy, scene: Scene) -> tuple[list[OffsetRow], OffsetCost]:
    """Verify, then time; where one network is wrong, none is timed.

    Raises:
        RangeError: a number of offsets that a 3^3 kernel cannot keep, or fewer than one run.
    """
    model = _network(study)
    x = scene.fresh()
    maps = SharedMaps.of(model, [x])
    print(f"{maps}\n", flush=True)
    scores = offset_scores(model, maps)
    choices = _choices(maps, scores, study.keep)
    cost = measure_offset_cost(model, [x], maps, scores, shares=_BETWEEN, runs=max(study.runs // 3, 1))
    nets = {n: fuse(slice_offsets(model, maps, chosen)) for n, chosen in choices.items()}
    same = {n: _is_masked(nets[n], model, maps, chosen, scene) for n, chosen in choices.items()}
    times = _timed(nets, scene, study.runs) if all(same.values()) else {}
    rows = []
    for n, chosen in choices.items():
        kept = maps.by_layer(chosen)
        products = sum(
            group.pairs_of(kept.get(reader.name, reader.offsets))
            for group in maps.groups
            for reader in group.readers
        )
        rows.append(
            OffsetRow(
                offsets=n,
                same=same[n],
                pairs=products,
                macs=maps.macs(chosen),
                searched=sum(maps.searched_pairs(chosen).values()),
                network_line=cost.total("ms", chosen) - cost.maps_ms(chosen),
                maps_line=cost.maps_ms(chosen),
                **{name: times[name, n] for name in ("network", "maps", "both") if times},
            )
        )
    return rows, cost


def _network(study: OffsetStudy) -> nn.Module:
    if study.checkpoint is not None:
        return load_model(study.checkpoint)[0].eval()
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet18(width=study.width)).eval()


def _choices(
    maps: SharedMaps, scores: Mapping[str, Tensor], keep: Sequence[int]
) -> dict[int, dict[str, Offsets]]:
    """What every map keeps, by the number of offsets, the whole kernel first."""
    free = [group for group in maps.groups if group.free]
    found: dict[int, dict[str, Offsets]] = {_CUBE: {}}
    for n in sorted(keep, reverse=True):
        if not 1 <= n <= _CUBE:
            raise RangeError(f"a 3^3 kernel keeps 1 to {_CUBE} offsets, not {n}")
        counts = kept_counts(maps, {group.name: min(n, len(group.offsets)) for group in free})
        # even numbers are rounded up
        found.setdefault(max(counts.values()), choose_offsets(maps, scores, counts))
    return found


def _is_masked(
    net: nn.Module, model: nn.Module, maps: SharedMaps, chosen: Mapping[str, Offsets], scene: Scene
) -> bool:
    """Whether a network gives bit for bit what the whole one gives with zeros for weights."""
    masked = slice_offsets(model, maps, {})
    mask_offsets(masked, maps, chosen)
    with torch.no_grad():
        return torch.equal(net(scene.fresh()).feats, fuse(masked)(scene.fresh()).feats)


def _timed(nets: Mapping[int, nn.Module], scene: Scene, runs: int) -> dict[tuple[str, int], Timing]:
    """Of each network: with its maps there, of its maps alone, and of both, from coordinates to logits."""
    runners: dict[str, Callable[[], object]] = {}
    with torch.no_grad():
        for n, net in nets.items():
            x = scene.fresh()
            net(x)
            runners |= {
                f"network {n}": partial(net, x),
                f"maps {n}": x.cache.rebuilt,
                f"both {n}": partial(_from_coordinates, net, scene),
            }
        times = time_in_turns(runners, runs=runs)
    return {(name.split()[0], int(name.split()[1])): time for name, time in times.items()}


def _from_coordinates(net: nn.Module, scene: Scene) -> object:
    return net(scene.fresh())
