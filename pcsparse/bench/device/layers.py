"""Single convolutions: checked against float64 twins on the same device, then timed beside the peers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.device.cases import DeviceLayer
from pcsparse.bench.device.grid_conv import GridConv
from pcsparse.bench.device.outcome import (
    OURS,
    PRODUCT,
    Candidate,
    DeviceResult,
    attempt,
    verified_then_timed,
)
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.device.precision import allowing
from pcsparse.bench.device.scene import DeviceScene, rank
from pcsparse.bench.library import LibraryConv
from pcsparse.bench.ours import Ours
from pcsparse.bench.verify import Check, check_norm
from pcsparse.coords.kernel_map import Pairs
from pcsparse.engine.plan import DATAFLOWS
from pcsparse.engine.problem import ConvProblem
from pcsparse.kernels import reference
from pcsparse.nn import SparseConvTranspose3d
from pcsparse.sparse_tensor import SparseTensor

_SEED = 20231
# differences as shares of a length: a few roundings; an unrelated result is 1.4, one lost offset of 27 0.2.
# spconv adds up to 3,456 products in float16 itself, which is why peers have more room
_OURS_ROUNDINGS, _PEER_ROUNDINGS = 4.0, 24.0
_FLOAT32 = 2e-6
_UNTRIED = ("fetch_on_demand",)
# a huge border, so that a grid has none for these layers
_FAR = 1 << 15


@dataclass(frozen=True, eq=False)
class _Data:
    """What a case computes with, rows in the order of keys, and what must come out, float64.

    Attributes:
        given: (n, 4) coordinates that the tensor starts from.
        feats: (n_in, c) of the layer's input.
        weight: (k, c, c).
        grad_out: (n_out, c).
        expected: result and, of cases with a backward pass, both gradients.
        operations: useful ones.
    """

    given: Tensor
    feats: Tensor
    weight: Tensor
    grad_out: Tensor
    expected: tuple[tuple[str, Tensor], ...]
    operations: float


def run_layer(
    case: DeviceLayer,
    scene: DeviceScene,
    peers: Sequence[DevicePeer],
    *,
    runs: int,
    seconds: float,
    dense: bool = False,
) -> DeviceResult:
    """A convolution beside the peers; `dense` adds a matrix product of the same shape, as a reference."""
    data = _data(case, scene)
    with allowing(case.precision):
        candidates = [attempt(OURS, lambda: _candidate(case, data, Ours()))]
        if not dense:
            candidates += _others(case, data)
        for library in peers:
            library.allow_tf32(case.precision.tf32)
            candidates.append(attempt(library.name, _maker(case, data, library)))
        if dense:
            candidates.append(_product(case, len(scene.coords), scene.coords.device))
        return verified_then_timed(
            case.name,
            case.precision.name,
            candidates,
            scene.coords.device,
            operations=data.operations,
            runs=runs,
            seconds=seconds,
            events=True,
            form=f"C={case.channels}" if dense else case.form,
        )


def _data(case: DeviceLayer, scene: DeviceScene) -> _Data:
    fine, out, pairs = _map(case, scene.coords)
    device, k, c = scene.coords.device, case.kernel**3, case.channels
    generator = torch.Generator().manual_seed(_SEED)

    def draw(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = scale * torch.randn(*shape, generator=generator)
        return drawn.to(device=device, dtype=case.precision.dtype)

    feats, grad_out = draw(len(fine), c), draw(len(out), c)
    weight = draw(k, c, c, scale=(k * c) ** -0.5)
    wide = reference.output_stationary
    lists = (pairs.rows_in, pairs.rows_out, pairs.starts)
    expected = [("out", wide(feats.double(), weight.double(), *lists, len(out), 0))]
    if case.backward:
        back = (pairs.rows_out, pairs.rows_in, pairs.starts)
        turned = weight.double().transpose(1, 2)
        expected += [
            ("grad_feats", wide(grad_out.double(), turned, *back, len(fine), 0)),
            ("grad_weight", reference.output_stationary_grad_weight(
                feats.double(), grad_out.double(), *lists, 0)),
        ]  # fmt: skip
    operations = 2.0 * pairs.rows_in.numel() * c * c * (3 if case.backward else 1)
    return _Data(scene.coords, feats, weight, grad_out, tuple(expected), operations)


def _map(case: DeviceLayer, coords: Tensor) -> tuple[Tensor, Tensor, Pairs]:
    """Input and output coordinates in the order of keys, and pairs, by plain torch."""
    k, s = case.kernel, case.stride
    # far from the borders of a grid, whose coordinates start at 0
    moved = coords + coords.new_tensor([0, *(_FAR // 2,) * 3])
    if case.kind == "generative":
        steps = coords.new_tensor([[0, x, y, z] for x in range(k) for y in range(k) for z in range(k)])
        fine = torch.cat([coords * coords.new_tensor([1, s, s, s]) + step for step in steps])
        rows = torch.arange(len(coords), dtype=torch.int32, device=coords.device)
        # a voxel is reached once where the kernel is the stride
        order = rank(fine)
        place = torch.empty_like(order, dtype=torch.int32)
        place[order] = torch.arange(len(order), dtype=torch.int32, device=coords.device)
        starts = torch.arange(len(steps) + 1, device=coords.device) * len(coords)
        return coords, fine[order], Pairs(rows.repeat(len(steps)), place, starts)
    padding = k // 2 if k % 2 else 0
    conv = GridConv(
        (k,) * 3, (s,) * 3, (padding,) * 3, (_FAR,) * 3, "", submanifold=case.kind == "submanifold"
    )
    coarse, pairs = conv.map(moved)
    coarse = coarse - coarse.new_tensor([0, *(_FAR // 2 // s,) * 3])
    if case.kind == "inverse":
        return coarse, coords, Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)
    return coords, coarse, pairs


def _others(case: DeviceLayer, data: _Data) -> list[Candidate]:
    """Dataflows that the rule takes no layer to, where they would take this one; they are no peers."""
    if case.kind == "generative":
        return []
    k, c, (n_in, n_out) = case.kernel**3, case.channels, (len(data.feats), len(data.grad_out))
    where, symmetric = data.given.device.type, case.kind == "submanifold"
    problem = ConvProblem(where, case.precision.dtype, k, c, c, n_in, n_out, None, symmetric=symmetric)

    def make(title: str, name: str) -> Candidate:
        return replace(_candidate(case, data, Ours(name)), name=title, reference=True)

    titles = {f"{OURS} by {name}": name for name in _UNTRIED if DATAFLOWS[name].refuses(problem) is None}
    return [attempt(title, partial(make, title, name)) for title, name in titles.items()]


def _maker(case: DeviceLayer, data: _Data, library: DevicePeer) -> Callable[[], Candidate]:
    return lambda: _candidate(case, data, library)


def _conv(case: DeviceLayer, library: Ours | DevicePeer) -> LibraryConv:
    c = case.channels
    if case.kind != "generative":
        return library.conv(case.kind, case.kernel, case.stride, c, c, 0)
    if isinstance(library, DevicePeer):
        return library.generative(case.kernel, case.stride, c, c)
    module = SparseConvTranspose3d(c, c, case.kernel, case.stride)
    return LibraryConv(module, module.weight, lambda weight: weight)


def _candidate(case: DeviceLayer, data: _Data, library: Ours | DevicePeer) -> Candidate:
    refusal = library.refuses(backward=case.backward, dtype=case.precision.dtype)
    if refusal is not None:
        return Candidate(library.name, None, refusal=refusal)
    dtype, device = case.precision.dtype, data.given.device
    conv = _conv(case, library).to(device=device, dtype=dtype)
    conv.load(data.weight)
    conv.train(case.backward)
    geometry = library.geometry(data.given)
    # of an inverse layer the input comes from a strided one, with few channels, so that it costs little
    down = None
    if case.kind == "inverse":
        down = (
            library.conv("strided", case.kernel, case.stride, 8, 8, 0).to(device=device, dtype=dtype).eval()
        )
    narrow = torch.zeros(len(data.given), 8, device=device, dtype=dtype)

    def start() -> Any:
        if case.kind == "generative" and isinstance(library, Ours):
            return SparseTensor(data.feats, data.given, stride=case.stride)
        found: Any = library.tensor(geometry, data.feats if down is None else narrow)  # type: ignore[arg-type]
        return found

    if isinstance(library, DevicePeer):
        layers = nn.ModuleList([conv] if down is None else [down, conv]).train(case.backward)
        _tune(case, library, layers, start, data.feats)
    with torch.no_grad():
        x = start() if down is None else down(start())
        scale_in = case.stride if case.kind == "inverse" else 1
        order_in = rank(library.coords(x, scale_in))
        feats = torch.empty_like(data.feats)
        feats[order_in] = data.feats
        x = library.replace(x, feats)
        y = conv(x)
    if not case.with_map:
        library.keep_maps(x, y)
    order_out = _out_order(case, library, y)
    run = _runner(case, data, library, conv, x, start, down, feats, order_out)
    found = run()
    if case.with_map:
        # a map made anew may list its voxels in another order (spconv's does): the one whose order is known
        found = (library.feats(y),)
    return Candidate(library.name, run, _checks(case, data, library, found, order_in, order_out))


def _tune(
    case: DeviceLayer, library: DevicePeer, layers: nn.ModuleList, start: Callable[[], Any], feats: Tensor
) -> None:
    """Let the library choose its settings; `layers`: the one compared and, before it, the way down to it."""

    def forward(x: Any) -> Tensor:
        for down in layers[:-1]:
            x = library.replace(down(x), feats)
        return library.feats(layers[-1](x))

    library.tune(layers, start, forward, warm=not case.with_map)


def _out_order(case: DeviceLayer, library: Ours | DevicePeer, y: Any) -> Tensor:
    if case.kind == "generative":
        # shifted or not, the order is the same
        return rank(y.coords if isinstance(library, Ours) else y.indices)
    return rank(library.coords(y, case.stride if case.kind == "strided" else 1))


def _runner(
    case: DeviceLayer,
    data: _Data,
    library: Ours | DevicePeer,
    conv: LibraryConv,
    x: Any,
    start: Callable[[], Any],
    down: nn.Module | None,
    feats: Tensor,
    order_out: Tensor,
) -> Callable[[], tuple[Tensor, ...]]:
    def fresh() -> Any:
        # the coarse level of an inverse layer is made anew with the map, as in a network
        return start() if down is None else library.replace(down(start()), feats)

    if not case.backward:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (library.feats(conv(fresh() if case.with_map else x)),)

        return forward
    grad_out = torch.empty_like(data.grad_out)
    grad_out[order_out] = data.grad_out
    leaf = feats.detach().requires_grad_()
    given = library.replace(x, leaf)

    def both() -> tuple[Tensor, ...]:
        leaf.grad = None
        conv.zero_grad(set_to_none=True)
        out = library.feats(conv(given))
        out.backward(grad_out)
        assert leaf.grad is not None
        return out.detach(), leaf.grad, conv.grad()

    return both


def _checks(
    case: DeviceLayer,
    data: _Data,
    library: Ours | DevicePeer,
    found: tuple[Tensor, ...],
    order_in: Tensor,
    order_out: Tensor,
) -> tuple[Check, ...]:
    roundings = _OURS_ROUNDINGS if isinstance(library, Ours) else _PEER_ROUNDINGS
    limit = max(roundings * case.precision.rounding, _FLOAT32)
    orders = {"out": order_out, "grad_feats": order_in}
    return tuple(
        check_norm(what, actual[orders[what]] if what in orders else actual, expected, limit)
        for actual, (what, expected) in zip(found, data.expected, strict=True)
    )


def _product(case: DeviceLayer, n: int, device: torch.device) -> Candidate:
    """(n, k c) @ (k c, c): what a library does with every neighbour gathered already."""
    c, k, dtype = case.channels, case.kernel**3, case.precision.dtype
    a, b = (
        torch.zeros(n, k * c, device=device, dtype=dtype),
        torch.zeros(k * c, c, device=device, dtype=dtype),
    )
    # not of zeros, whose products cost less power
    a.normal_()
    b.normal_()
    out = torch.empty(n, c, device=device, dtype=dtype)
    return Candidate(PRODUCT, lambda: torch.mm(a, b, out=out), reference=True)
