"""Whole networks: checked against float64 twins on the same device, then timed beside the peers."""

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pcsparse.nn
from pcsparse.bench.device.cases import DeviceNet
from pcsparse.bench.device.grid_conv import GridTwin
from pcsparse.bench.device.outcome import OURS, Candidate, DeviceResult, attempt, verified_then_timed
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.device.precision import Precision, allowing
from pcsparse.bench.device.scene import DeviceScene, rank
from pcsparse.bench.device.second_net import LibrarySecond
from pcsparse.bench.map_library import MapLibrary, twin
from pcsparse.bench.unet import LibraryUNet
from pcsparse.bench.verify import Check, check_norm, check_scale
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.kernels import reference
from pcsparse.kernels.reference.keys import pack_rows
from pcsparse.models import MinkUNet, SecondBackbone, SecondSpec
from pcsparse.sparse_tensor import SparseTensor

_SEED = 20231
_BLOCK = 32
# gradients of 16 bits would fade below their smallest number
_LOSS_SCALE = 1024.0
# lengths of differences as shares: every layer rounds, some forty in a row; an unrelated result is 1.4
_OUTPUT = {"fp16": 0.02, "bf16": 0.08, "tf32": 0.02, "fp32": 1e-4}
_LOSS = {"fp16": 0.01, "bf16": 0.02, "tf32": 0.01, "fp32": 1e-4}
# the gradients of an untrained network nearly cancel: see `bench.nets`
_GRADIENT = {"fp16": 0.5, "bf16": 0.95, "tf32": 0.5, "fp32": 0.02}
_SCALE = 0.35


@dataclass(frozen=True, eq=False)
class _Wanted:
    """Weights, input and what must come out of a case, float64 on the device.

    Attributes:
        state: of our network, with the statistics of this cloud in its norms.
        out: (n, c) in the order of keys.
        labels: (n,) int64 for the loss, in the order of keys.
        loss: of a training step.
        gradients: of every convolution's weights by name, of a training step.
        operations: useful ones of a forward pass.
    """

    state: dict[str, Tensor]
    out: Tensor
    labels: Tensor
    loss: Tensor | None
    gradients: dict[str, Tensor]
    operations: float


def run_net(
    case: DeviceNet,
    scene: DeviceScene,
    peers: Sequence[DevicePeer],
    *,
    runs: int,
    seconds: float,
    events: bool = False,
) -> DeviceResult:
    """A forward pass or a training step from int coordinates on, every library with its own maps."""
    device, training = scene.coords.device, case.form == "training"
    wanted = _wanted(case, scene)
    with allowing(case.precision):
        candidates = [attempt(OURS, lambda: _ours(case, scene, wanted))]
        for library in peers:
            library.allow_tf32(case.precision.tf32)
            candidates.append(attempt(library.name, _peer_maker(case, scene, wanted, library)))
        return verified_then_timed(
            case.name,
            case.precision.name,
            candidates,
            device,
            operations=wanted.operations * (3 if training else 1),
            runs=runs,
            seconds=seconds,
            events=events,
        )


def _model(case: DeviceNet) -> MinkUNet | SecondBackbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return SecondBackbone(case.spec) if isinstance(case.spec, SecondSpec) else MinkUNet(case.spec)


