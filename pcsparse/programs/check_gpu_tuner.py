"""A part of `scripts/check_gpu.py`: the convolution tuner on a small network, which then runs as tuned."""

import copy
import tempfile
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

import torch
from torch import Tensor, nn

from pcsparse.bench.device.scene import DeviceScene
from pcsparse.bench.verify import Check, check_norm
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.conv_call import groups_of
from pcsparse.engine.tune_cache import TuneTable, load_table, store_table
from pcsparse.engine.tuning import GroupTuning
from pcsparse.nn import SparseConv3d, SparseInverseConv3d, SubmanifoldConv3d
from pcsparse.nn.tuning import conv_calls, use_tuning
from pcsparse.programs.bench_device import UNFINISHED
from pcsparse.programs.tune_report import header, report, summary
from pcsparse.sparse_tensor import SparseTensor

# each choice of a pass is compiled, for some seconds
_CHOICES, _RUNS = 4, 5
_SEED = 20231
# differences as shares of a length: four layers round; an unrelated result is 1.4
_LIMITS = {torch.float16: 0.02, torch.float32: 1e-4}


def tuner(scene: DeviceScene, device: torch.device, seconds: float = inf) -> int:
    """Tune all passes of a small network, few choices each, in float16 where the device has it.

    The tuner compares every choice with the float64 twin before it times it. What it chose is stored, read
    again and run: output and gradients must be those of the same network in float64.

    Args:
        scene: the sweep.
        device: where it is.
        seconds: after which no group of layers is begun; the first one always is.

    Returns:
        0; 1 if a choice was wrong or crashed, or the tuned network is wrong; `UNFINISHED` if all is right as
        far as it came.
    """
    begin, dtype = time.perf_counter(), torch.float16 if device.type == "cuda" else torch.float32
    net = _network().to(device)
    draw = torch.Generator().manual_seed(_SEED)
    x = scene.fresh(torch.randn(len(scene.coords), 4, generator=draw).to(device))
    groups = groups_of(conv_calls(net, x, dtype))
    print(f"{len(x):,} voxels, {len(groups)} groups of layers, {dtype}\n{header()}", flush=True)
    found: list[GroupTuning] = []
    for number, group in enumerate(groups, 1):
        if found and time.perf_counter() - begin > seconds:
            print(f"groups from {number} on: not begun, {seconds:g} s were over")
            break
        found.append(tune(group, runs=_RUNS, most=_CHOICES))
        print(report(number, found[-1]), flush=True)
    print(summary(found))
    wrong = [line for group in found for line in _rejected(group)]
    wrong += [
        f"{check.what} of the tuned network is off by {check.error:.3g}, allowed is {check.limit:.3g}"
        for check in _checks(net, x, _stored(found, device), dtype)
        if not check.passed
    ]
    for line in wrong:
        print(f"WRONG: {line}")
    tried = sum(len(tuning.trials) for group in found for tuning in group.passes)
    print(f"{tried} choices compared with the twin, {len(wrong)} wrong")
    if wrong:
        return 1
    return UNFINISHED if len(found) < len(groups) else 0


def _network() -> nn.Sequential:
    """A level, the way down, a level, and the way back: four layers on three maps."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return nn.Sequential(
            SubmanifoldConv3d(4, 32, 3, bias=False),
            SparseConv3d(32, 64, 2, 2, bias=False),
            SubmanifoldConv3d(64, 64, 3, bias=False),
            SparseInverseConv3d(64, 32, 2, 2, bias=False),
        )


def _rejected(group: GroupTuning) -> list[str]:
    """Choices that are wrong or crash; one that needs too much memory is neither."""
    return [
        f"{tuning.of} by {trial.choice.encode()}: {trial.rejected}"
        for tuning in group.passes
        for trial in tuning.trials
        if trial.rejected is not None and not trial.lacked_memory
    ]


def _stored(found: Sequence[GroupTuning], device: torch.device) -> TuneTable:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tuned.json"
        store_table(path, table_of(found, device))
        return load_table(path, device)


def _checks(net: nn.Module, x: SparseTensor, table: TuneTable, dtype: torch.dtype) -> list[Check]:
    found = _results(net, x, table, dtype)
    expected = _results(net, x, None, torch.float64)
    return [check_norm(name, value, expected[name], _LIMITS[dtype]) for name, value in found.items()]


def _results(
    net: nn.Module, x: SparseTensor, table: TuneTable | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The output, and the gradient of each weight."""
    net = use_tuning(copy.deepcopy(net).to(dtype), table)
    out = net(x.replace(x.feats.to(dtype))).feats
    draw = torch.Generator().manual_seed(_SEED)
    # so that no sum over all rows leaves the range of float16
    given = torch.randn(out.shape, generator=draw) * len(out) ** -0.5
    out.backward(given.to(out))
    grads = {f"gradient of {name}": value.grad for name, value in net.named_parameters()}
    return {"output": out.detach(), **{name: grad for name, grad in grads.items() if grad is not None}}
