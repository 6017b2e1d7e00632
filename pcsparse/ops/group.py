"""Rows of features by number, with a gradient that does not depend on the threads."""

from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.kernel_map import NO_NEIGHBOUR
from pcsparse.errors import DtypeError, RangeError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.operator import operator


@operator("pcsparse::gather_rows")
def _gather(feats: Tensor, rows: Tensor) -> Tensor:
    # index_select refuses even no rows of no features
    if len(feats) == 0:
        return feats.new_zeros(len(rows), feats.shape[1])
    out = feats.index_select(0, rows.clamp(min=0))
    return out.masked_fill_((rows == NO_NEIGHBOUR)[:, None], 0)


@_gather.register_fake
def _gather_fake(feats: Tensor, rows: Tensor) -> Tensor:
    return feats.new_empty(rows.shape[0], feats.shape[1])


@operator("pcsparse::gather_rows_grad")
def _gather_grad(grad_out: Tensor, rows: Tensor, n: int) -> Tensor:
    backend = backend_of(grad_out, rows)
    # what is no row goes to one beyond the last
    order, starts = backend.group_rows(torch.where(rows == NO_NEIGHBOUR, n, rows), n + 1)
    return backend.segment_sum(grad_out.contiguous(), order, starts[:-1])


@_gather_grad.register_fake
def _gather_grad_fake(grad_out: Tensor, rows: Tensor, n: int) -> Tensor:
    return grad_out.new_empty(n, grad_out.shape[1])


_gather_grad.refuse_autograd()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, rows = inputs
    ctx.save_for_backward(rows)
    ctx.n = feats.shape[0]


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    (rows,) = ctx.saved_tensors
    return _gather_grad(grad_out, rows, ctx.n), None


_gather.register_autograd(_backward, setup_context=_setup)


def gather_rows(feats: Tensor, rows: Tensor) -> Tensor:
    """out[...] = feats[rows[...]], 0 where a row is NO_NEIGHBOUR (-1).

    The gradients of a row are added in the order of `rows`, where torch's own indexing adds them as its
    threads come.

    Args:
        feats: (n, c) float.
        rows: any shape, int32 or int64, -1 to n - 1.

    Returns:
        (*rows.shape, c).

    Raises:
        ShapeError: `feats` is not (n, c).
        DtypeError: `feats` is not float, or `rows` not int32 or int64.
        DeviceError: the two live on different devices.
        RangeError: a row below -1 or beyond the last.
    """
    check_gather(feats, rows)
    return gather_spanned(feats, rows, *row_span(rows))


def check_gather(feats: Tensor, rows: Tensor) -> None:
    """Raise unless `gather_rows` can look at the rows.

    Raises:
        ShapeError, DtypeError, DeviceError: as `gather_rows`.
    """
    check_shape("feats", feats, (None, None))
    if not feats.is_floating_point():
        raise DtypeError(f"feats must be float, got {feats.dtype}; convert it with .to()")
    check_dtype("rows", rows, torch.int32, torch.int64)
    check_same_device(feats=feats, rows=rows)


def row_span(rows: Tensor, *counts: Tensor) -> list[int]:
    """Lowest and highest row, -1 where there is none, and other counts of theirs: one wait for the device."""
    if rows.numel() == 0:
        return [NO_NEIGHBOUR, NO_NEIGHBOUR, *(int(count) for count in counts)]
    found: list[int] = torch.stack([*rows.aminmax(), *counts]).tolist()
    return found


def gather_spanned(feats: Tensor, rows: Tensor, low: int, high: int) -> Tensor:
    """`gather_rows` of checked tensors, whose rows are known to span `low` to `high`.

    Raises:
        RangeError: a row below -1 or beyond the last.
    """
    n = feats.shape[0]
    if low < NO_NEIGHBOUR or high >= n:
        raise RangeError(
            f"rows span {low} to {high}, but feats has {n} rows, from 0 ({NO_NEIGHBOUR} is none); take "
            "the rows of a search among these very points"
        )
    out: Tensor = _gather(feats, rows.reshape(-1).long())
    return out.view(*rows.shape, feats.shape[1])


def group_neighbours(points: Tensor, centres: Tensor, feats: Tensor | None, rows: Tensor) -> Tensor:
    """What PointNet++ feeds to a local network: places relative to the centre, then features.

    Args:
        points: (n, 3) float32, metres.
        centres: (m, 3) float32, metres.
        feats: (n, c) float, or None for none.
        rows: (m, k) int32 or int64, neighbours of each centre; all zeros where it is NO_NEIGHBOUR (-1).

    Returns:
        (m, k, 3 + c), dtype of `feats` or else float32; no gradient goes to the places.

    Raises:
        ShapeError: the shapes disagree.
        DtypeError, DeviceError, RangeError: as `gather_rows`.

    Source: PointNet++ (NeurIPS 2017), section 3.2.
    """
    check_shape("points", points, (None, 3))
    check_shape("rows", rows, (None, None))
    check_shape("centres", centres, (len(rows), 3))
    points = points.detach()
    check_gather(points, rows)
    span = row_span(rows)
    places = gather_spanned(points, rows, *span) - centres.detach()[:, None]
    places.masked_fill_((rows == NO_NEIGHBOUR)[..., None], 0)
    if feats is None:
        return places
    check_shape("feats", feats, (len(points), None))
    check_gather(feats, rows)
    return torch.cat([places.to(feats.dtype), gather_spanned(feats, rows, *span)], dim=2)
