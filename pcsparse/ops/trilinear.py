"""Features of a coarse level at the voxels of a fine one, by trilinear interpolation."""

import weakref
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.corner_map import CornerMap
from pcsparse.coords.map_header import edits
from pcsparse.errors import RangeError, ShapeError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.operator import operator


class _Read:
    """That some rows and starts were found to lead to `n` rows; on the starts. A copy has forgotten it."""

    def __init__(self, rows: Tensor | None = None, starts: Tensor | None = None, n: int = -1) -> None:
        self._rows = None if rows is None else weakref.ref(rows)
        self._facts = None if rows is None or starts is None else (n, edits([rows, starts]))

    def covers(self, rows: Tensor, starts: Tensor, n: int) -> bool:
        """Whether these are the ones, unchanged."""
        return self._rows is not None and self._rows() is rows and self._facts == (n, edits([rows, starts]))

    def __reduce__(self) -> tuple[type["_Read"], tuple[()]]:
        return _Read, ()


_UNREAD = _Read()


def _check(name: str, values: Tensor, n: int, rows: Tensor, weights: Tensor, starts: Tensor) -> None:
    # the operators are public: a wrong row would be read from anywhere
    check_shape(name, values, (n, None))
    check_dtype(name, values, torch.float32, torch.float64, torch.float16, torch.bfloat16)
    check_dtype("rows", rows, torch.int32)
    check_dtype("starts", starts, torch.int64)
    check_same_device(**{name: values}, rows=rows, weights=weights, starts=starts)
    check_shape("rows", rows, (None,))
    if starts.dim() != 1 or not len(starts):
        raise ShapeError(f"starts must be (n_out + 1,), got {tuple(starts.shape)}")
    check_shape("weights", weights, (len(rows),))
    known: _Read = getattr(starts, "read", _UNREAD)
    if known.covers(rows, starts, n):
        return
    wrong = (starts.diff() < 0).any() | (starts[0] != 0) | (starts[-1] != len(rows))
    if bool(wrong | ((rows < 0) | (rows >= n)).any()):
        raise RangeError(f"rows and starts must lead to the {n} rows of {name}; take those of a CornerMap")
    if not (rows.is_inference() or starts.is_inference()):
        # those of inference mode do not count their edits
        starts.read = _Read(rows, starts, n)  # type: ignore[attr-defined]


@operator("pcsparse::trilinear")
def _trilinear(feats: Tensor, rows: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    _check("feats", feats, len(feats), rows, weights, starts)
    return backend_of(feats, rows).segment_weighted_sum(feats.contiguous(), rows, weights, starts)


@_trilinear.register_fake
def _trilinear_fake(feats: Tensor, rows: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    return feats.new_empty(starts.shape[0] - 1, feats.shape[1])


@operator("pcsparse::trilinear_grad")
def _trilinear_grad(grad_out: Tensor, rows: Tensor, weights: Tensor, starts: Tensor, n: int) -> Tensor:
    backend = backend_of(grad_out, rows)
    order, by_row = backend.group_rows(rows, n)
    order = order.long()
    # the size is said, so that nobody has to add the counts up first
    outputs = torch.repeat_interleave(starts.diff(), output_size=len(rows))[order].int()
    return backend.segment_weighted_sum(grad_out.contiguous(), outputs, weights[order], by_row)


@_trilinear_grad.register_fake
def _trilinear_grad_fake(grad_out: Tensor, rows: Tensor, weights: Tensor, starts: Tensor, n: int) -> Tensor:
    return grad_out.new_empty(n, grad_out.shape[1])


_trilinear_grad.refuse_autograd()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, rows, weights, starts = inputs
    ctx.save_for_backward(rows, weights, starts)
    ctx.n = feats.shape[0]


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    rows, weights, starts = ctx.saved_tensors
    return _trilinear_grad(grad_out, rows, weights, starts, ctx.n), None, None, None


_trilinear.register_autograd(_backward, setup_context=_setup)


def trilinear(feats: Tensor, corners: CornerMap) -> Tensor:
    """out[i] = sum over the coarse voxels j around fine voxel i of weight[i, j] * feats[j].

    Args:
        feats: (n_in, c) float.
        corners: of the two levels.

    Returns:
        (n_out, c), dtype of `feats`; differentiable in `feats`, with a gradient whose order of addition is
        fixed.

    Raises:
        ShapeError: `feats` does not have n_in rows.
        DeviceError: `feats` and `corners` live on different devices.

    Source: SPVCNN (Tang et al., ECCV 2020, arXiv 2007.16100), section 3.2.
    """
    check_shape("feats", feats, (corners.n_in, None))
    out: Tensor = _trilinear(feats, corners.rows, corners.weights, corners.starts)
    return out
