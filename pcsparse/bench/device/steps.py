"""Training steps, timed from the launch of the forward pass to the last gradient."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pcsparse.nn
from pcsparse.bench.device.cases import DeviceNet
from pcsparse.bench.device.net_checks import LOSS_SCALE, Wanted, checks
from pcsparse.bench.device.outcome import OURS, Candidate
from pcsparse.bench.device.scene import DeviceScene, rank
from pcsparse.sparse_tensor import SparseTensor


def step(
    case: DeviceNet,
    name: str,
    net: nn.Module,
    forward: Callable[[], Any],
    read: Callable[[Any], tuple[Tensor, Tensor]],
    gradients: Callable[[], dict[str, Tensor]],
    wanted: Wanted,
) -> Candidate:
    """Forward, loss, backward; no optimiser, which is torch's in every library."""
    net.train()
    # rows in the order of keys, and labels in the library's order, found once: finding them is not timed
    found: list[Tensor] = []

    def loss_of() -> tuple[Tensor, Tensor]:
        with step_precision(case, wanted.labels.device):
            out, coords = read(forward())
        if not found:
            order = rank(coords)
            found.extend((order, torch.empty_like(wanted.labels).scatter_(0, order, wanted.labels)))
        return functional.cross_entropy(out.float(), found[1]), out

    def run() -> Tensor:
        net.zero_grad(set_to_none=True)
        loss, _ = loss_of()
        (loss * LOSS_SCALE).backward()
        return loss

    state = copy.deepcopy(net.state_dict())
    loss, out = loss_of()
    (loss * LOSS_SCALE).backward()
    found_checks = checks(case.precision, wanted, out, found[0], loss, gradients())
    net.load_state_dict(state)
    return Candidate(name, run, found_checks)


def recorded_step(
    case: DeviceNet,
    model: nn.Module,
    scene: DeviceScene,
    coords: Callable[[], Tensor],
    gradients: Callable[[], dict[str, Tensor]],
    wanted: Wanted,
    check: Callable[[SparseTensor], None] | None,
) -> Candidate:
    """`step` of ours, replayed as one CUDA graph.

    Args:
        case: of form "recorded training".
        model: takes and returns one SparseTensor; in training mode.
        scene: its input.
        coords: (n, 4) of what the network returns, found in a pass of its own.
        gradients: by name of the weight.
        wanted: by the twins.
        check: what the network checks of coordinates, or None.
    """

    def casting() -> AbstractContextManager[Any]:
        return step_precision(case, wanted.labels.device)

    def loss_of(out: SparseTensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(out.feats.float(), labels, ignore_index=-1) * LOSS_SCALE

    state = copy.deepcopy(model.state_dict())
    order = rank(coords())
    labels = torch.empty_like(wanted.labels).scatter_(0, order, wanted.labels)
    model.load_state_dict(state)
    model.train()
    with casting():
        recorded = pcsparse.nn.RecordedTraining(model, loss_of, scene.fresh(scene.feats), labels, check=check)

    def run() -> Tensor:
        with casting():
            return recorded(scene.fresh(scene.feats), labels)

    loss = run() / LOSS_SCALE
    found = checks(case.precision, wanted, None, order, loss, gradients())
    model.load_state_dict(state)
    return Candidate(OURS, run, found)


def step_precision(case: DeviceNet, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to 16 bits, where a step has them; else nothing."""
    narrow = case.precision.dtype.itemsize == 2
    return torch.autocast(device.type, case.precision.dtype) if narrow else nullcontext()
