"""`pcsparse tune`: the dataflows and sizes by which a network takes least for a new cloud on this machine."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.clouds import file_cloud, simulated_cloud
from pcsparse.checks import usable_device
from pcsparse.coords.build import makes_tables
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.choice import PASSES, Pass
from pcsparse.engine.conv_call import groups_of
from pcsparse.engine.map_tuning import tune_maps
from pcsparse.engine.tune_cache import TuneTable, device_key, store_table
from pcsparse.engine.tuning import GroupTuning
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.models import MinkUNetSpec
from pcsparse.models.minkunet import MinkUNet
from pcsparse.nn.tuning import conv_calls
from pcsparse.programs.output_file import output_file
from pcsparse.programs.tune_report import header, maps_report, report, summary
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import environment
from pcsparse.train.model_file import load_model

SPECS = {
    "minkunet14": MinkUNetSpec.minkunet14,
    "minkunet18": MinkUNetSpec.minkunet18,
    "minkunet34": MinkUNetSpec.minkunet34,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_VOXEL_SIZE = 0.05


@dataclass(frozen=True)
class TuneSettings:
    """What to tune for.

    Attributes:
        model: folder of a run, a .safetensors file, or a name of `SPECS`.
        cloud: a point file; a simulated HDL-64E sweep if None.
        voxel_size: metres; the model's own if None, 0.05 for a name.
        dtype: of features and weights, a name of `DTYPES`.
        device: where the convolutions run, such as cpu or cuda.
        tf32: whether products of float32 may be rounded to tf32, which a GPU's tensor cores take. A tuning is
            for one or the other.
        passes: what will run: "forward" alone for inference, all for training. What is derived of a map is
            shared by all of these.
        runs: of each choice that is not hopeless.
        threads: torch's and the kernels'; torch's choice if None. A tuning is for one number of threads.
        out: the table; what is in it stays.
    """

    model: str = "minkunet18"
    cloud: Path | None = None
    voxel_size: float | None = None
    dtype: str = "float32"
    device: str = "cpu"
    tf32: bool = False
    passes: tuple[Pass, ...] = PASSES
    runs: int = 10
    threads: int | None = None
    out: Path = Path("tuned.json")


def run(settings: TuneSettings) -> int:
    """Tune the layers of each map together, and on a GPU how maps are made; print and store what was found.

    Returns:
        Exit status 0.

    Raises:
        RangeError: a setting has no meaning.
        FormatError: the model, the cloud or the existing table cannot be read.
        UnsupportedError: nothing runs one of the convolutions right.
    """
    keep_freed_memory()
    threads, size = settings.threads, settings.voxel_size
    if settings.dtype not in DTYPES or settings.runs < 1 or (threads is not None and threads < 1):
        raise RangeError(
            f"need dtype of {', '.join(DTYPES)}, runs >= 1 and threads >= 1, got dtype={settings.dtype!r}, "
            f"runs={settings.runs}, threads={threads}"
        )
    if size is not None and not 0 < size < float("inf"):
        raise RangeError(f"a voxel has a positive and finite size in metres, got voxel_size={size:g}")
    device = _device(settings)
    before = torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision
    torch.set_num_threads(before[0] if threads is None else threads)
    torch.backends.cuda.matmul.fp32_precision = "tf32" if settings.tf32 else "ieee"
    try:
        _tune(settings, device)
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cuda.matmul.fp32_precision = before[1]
    return 0


def _device(settings: TuneSettings) -> torch.device:
    """Where to tune, before any work is lost."""
    device = usable_device(settings.device)
    if device.type == "cpu" and (settings.tf32 or settings.dtype == "float16"):
        what = "tf32" if settings.tf32 else "dtype=float16"
        raise UnsupportedError(
            f"{what} is for GPUs: a CPU has no such products (float16 is widened to float32); tune with "
            "--device cuda, or leave it out"
        )
    return device


def _tune(settings: TuneSettings, device: torch.device) -> None:
    print(environment().header())
    model, voxel_size = _model(settings)
    cloud = simulated_cloud() if settings.cloud is None else file_cloud(settings.cloud)
    x, _ = SparseTensor.from_points(cloud.points.to(device), cloud.feats.to(device), voxel_size)
    calls = conv_calls(model, x, DTYPES[settings.dtype])
    groups = groups_of(calls)
    n_convs = sum(len(call.names) for call in calls)
    as_tf32 = settings.tf32 and settings.dtype == "float32"
    print(
        f"{settings.model} on {cloud.name}: {len(x):,} voxels of {voxel_size:g} m, {n_convs} convolutions in "
        f"{len(groups)} groups, {settings.dtype}{' as tf32' if as_tf32 else ''} on {device}\n"
    )
    print(header())
    found: list[GroupTuning] = []
    # an unreadable table must not cost an hour; and what is stored after each group is not lost
    store_table(settings.out, TuneTable.here(device))
    for number, group in enumerate(groups, 1):
        found.append(tune(group, passes=settings.passes, runs=settings.runs))
        store_table(settings.out, table_of(found[-1:], device))
        print(report(number, found[-1]), flush=True)
    print(summary(found))
    # a CPU makes its maps in one way
    if makes_tables(x.coords):
        _tune_maps(settings, x)
    print(f"stored for [{device_key(device)}] in {settings.out}; use it with tuned={settings.out} or --tuned")


def _tune_maps(settings: TuneSettings, x: SparseTensor) -> None:
    tuning = tune_maps(x.coords, runs=settings.runs)
    store_table(settings.out, TuneTable.here(x.coords.device, maps=tuning.rule))
    print(f"\n{maps_report(tuning)}")


def _model(settings: TuneSettings) -> tuple[nn.Module, float]:
    size = settings.voxel_size
    if settings.model in SPECS:
        return MinkUNet(SPECS[settings.model]()), _VOXEL_SIZE if size is None else size
    path = Path(settings.model)
    if not path.exists():
        raise RangeError(f"model {settings.model!r} is no file or folder, nor one of {', '.join(SPECS)}")
    model, card = load_model(path)
    return model, card.voxels.voxel_size if size is None else size


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    parser = argparse.ArgumentParser(
        prog="pcsparse tune",
        description="Find the fastest dataflow and sizes of each convolution of a model on this machine.",
    )
    default = TuneSettings()
    parser.add_argument("--model", default=default.model, help=f"run, .safetensors or {', '.join(SPECS)}")
    parser.add_argument("--cloud", type=Path, help="point file (default: a simulated HDL-64E sweep)")
    parser.add_argument("--voxel-size", type=float, help="metres (default: the model's own, else 0.05)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default=default.dtype)
    parser.add_argument("--device", default=default.device, help="cpu, cuda or cuda:N")
    parser.add_argument("--tf32", action="store_true", help="products of float32 in tf32, on a GPU")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    parser.add_argument("--runs", type=int, default=default.runs)
    parser.add_argument("--threads", type=int, help="default: torch's choice")
    parser.add_argument("--out", type=output_file, default=default.out, help="table, made or added to")
    given = vars(parser.parse_args(arguments))
    return run(TuneSettings(**{**given, "passes": tuple(given["passes"])}))
