"""Layers of heads and searches of neighbours on an accelerator, beside dense and compressed-row products.

A layer of a head runs once a frame, with all else between two runs; so every product takes the next of as
many copies of its weight as leave the caches. A product is shorter than what an event costs; one run is
several.
"""

import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import linear

from pcsparse.bench.device.cases import DeviceHead, DeviceSearch, DeviceTwoFour
from pcsparse.bench.device.outcome import OURS, Candidate, DeviceResult, attempt, verified_then_timed
from pcsparse.bench.verify import Check, check_close, check_equal
from pcsparse.coords.neighbors import ball_query, farthest_points, nearest_neighbours
from pcsparse.hardware.eie_layers import draw_activations, draw_codes, stand_in_codebook
from pcsparse.kernels import reference
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear
from pcsparse.ops.packed_linear import EIELayout, eie_layout, eie_linear
from pcsparse.packed.eie import EIEFormat, pack_eie

BY_ROWS, BY_COLUMNS = OURS, f"{OURS} by columns"
CALLS = 16
"""Products of one run."""
_REHEARSED_SCALE = 16
# four times the 60 MB of cache of an H200
_CACHED, _REHEARSED_CACHED = 240 << 20, 1 << 20
_MOST_COPIES = 256
# rows of a cloud whose neighbours are looked up by the twin, which asks every pair
_CHECKED = 512
_Made = TypeVar("_Made")


