"""Voxel pruning measured: do milliseconds fall in proportion to the pairs that are left out?

A MinkUNet on one sweep convolves a share of the rows in some layers; the others keep their centre, or pass as
in SPS. Each layer is verified against a simulation, as SPS has one in its release; a network that is wrong
prints no number. Weights are random, so that nothing is said about the quality of what is left.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.report import write_json
from pcsparse.bench.scene import Scene
from pcsparse.checks import require_extra
from pcsparse.compress.finetune import recalibrate
from pcsparse.compress.voxels import REST, voxel_layers
from pcsparse.errors import RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn.conv import Rest
from pcsparse.programs.bench_compress_voxels_measure import LayerTimes, Pruned, time_layers, verify
from pcsparse.programs.bench_settings import BenchSettings, at_threads, scene_of
from pcsparse.programs.output_file import output_file
from pcsparse.timing import Timing, environment, time_in_turns
from pcsparse.whole_file import write_whole

SHARES = (1.0, 0.75, 0.5, 0.3, 0.1)
_SEED = 20231
_OURS, _ALL, _NET = "#0b5cad", "#ea580c", "#15803d"


@dataclass(frozen=True)
class VoxelStudy:
    """What to measure.

    Attributes:
        scene: the cloud, its voxel size and the threads; sections and cases play no role.
        width: of the MinkUNet-18.
        shares: of the rows, each in (0, 1]; all rows are measured anyway.
        layers: "all" that can do with some rows, or "conv2" of the residual blocks.
        rest: what becomes of the rows that are not convolved.
        runs: of each candidate.
        out: the JSON file; the picture lies beside it.
    """

    scene: BenchSettings
    width: float = 1.0
    shares: tuple[float, ...] = SHARES
    layers: str = "all"
    rest: Rest = REST
    runs: int = 20
    out: Path = Path("bench-out/compress-voxels.json")


@dataclass(frozen=True)
class ShareRow:
    """A line of the table: sums over the layers, and the network, in milliseconds.

    Attributes:
        share: of the rows.
        pairs: share of the layers' pairs that is left.
        predicted: the layers' time at all rows, each times the share of its pairs.
        convolve, choose, filter: measured, medians.
        network_predicted: that of all rows less what the layers should save.
        network: measured in one piece, maps there, all included.
    """

    share: float
    pairs: float
    predicted: float
    convolve: float
    choose: float
    filter: float
    network_predicted: float
    network: float


def run(study: VoxelStudy) -> int:
    """Verify, measure, print, write JSON and PNG; 1 if a layer is wrong, else 0.

    Raises:
        FormatError: the cloud cannot be read.
        RangeError: a share outside (0, 1].
        UnsupportedError: matplotlib is not installed.
    """
    keep_freed_memory()
    return at_threads(study.scene.threads, lambda: _run(study))


def _run(study: VoxelStudy) -> int:
    where = environment()
    print(where.header())
    scene = scene_of(study.scene)
    model = _network(study.width, scene)
    able = list(voxel_layers(model, study.rest))
    names = [name for name in able if study.layers == "all" or name.endswith("conv2")]
    x = scene.fresh()
    whole = Pruned.of(model, names, 1.0, study.rest)
    shares = sorted(set(study.shares) - {1.0}, reverse=True)
    some = [Pruned.of(model, names, share, study.rest) for share in shares]
    if not some:
        raise RangeError("all rows alone are nothing to compare; name a share below 1")
    failed = [check for each in (whole, *some) for check in verify(each, names, x) if not check.passed]
    for check in failed:
        print(f"FAILED: {check.what} is not as simulated: error {check.error:.2g}, allowed {check.limit:.2g}")
    if failed:
        return 1
    print(
        f"{len(names)} layers of {len(some) + 1} networks agree with a simulation in float64; rest: "
        f"{study.rest}",
        flush=True,
    )
    layers = time_layers(some, names, x, study.runs)
    networks = _time_networks([whole, *some], x, study.runs)
    rows = _rows(layers, networks)
    print(_text(rows))
    after = environment()
    if where.busy or after.busy:
        print("the machine was BUSY with other work: do not quote these times")
    write_json(study.out, _content(study, scene, layers, networks, rows, asdict(where), after.others))
    write_whole(
        study.out.with_suffix(".png"),
        _picture(rows, f"{scene.name}, {where.threads} threads, rest: {study.rest}"),
    )
    print(f"written: {study.out} and {study.out.with_suffix('.png').name}")
    return 0


def _network(width: float, scene: Scene) -> MinkUNet:
    """Seeded; its batch norms hold the statistics of the cloud, or the features would fade on their way."""
    with torch.random.fork_rng():
        torch.manual_seed(_SEED)
        model = MinkUNet(MinkUNetSpec.minkunet18(in_channels=scene.tensor.feats.shape[1], width=width))
    recalibrate(model, [scene.fresh()])
    return model.eval()


@torch.no_grad()
def _time_networks(pruned: Sequence[Pruned], x: Any, runs: int) -> dict[float, Timing]:
    def runner(net: nn.Module) -> Callable[[], object]:
        return lambda: net(x)

    times = time_in_turns({str(each.share): runner(each.fused) for each in pruned}, runs=runs)
    return {each.share: times[str(each.share)] for each in pruned}


def _rows(layers: Sequence[LayerTimes], networks: dict[float, Timing]) -> list[ShareRow]:
    whole, pairs = 1e3 * sum(layer.whole.median for layer in layers), sum(layer.pairs for layer in layers)
    dense = 1e3 * networks[1.0].median
    rows = [ShareRow(1.0, 1.0, whole, whole, 0.0, 0.0, dense, dense)]
    for i, first in enumerate(layers[0].shares):
        parts = [layer.shares[i] for layer in layers]
        predicted = 1e3 * sum(
            layer.whole.median * part.pairs / max(layer.pairs, 1)
            for layer, part in zip(layers, parts, strict=True)
        )
        rows.append(
            ShareRow(
                share=first.share,
                pairs=sum(part.pairs for part in parts) / max(pairs, 1),
                predicted=predicted,
                convolve=1e3 * sum(part.convolve.median for part in parts),
                choose=1e3 * sum(part.choose.median for part in parts),
                filter=1e3 * sum(part.filter.median for part in parts),
                network_predicted=dense - (whole - predicted),
                network=1e3 * networks[first.share].median,
            )
        )
    return rows


def _text(rows: Sequence[ShareRow]) -> str:
    lines = [
        "| share of rows | pairs left | layers predicted, ms | measured | of prediction | choose | filter | "
        "network predicted, ms | measured |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.share:g} | {row.pairs:.1%} | {row.predicted:.2f} | {row.convolve:.2f} | "
        f"{row.convolve / row.predicted:.2f} | {row.choose:.2f} | {row.filter:.2f} | "
        f"{row.network_predicted:.2f} | {row.network:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _content(
    study: VoxelStudy,
    scene: Scene,
    layers: Sequence[LayerTimes],
    networks: dict[float, Timing],
    rows: Sequence[ShareRow],
    where: dict[str, Any],
    others_after: float | None,
) -> dict[str, object]:
    """Seconds in `layers` and `networks`, milliseconds in `rows`."""
    return {
        "format": 2,
        "environment": where,
        "others_after": others_after,
        "cloud": scene.name,
        "voxel_size": scene.voxel_size,
        "n_voxels": len(scene.coords),
        "network": f"MinkUNet-18, width {study.width}",
        "rest": study.rest,
        "runs": study.runs,
        "rows": [asdict(row) for row in rows],
        "layers": [asdict(layer) for layer in layers],
        "networks": [{"share": share, **asdict(time)} for share, time in networks.items()],
    }


def _picture(rows: Sequence[ShareRow], title: str) -> bytes:
    """Time over pairs, both as shares of those of all rows."""
    require_extra("matplotlib", "view")
    import io

    # not pyplot: that would pick a display
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 5.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    pairs, whole, network = [row.pairs for row in rows], rows[0].convolve, rows[0].network
    axes.plot([0, 1], [0, 1], color="#9aa0a6", linestyle="--", label="in proportion to the pairs")
    for values, colour, label in (
        ([row.convolve / whole for row in rows], _OURS, "convolutions"),
        (
            [(row.convolve + row.choose + row.filter) / whole for row in rows],
            _ALL,
            "with the choice of rows and the filter of the map",
        ),
        ([row.network / network for row in rows], _NET, "the whole network"),
    ):
        axes.plot(pairs, values, marker="o", color=colour, label=label)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("pairs left in the layers")
    axes.set_ylabel("time, share of that of all rows")
    axes.set_title(title, fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    parser = argparse.ArgumentParser(
        prog="bench_compress.py voxels",
        description="Voxel pruning of a MinkUNet-18: milliseconds against pairs, share by share.",
    )
    default = VoxelStudy(BenchSettings())
    parser.add_argument(
        "--points",
        type=Path,
        help="a point file; else a real sweep under PCSPARSE_REAL_DATA, else a simulated one",
    )
    parser.add_argument("--voxel-size", type=float, default=default.scene.voxel_size, help="metres")
    parser.add_argument("--width", type=float, default=default.width, help="of the network")
    parser.add_argument("--shares", type=float, nargs="+", default=default.shares, help="of the rows")
    parser.add_argument("--layers", choices=("all", "conv2"), default=default.layers)
    parser.add_argument(
        "--rest", choices=("centre", "pass"), default=default.rest, help="what becomes of the other rows"
    )
    parser.add_argument("--runs", type=int, default=default.runs, help="of each candidate")
    parser.add_argument("--threads", type=int, help="torch's choice if not given")
    parser.add_argument("--out", type=output_file, default=default.out, help="the JSON file")
    parser.add_argument("--quick", action="store_true", help="a miniature street, width 0.25, 3 runs")
    given = parser.parse_args(arguments)
    if given.quick:
        # what is asked for by name stays
        parser.set_defaults(width=0.25, runs=3)
        given = parser.parse_args(arguments)
    scene = BenchSettings(
        quick=given.quick, cloud=given.points, voxel_size=given.voxel_size, threads=given.threads
    )
    return run(
        VoxelStudy(
            scene=scene,
            width=given.width,
            shares=tuple(given.shares),
            layers=given.layers,
            rest=given.rest,
            runs=given.runs,
            out=given.out,
        )
    )
