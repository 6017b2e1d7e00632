"""`pcsparse tune`: which dataflow and sizes run each convolution of a network fastest on this machine."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

import torch
from torch import nn

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.clouds import file_cloud, simulated_cloud
from pcsparse.engine.autotune import Tuning, table_of, tune
from pcsparse.engine.choice import PASSES, Pass
from pcsparse.engine.tune_cache import device_key, store_table
from pcsparse.errors import DeviceError, RangeError, UnsupportedError
from pcsparse.models import MinkUNetSpec
from pcsparse.models.minkunet import MinkUNet
from pcsparse.nn.tuning import ConvCall, conv_calls
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
        passes: "forward" alone is enough for inference.
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
    """Tune, print a table, store the choices that beat the rule.

    Returns:
        Exit status 0.

    Raises:
        RangeError: a setting has no meaning.
        FormatError: the model, the cloud or the existing table cannot be read.
        UnsupportedError: nothing runs one of the convolutions right.
    """
    keep_freed_memory()
    if settings.dtype not in DTYPES or settings.runs < 1 or (settings.threads or 1) < 1:
        raise RangeError(
            f"need dtype of {', '.join(DTYPES)}, runs >= 1 and threads >= 1, got dtype={settings.dtype!r}, "
            f"runs={settings.runs}, threads={settings.threads}"
        )
    device = _device(settings)
    before = torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision
    torch.set_num_threads(settings.threads or before[0])
    torch.backends.cuda.matmul.fp32_precision = "tf32" if settings.tf32 else "ieee"
    try:
        _tune(settings, device)
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cuda.matmul.fp32_precision = before[1]
    return 0


def _device(settings: TuneSettings) -> torch.device:
    """Where to tune, before any work is lost."""
    try:
        device = torch.device(settings.device)
    except RuntimeError as error:
        raise RangeError(f"device={settings.device!r} is none: {error}; use cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device=cuda, but torch sees no CUDA device here; tune with device=cpu")
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
    n_convs = sum(len(call.names) for call in calls)
    as_tf32 = settings.tf32 and settings.dtype == "float32"
    print(
        f"{settings.model} on {cloud.name}: {len(x):,} voxels of {voxel_size:g} m, {n_convs} convolutions, "
        f"{len(calls)} different, {settings.dtype}{' as tf32' if as_tf32 else ''} on {device}\n"
    )
    print(_row("problem", "pass", "rule, ms", "tuned, ms", "gain", "choice"))
    found: list[tuple[ConvCall, Tuning]] = []
    # an unreadable table must not cost an hour; and what is stored after each problem is not lost
    store_table(settings.out, table_of([]))
    for call in calls:
        tunings = tune(call.problem, call.kmap, passes=settings.passes, runs=settings.runs)
        store_table(settings.out, table_of(tunings))
        for tuning in tunings:
            found.append((call, tuning))
            print(_line(call, tuning), flush=True)
    _summary(found)
    print(f"stored for [{device_key()}] in {settings.out}; use it with tuned={settings.out} or --tuned")


def _model(settings: TuneSettings) -> tuple[nn.Module, float]:
    if settings.model in SPECS:
        return MinkUNet(SPECS[settings.model]()), settings.voxel_size or _VOXEL_SIZE
    path = Path(settings.model)
    if not path.exists():
        raise RangeError(f"model {settings.model!r} is no file or folder, nor one of {', '.join(SPECS)}")
    model, card = load_model(path)
    return model, settings.voxel_size or card.voxels.voxel_size


def _row(problem: str, of: str, rule: str, tuned: str, gain: str, choice: str) -> str:
    return f"{problem:<34} {of:<11} {rule:>9} {tuned:>9} {gain:>6}  {choice}"


def _line(call: ConvCall, tuning: Tuning) -> str:
    p = call.problem
    name = f"k={p.k} {p.c_in}->{p.c_out} n={p.n_out} x{len(call.names)}"
    rule = "wrong" if tuning.rule_time is None else f"{1e3 * tuning.rule_time.median:.3f}"
    same = tuning.best == tuning.rule
    line = _row(
        name,
        tuning.of,
        rule,
        f"{1e3 * tuning.best_time.median:.3f}",
        f"{tuning.gain:.2f}",
        "the rule's" if same else tuning.best.encode(),
    )
    rejected = [f"\n  rejected {t.choice.encode()}: {t.rejected}" for t in tuning.trials if t.rejected]
    return line + "".join(rejected)


def _summary(found: Sequence[tuple[ConvCall, Tuning]]) -> None:
    if not found:
        print("the model has no convolutions")
        return
    for of in dict.fromkeys(tuning.of for _, tuning in found):
        part = [(len(call.names), tuning) for call, tuning in found if tuning.of == of]
        mean = exp(sum(log(tuning.gain) for _, tuning in part) / len(part))
        tuned = sum(n * tuning.best_time.median for n, tuning in part)
        rule = sum(n * tuning.best_time.median * tuning.gain for n, tuning in part)
        print(
            f"{of}: geometric mean of the gains {mean:.3f}; all convolutions {1e3 * rule:.1f} ms by rule, "
            f"{1e3 * tuned:.1f} ms tuned"
        )


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
    parser.add_argument("--out", type=Path, default=default.out, help="table, made or added to")
    given = vars(parser.parse_args(arguments))
    return run(TuneSettings(**{**given, "passes": tuple(given["passes"])}))