def run_head(case: DeviceHead, device: torch.device, *, runs: int, seconds: float) -> DeviceResult:
    """One of EIE's layers, with random weights and activations of the published densities.

    A layout by rows reads every weight; one by columns only those of activations that are not 0.
    """
    scale = 1 if device.type == "cuda" else _REHEARSED_SCALE
    layer = replace(case.layer, n_in=case.layer.n_in // scale, n_out=case.layer.n_out // scale)
    codes, codebook = draw_codes(layer, seed=layer.n_in + layer.n_out), stand_in_codebook()
    x = torch.stack([draw_activations(layer, seed=item) for item in range(case.n_items)]).to(device)
    matrix = pack_eie(codes, codebook, EIEFormat())
    dense = matrix.to_dense().to(device)
    expected = x.double() @ dense.double().T

    def eie(by_rows: bool) -> Candidate:
        def made() -> EIELayout:
            return eie_layout(matrix, device, by_rows=by_rows)

        name = BY_ROWS if by_rows else BY_COLUMNS
        size, columns = made().n_bytes, not by_rows
        return _product(
            name, made, size, lambda one: eie_linear(x, one), expected, layer.n_in, reference=columns
        )

    def torch_dense(dtype: torch.dtype) -> Candidate:
        given, size = x.to(dtype), dense.numel() * dtype.itemsize
        name = f"torch dense {str(dtype).removeprefix('torch.')}"
        return _product(
            name, lambda: dense.to(dtype, copy=True), size, lambda w: linear(given, w), expected, layer.n_in
        )

    def torch_csr() -> Candidate:
        rows = dense.to_sparse_csr()
        starts, columns = rows.crow_indices().int(), rows.col_indices().int()
        # one item is a vector: cuSPARSE has a product for it
        given = x[0] if len(x) == 1 else x.T.contiguous()

        def made() -> Tensor:
            return torch.sparse_csr_tensor(starts.clone(), columns.clone(), rows.values().clone(), rows.shape)

        def product(one: Tensor) -> Tensor:
            return (one @ given).reshape(layer.n_out, -1).T

        return _product("torch CSR int32", made, 8 * len(columns), product, expected, layer.n_in)

    # that compressed rows are in beta state, and unchecked
    warnings.filterwarnings("ignore", "Sparse ", UserWarning)
    candidates = [
        attempt(BY_ROWS, lambda: eie(True)),
        attempt(BY_COLUMNS, lambda: eie(False)),
        attempt("torch dense float32", lambda: torch_dense(torch.float32)),
        attempt("torch dense float16", lambda: torch_dense(torch.float16)),
        attempt("torch CSR int32", torch_csr),
    ]
    return _timed(case.name, candidates, device, runs, seconds, "EIE")


def run_two_four(case: DeviceTwoFour, device: torch.device, *, runs: int, seconds: float) -> DeviceResult:
    """A 2:4 weight: our kernel in float32, what torch dispatches to in 16 bits."""
    side = case.side if device.type == "cuda" else case.side // _REHEARSED_SCALE
    rng, dtype = torch.Generator().manual_seed(side), case.precision.dtype
    weight = torch.randn(side, side, generator=rng) / side**0.5
    largest = weight.view(side, -1, 4).abs().topk(2, dim=2).indices
    kept = torch.zeros(side, side // 4, 4, dtype=torch.bool).scatter_(2, largest, True).view(side, side)
    weight = (weight * kept).to(device, dtype)
    x = torch.randn(case.n_items, side, generator=rng).to(device, dtype)
    expected = x.double() @ weight.double().T
    given = torch.nn.Linear(side, side, bias=False, device=device, dtype=dtype)
    given.weight.data.copy_(weight)

    def sparse() -> Candidate:
        def made() -> SemiStructuredLinear:
            return SemiStructuredLinear.from_linear(given, mode="sparse")

        size = weight.numel() * weight.element_size() * 5 // 8
        return _product(OURS, made, size, lambda one: one(x), expected, side, dtype)

    def dense() -> Candidate:
        size = weight.numel() * weight.element_size()
        return _product("torch dense", weight.clone, size, lambda w: linear(x, w), expected, side, dtype)

    candidates = [attempt(OURS, sparse), attempt("torch dense", dense)]
    return _timed(case.name, candidates, device, runs, seconds, "2:4", case.precision.name)


def run_search(case: DeviceSearch, points: Tensor, *, runs: int, seconds: float) -> DeviceResult:
    """Neighbours of points (n, 3) float32, metres, each library from the points alone.

    The peer is `torch.cdist` with `topk`, in float32: near ties may fall otherwise.
    """
    queries = points if case.n_queries is None else points[:: max(1, len(points) // case.n_queries)]

    def ours() -> Candidate:
        run = _searches(case, points, queries)
        return Candidate(OURS, run, (_agrees(case, points, queries, run()),))

    def pairs() -> Candidate:
        block = max(1, (1 << 31) // (8 * len(points)))

        def run() -> list[Tensor]:
            return [
                torch.cdist(part, points).topk(min(case.k, len(points)), largest=False).indices
                for part in queries.split(block)
            ]

        run()
        return Candidate("torch cdist and topk", run)

    candidates = [attempt(OURS, ours)]
    if case.kind == "nearest":
        candidates.append(attempt("torch cdist and topk", pairs))
    return verified_then_timed(
        case.name, "", candidates, points.device, runs=runs, seconds=seconds, events=True, form=case.kind
    )


def _searches(case: DeviceSearch, points: Tensor, queries: Tensor) -> Callable[[], Tensor]:
    if case.kind == "nearest":
        return lambda: nearest_neighbours(points, case.k, queries=queries).rows
    if case.kind == "ball":
        return lambda: ball_query(points, case.radius, case.k, queries=queries, order="index").rows
    return lambda: farthest_points(points, min(case.k, len(points)))


def _agrees(case: DeviceSearch, points: Tensor, queries: Tensor, found: Tensor) -> Check:
    """The first queries, and samples, are the twin's."""
    starts = points.new_tensor([0, len(points)], dtype=torch.int64)
    if case.kind == "farthest":
        n = min(_CHECKED, len(found))
        first, counts = starts.new_tensor([int(found[0])]), starts.new_tensor([n])
        return check_equal("samples", found[:n], reference.farthest_points(points, starts, first, counts))
    asked = queries[:_CHECKED].contiguous()
    ends = starts.new_tensor([0, len(asked)])
    twin = reference.k_nearest if case.kind == "nearest" else reference.first_in_ball
    rows, _ = twin(points, starts, asked, ends, case.k, case.radius)
    return check_equal("rows", found[: len(asked)], rows)


def _product(
    name: str,
    make: Callable[[], _Made],
    n_bytes: int,
    multiply: Callable[[_Made], Tensor],
    expected: Tensor,
    terms: float,
    dtype: torch.dtype | None = None,
    reference: bool = False,
) -> Candidate:
    """A product checked with one copy of its weight, and run over as many as leave the caches."""
    first = make()
    with torch.no_grad():
        out = multiply(first)
    stored = dtype or (torch.float16 if "float16" in name else torch.float32)
    check = check_close(name, out, expected, terms, stored)
    cached = _CACHED if expected.is_cuda else _REHEARSED_CACHED
    n = min(_MOST_COPIES, cached // max(n_bytes, 1) + 1)
    turns = cycle([first, *(make() for _ in range(n - 1))])

    def run() -> list[Tensor]:
        return [multiply(next(turns)) for _ in range(CALLS)]

    return Candidate(name, run, (check,), reference=reference)


def _timed(
    name: str,
    candidates: list[Candidate],
    device: torch.device,
    runs: int,
    seconds: float,
    form: str,
    precision: str = "fp32",
) -> DeviceResult:
    with torch.no_grad():
        return verified_then_timed(
            name, precision, candidates, device, runs=runs, seconds=seconds, events=True, calls=CALLS,
            note=f"a {CALLS}th of a run of {CALLS} products, each with the next copy of its weight",
            form=form,
        )  # fmt: skip
