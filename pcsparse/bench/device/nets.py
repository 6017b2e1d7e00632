"""Whole networks: checked against float64 twins on the same device, then timed beside the peers."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import pcsparse.nn
from pcsparse.bench.device.cases import DeviceNet
from pcsparse.bench.device.grid_conv import GridTwin
from pcsparse.bench.device.net_checks import Wanted, checks
from pcsparse.bench.device.outcome import OURS, Candidate, DeviceResult, attempt, verified_then_timed
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.device.precision import allowing
from pcsparse.bench.device.scene import DeviceScene, rank
from pcsparse.bench.device.second_net import LibrarySecond
from pcsparse.bench.device.steps import recorded_step, step, step_precision
from pcsparse.bench.map_library import MapLibrary, twin
from pcsparse.bench.unet import LibraryUNet
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.kernels import reference
from pcsparse.kernels.reference.keys import pack_rows
from pcsparse.models import MinkUNet, SecondBackbone, SecondSpec
from pcsparse.sparse_tensor import SparseTensor

_SEED = 20231
_BLOCK = 32


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
    device, training = scene.coords.device, case.trains
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
            form=case.form,
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


def _wanted(case: DeviceNet, scene: DeviceScene) -> Wanted:
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
    with torch.set_grad_enabled(case.trains):
        y = net.train(case.trains)(given())
        out = library.feats(y)
    labels = _labels(_coords(case, library, y, scene), out.shape[1])
    counted = sum(operations)
    if not case.trains:
        return Wanted(state, out, labels, None, {}, counted)
    loss = functional.cross_entropy(out, labels)
    loss.backward()
    return Wanted(state, out.detach(), labels, loss.detach(), net.gradients(), counted)


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


def _ours(case: DeviceNet, scene: DeviceScene, wanted: Wanted) -> Candidate:
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

    if case.trains:

        def gradients() -> dict[str, Tensor]:
            return {n: p.grad for n, p in model.named_parameters() if p.grad is not None and p.dim() == 3}

        if case.form == "recorded training":
            whole = _LastLevel(model) if isinstance(model, SecondBackbone) else model
            check = model.check_inside if isinstance(model, SecondBackbone) else None

            @torch.no_grad()
            def coords() -> Tensor:
                return forward(model, scene.feats).coords

            return recorded_step(case, whole, scene, coords, gradients, wanted, check)
        return step(case, OURS, model, lambda: forward(model, scene.feats), read, gradients, wanted)
    net = copy.deepcopy(model).eval() if case.form == "eager" else pcsparse.nn.fuse(model)
    net = net.to(case.precision.dtype)
    feats = scene.feats.to(case.precision.dtype)
    if case.form == "recorded":
        recorded = _recorded(net, scene.fresh(feats))
        return _inference(case, OURS, lambda: recorded(scene.fresh(feats)), read, wanted)
    return _inference(case, OURS, lambda: forward(net, feats), read, wanted)


def _recorded(net: nn.Module, example: SparseTensor) -> pcsparse.nn.RecordedForward:
    if isinstance(net, SecondBackbone):
        return pcsparse.nn.RecordedForward(_LastLevel(net).eval(), example, check=net.check_inside)
    return pcsparse.nn.RecordedForward(net, example)


class _LastLevel(nn.Module):
    """The last convolution's voxels."""

    def __init__(self, net: SecondBackbone) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.net.levels(x)[-1]


def _peer_maker(
    case: DeviceNet, scene: DeviceScene, wanted: Wanted, library: DevicePeer
) -> Callable[[], Candidate]:
    def make() -> Candidate:
        refusal = library.refuses(backward=case.trains, dtype=case.precision.dtype)
        if refusal is not None:
            return Candidate(library.name, None, refusal=refusal)
        net = _compared(case, library).to(scene.coords.device).load(wanted.state)

        def read(y: Any) -> tuple[Tensor, Tensor]:
            return library.feats(y), _coords(case, library, y, scene)

        if case.trains:
            given = _input(case, library, scene, scene.feats)
            _tune_step(case, net.train(), library, given)
            return step(case, library.name, net, lambda: net(given()), read, net.gradients, wanted)
        if case.form in ("fused", "recorded"):
            with torch.no_grad():
                net.fold()
        net = net.eval().to(case.precision.dtype)
        given = _input(case, library, scene, scene.feats.to(case.precision.dtype))
        library.tune(net, given, lambda x: library.feats(net(x)), warm=False)
        return _inference(case, library.name, lambda: net(given()), read, wanted)

    return make


def _tune_step(
    case: DeviceNet, net: LibraryUNet | LibrarySecond, library: DevicePeer, given: Callable[[], Any]
) -> None:
    # a tuner may switch autocast off around what it calls, so each call brings its own
    def start() -> Any:
        with step_precision(case, library.device):
            return given()

    def forward(x: Any) -> Tensor:
        with step_precision(case, library.device):
            return library.feats(net(x))

    library.tune(net, start, forward, warm=False)


def _inference(
    case: DeviceNet,
    name: str,
    forward: Callable[[], Any],
    read: Callable[[Any], tuple[Tensor, Tensor]],
    wanted: Wanted,
) -> Candidate:
    def run() -> Any:
        with torch.no_grad():
            return forward()

    out, coords = read(run())
    return Candidate(name, run, checks(case.precision, wanted, out, rank(coords)))