def _twin_map(coords: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    """The way down of a kernel that halves or keeps the level, by plain torch."""
    keys = pack_rows(coords)[0]
    if relation.is_submanifold:
        deltas = relation.key_deltas().to(keys.device)
        return coords, Pairs(*reference.match_keys(keys, keys, deltas))
    cells = torch.div(coords, coords.new_tensor([1, *relation.stride]), rounding_mode="floor").int()
    coarse = torch.unique(cells, dim=0)
    scaled = pack_rows(coarse * coarse.new_tensor([1, *relation.stride]))[0]
    return coarse, Pairs(*reference.match_keys(keys, scaled, relation.key_deltas().to(keys.device)))


def _counting_twin(operations: list[float]) -> MapLibrary:
    convolve = twin().convolve

    def counted(feats: Tensor, weight: Tensor, lists: Any) -> Tensor:
        operations.append(2.0 * lists.pairs.rows_in.numel() * weight.shape[1] * weight.shape[2])
        return convolve(feats, weight, lists)

    return MapLibrary("twin", _twin_map, counted, (torch.float64,))


def _compared(case: DeviceNet, library: Any) -> LibraryUNet | LibrarySecond:
    if isinstance(case.spec, SecondSpec):
        return LibrarySecond(case.spec, library)
    return LibraryUNet(case.spec, library)


def _input(case: DeviceNet, library: Any, scene: DeviceScene, feats: Tensor) -> Callable[[], Any]:
    """A new tensor of the library at every call."""
    if isinstance(case.spec, SecondSpec):
        x, y, z = case.spec.grid
        return lambda: library.grid_tensor(scene.coords, feats, (x, y, z + 1), scene.batch)
    geometry = library.geometry(scene.coords)
    return lambda: library.tensor(geometry, feats)


def _wanted(case: DeviceNet, scene: DeviceScene) -> _Wanted:
    """By the twins; norms take this cloud's statistics first, else activations fade and nothing is seen."""
    operations: list[float] = []
    library = GridTwin(operations) if isinstance(case.spec, SecondSpec) else _counting_twin(operations)
    state = {name: value.to(scene.coords.device) for name, value in _model(case).state_dict().items()}
    net = _compared(case, library).to(scene.coords.device).double()
    net.load({name: value.double() if value.is_floating_point() else value for name, value in state.items()})
    norms = net.norms()
    given = _input(case, library, scene, scene.feats.double())
    for norm in norms.values():
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(given())
    for name, norm in norms.items():
        for what in ("running_mean", "running_var"):
            state[f"{name}.{what}"] = getattr(norm, what).to(state[f"{name}.{what}"])
    operations.clear()
    with torch.set_grad_enabled(case.form == "training"):
        y = net.train(case.form == "training")(given())
        out = library.feats(y)
    labels = _labels(_coords(case, library, y, scene), out.shape[1])
    counted = sum(operations)
    if case.form != "training":
        return _Wanted(state, out, labels, None, {}, counted)
    loss = functional.cross_entropy(out, labels)
    loss.backward()
    return _Wanted(state, out.detach(), labels, loss.detach(), net.gradients(), counted)


def _coords(case: DeviceNet, library: Any, y: Any, scene: DeviceScene) -> Tensor:
    if isinstance(case.spec, SecondSpec):
        found: Tensor = library.grid_coords(y)
        return found
    # a U-Net comes back to the voxels that it was given, in their order
    return scene.coords


def _labels(coords: Tensor, n_classes: int) -> Tensor:
    """Labels (n,) that neighbours share, as in a street: those of single voxels would only cancel."""
    blocks = torch.div(coords[:, 1:].long(), _BLOCK, rounding_mode="floor")
    return (blocks * blocks.new_tensor([1, 3, 7])).sum(dim=1) % n_classes


def _checks(
    precision: Precision,
    wanted: _Wanted,
    out: Tensor,
    order: Tensor,
    loss: Tensor | None = None,
    gradients: dict[str, Tensor] | None = None,
) -> tuple[Check, ...]:
    name = precision.name
    found = [
        check_norm("output", out[order].detach(), wanted.out, _OUTPUT[name] * (1 if loss is None else 4))
    ]
    if loss is not None and wanted.loss is not None:
        found.append(check_norm("loss", loss.detach(), wanted.loss, _LOSS[name]))
    for weight, gradient in (gradients or {}).items():
        expected = wanted.gradients[weight]
        found.append(check_norm(f"gradient of {weight}", gradient / _LOSS_SCALE, expected, _GRADIENT[name]))
        if name != "fp32":
            scale = check_scale(f"scale of gradient of {weight}", gradient / _LOSS_SCALE, expected, _SCALE)
            found.append(scale)
    return tuple(found)


def _ours(case: DeviceNet, scene: DeviceScene, wanted: _Wanted) -> Candidate:
    model = _model(case).to(scene.coords.device)
    model.load_state_dict(wanted.state)

    def read(y: SparseTensor) -> tuple[Tensor, Tensor]:
        return y.feats, y.coords

    def forward(net: Any, feats: Tensor) -> SparseTensor:
        if isinstance(case.spec, SecondSpec):
            # the last convolution's voxels, which all libraries have; the dense map is a copy of them
            last: SparseTensor = net.levels(scene.fresh(feats))[-1]
            return last
        y: SparseTensor = net(scene.fresh(feats))
        return y

    if case.form == "training":

        def gradients() -> dict[str, Tensor]:
            return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.dim() == 3}

        return _step(case, OURS, model, lambda: forward(model, scene.feats), read, gradients, wanted)
    net = copy.deepcopy(model).eval() if case.form == "eager" else pcsparse.nn.fuse(model)
    net = net.to(case.precision.dtype)
    feats = scene.feats.to(case.precision.dtype)
    if case.form == "recorded":
        recorded = _recorded(net, scene.fresh(feats))
        return _inference(case, OURS, lambda: recorded(scene.fresh(feats)), read, wanted)
    return _inference(case, OURS, lambda: forward(net, feats), read, wanted)


