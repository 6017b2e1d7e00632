"""A linear layer with a 2:4 matrix, for inference: gradients reach inputs and bias, not the weights."""

from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.errors import UnsupportedError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.bias_grad import bias_grad
from pcsparse.ops.operator import operator
from pcsparse.ops.own_precision import linear_as_stored
from pcsparse.packed.two_four import TwoFourMatrix, check_groups


@operator("pcsparse::two_four_linear")
def _two_four_linear(x: Tensor, values: Tensor, positions: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    return backend_of(x, values).two_four_matvec(x, values, positions, bias, relu)


@_two_four_linear.register_fake
def _two_four_linear_fake(
    x: Tensor, values: Tensor, positions: Tensor, bias: Tensor | None, relu: bool
) -> Tensor:
    return x.new_empty(x.shape[0], values.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, values, positions, _, relu = inputs
    ctx.save_for_backward(values, positions, output if relu else None)


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Any, ...]:
    values, positions, out = ctx.saved_tensors
    needs_x, _, _, needs_bias, _ = ctx.needs_input_grad
    gated = grad_out if out is None else torch.where(out > 0, grad_out, 0)
    # rare enough that the dense matrix is made each time
    matrix = TwoFourMatrix(values, positions, values.shape[0], 2 * values.shape[1])
    grad_x = linear_as_stored(gated, matrix.unpack().t()) if needs_x else None
    return grad_x, None, None, bias_grad(gated, gated.dtype) if needs_bias else None, None


_two_four_linear.register_autograd(_backward, setup_context=_setup)


def two_four_linear(
    x: Tensor, matrix: TwoFourMatrix, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """act(x @ W.T + bias) for a 2:4 matrix W, on its packed form.

    Args:
        x: (n_items, n_in) float32; one to sixteen items are what this is for, beyond that dense products
            catch up.
        matrix: (n_out, n_in) with float32 values. That its tensors are such a matrix is not checked again;
            see `TwoFourMatrix.checked`.
        bias: (n_out,) float32, or None.
        relu: whether negative sums become zero.

    Returns:
        (n_items, n_out) float32, the same bits at any number of threads and in any batch.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: something is not float32.
        DeviceError: devices differ.
        UnsupportedError: the values want a gradient, or the device has no kernels.
    """
    check_groups("matrix", matrix.n_in)
    check_shape("x", x, (None, matrix.n_in))
    check_shape("matrix.values", matrix.values, (matrix.n_out, matrix.n_in // 2))
    check_shape("matrix.positions", matrix.positions, (matrix.n_out, -(-matrix.n_in // 8)))
    check_dtype("x", x, torch.float32)
    check_dtype("matrix.values", matrix.values, torch.float32)
    check_dtype("matrix.positions", matrix.positions, torch.uint8)
    tensors = {"x": x, "values": matrix.values, "positions": matrix.positions}
    if bias is not None:
        check_shape("bias", bias, (matrix.n_out,))
        check_dtype("bias", bias, torch.float32)
        tensors["bias"] = bias
    check_same_device(**tensors)
    if matrix.values.requires_grad:
        raise UnsupportedError(
            "the values of a 2:4 matrix have no gradient; train the dense layer with "
            "compress.two_four.attach_sr_ste and pack it afterwards"
        )
    return _two_four_linear(x, matrix.values, matrix.positions, bias, relu)