def _recorded(net: nn.Module, example: SparseTensor) -> pcsparse.nn.RecordedForward:
    if isinstance(net, SecondBackbone):
        return pcsparse.nn.RecordedForward(_LastLevel(net), example, check=net.check_inside)
    return pcsparse.nn.RecordedForward(net, example)


class _LastLevel(nn.Module):
    """The last convolution's voxels."""

    def __init__(self, net: SecondBackbone) -> None:
        super().__init__()
        self.net = net.eval()
        self.eval()

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.net.levels(x)[-1]


def _peer_maker(
    case: DeviceNet, scene: DeviceScene, wanted: _Wanted, library: DevicePeer
) -> Callable[[], Candidate]:
    def make() -> Candidate:
        refusal = library.refuses(backward=case.form == "training", dtype=case.precision.dtype)
        if refusal is not None:
            return Candidate(library.name, None, refusal=refusal)
        net = _compared(case, library).to(scene.coords.device).load(wanted.state)

        def read(y: Any) -> tuple[Tensor, Tensor]:
            return library.feats(y), _coords(case, library, y, scene)

        if case.form == "training":
            given = _input(case, library, scene, scene.feats)
            return _step(case, library.name, net, lambda: net(given()), read, net.gradients, wanted)
        if case.form in ("fused", "recorded"):
            with torch.no_grad():
                net.fold()
        net = net.eval().to(case.precision.dtype)
        given = _input(case, library, scene, scene.feats.to(case.precision.dtype))
        return _inference(case, library.name, lambda: net(given()), read, wanted)

    return make


def _inference(
    case: DeviceNet,
    name: str,
    forward: Callable[[], Any],
    read: Callable[[Any], tuple[Tensor, Tensor]],
    wanted: _Wanted,
) -> Candidate:
    def run() -> Any:
        with torch.no_grad():
            return forward()

    out, coords = read(run())
    return Candidate(name, run, _checks(case.precision, wanted, out, rank(coords)))


def _step(
    case: DeviceNet,
    name: str,
    net: nn.Module,
    forward: Callable[[], Any],
    read: Callable[[Any], tuple[Tensor, Tensor]],
    gradients: Callable[[], dict[str, Tensor]],
    wanted: _Wanted,
) -> Candidate:
    """Forward, loss, backward; no optimiser, which is torch's in every library."""
    net.train()
    narrow = case.precision.dtype.itemsize == 2
    # rows in the order of keys, and labels in the library's order, found once: finding them is not timed
    found: list[Tensor] = []

    def loss_of() -> tuple[Tensor, Tensor]:
        with _autocast(wanted.labels.device, case.precision.dtype) if narrow else nullcontext():
            out, coords = read(forward())
        if not found:
            order = rank(coords)
            found.extend((order, torch.empty_like(wanted.labels).scatter_(0, order, wanted.labels)))
        return functional.cross_entropy(out.float(), found[1]), out

    def run() -> Tensor:
        net.zero_grad(set_to_none=True)
        loss, _ = loss_of()
        (loss * _LOSS_SCALE).backward()
        return loss

    state = copy.deepcopy(net.state_dict())
    loss, out = loss_of()
    (loss * _LOSS_SCALE).backward()
    checks = _checks(case.precision, wanted, out, found[0], loss, gradients())
    net.load_state_dict(state)
    return Candidate(name, run, checks)


def _autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype)
