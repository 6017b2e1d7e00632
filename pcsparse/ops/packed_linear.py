"""A linear layer with a matrix in EIE's format, for inference: there are no gradients."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.kernels.select import backend_of
from pcsparse.ops.operator import operator, runs_plainly
from pcsparse.packed.eie import EIEMatrix

# layouts number entries, rows and columns in 32 bits, and kernels look up to 64 places beyond
_MOST = 2**31 - 1 - 64


@operator("pcsparse::eie_linear")
def _eie_linear(
    x: Tensor, layout: list[Tensor], by_rows: bool, bias: Tensor | None, n_out: int, relu: bool
) -> Tensor:
    backend = backend_of(x, *layout[:1])
    product = backend.eie_row_linear if by_rows else backend.eie_linear
    return product(x, layout, bias, n_out, relu)


@_eie_linear.register_fake
def _eie_linear_fake(
    x: Tensor, layout: list[Tensor], by_rows: bool, bias: Tensor | None, n_out: int, relu: bool
) -> Tensor:
    return x.new_empty(x.shape[0], n_out)


@dataclass(frozen=True, eq=False)
class EIELayout:
    """A matrix as the kernels of one device read it; from `eie_layout`.

    Attributes:
        tensors: of the device's backend.
        n_out: rows.
        n_in: columns.
        by_rows: whether it is for activations that are seldom 0.
    """

    tensors: list[Tensor]
    n_out: int
    n_in: int
    by_rows: bool = False

    @property
    def n_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors)


def eie_layout(matrix: EIEMatrix, device: torch.device | str = "cpu", *, by_rows: bool = False) -> EIELayout:
    """Lay a matrix out for the kernels of a device.

    The chip's format is made for processing elements that each hold a slice of the rows: to know the row of
    an entry, all entries of its column and slice before it are added up. A CPU has few cores and wide
    registers, so its layout keeps the columns and their order, drops pads and slices, and stores rows in
    bytes counted from a row that 16 entries share: 1.75 bytes a weight where the chip's has 1 and its pads.
    By rows there is nothing to skip, but sums stay in registers. Where registers are wide, 16 rows go
    together and share windows of 64 or 128 columns, 1.5 to 2 bytes a weight; else it is the layout by columns
    with columns for rows, 1.63 bytes a weight.

    Args:
        matrix: in EIE's format.
        device: where the products will run.
        by_rows: a product reads every weight. With wide registers (AVX-512) and codes of half a byte it is
            the faster one unless four fifths of the activations are 0; without, where they are seldom 0.

    Raises:
        DeviceError, UnsupportedError: the device has no kernels.
        FormatError: the tensors are no EIE matrix.
        RangeError: it has about 2^31 entries, rows or columns, or more.
    """
    sizes = {"entries": matrix.n_entries, "rows": matrix.n_out, "columns": matrix.n_in}
    for name, size in sizes.items():
        if size > _MOST:
            raise RangeError(f"a layout has at most {_MOST} {name}, got {size}; split the layer into several")
    matrix = matrix.checked().to("cpu")
    row, column = matrix.entry_rows()
    kept = matrix.codes != 0
    row, column, codes = row[kept], column[kept], matrix.codes[kept]
    outer, inner = (row, column) if by_rows else (column, row)
    n_outer, n_inner = (matrix.n_out, matrix.n_in) if by_rows else (matrix.n_in, matrix.n_out)
    order = torch.argsort(outer * max(n_inner, 1) + inner)
    counts = torch.bincount(outer, minlength=n_outer)
    starts = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    parts = (starts, inner[order].int(), codes[order], matrix.codebook)
    starts, numbers, codes, codebook = (part.to(device) for part in parts)
    backend = backend_of(codes)
    lay_out = backend.eie_row_layout if by_rows else backend.eie_layout
    return EIELayout(lay_out(starts, numbers, codes, codebook, n_inner), matrix.n_out, matrix.n_in, by_rows)


def refuse_gradients(**tensors: Tensor) -> None:
    """Raise UnsupportedError where one of these wants a gradient: products in EIE's format have none."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors.values()):
        raise UnsupportedError(
            "a layer in EIE's format has no gradients; call it under torch.no_grad(), or train the dense "
            "layer with compress.heads.train_centroids and pack it afterwards"
        )


def eie_linear(x: Tensor, layout: EIELayout, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """act(x @ W.T + bias); the columns of activations that are 0 are not read, unless the layout is by rows.

    Args:
        x: (n_items, n_in) float32. One item is what this is for: a second one reads the weights again.
        layout: of the matrix, on the device of `x`.
        bias: (n_out,) float32, or None.
        relu: whether negative sums become 0.

    Returns:
        (n_items, n_out) float32, the same bits at any number of threads and in any batch.

    Raises:
        ShapeError: shapes disagree.
        DtypeError: something is not float32.
        DeviceError: devices differ.
        UnsupportedError: `x` or `bias` wants a gradient, or the device has no kernels.

    Source: EIE (ISCA 2016), section III.
    """
    if not _fits(x, layout, bias):
        _refuse(x, layout, bias)
    if bias is None:
        refuse_gradients(x=x)
    else:
        refuse_gradients(x=x, bias=bias)
    if runs_plainly(x):
        # past the dispatcher, which takes a sixth of the time of a small layer
        backend = backend_of(x)
        product = backend.eie_row_linear if layout.by_rows else backend.eie_linear
        return product(x, layout.tensors, bias, layout.n_out, relu)
    return _eie_linear(x, layout.tensors, layout.by_rows, bias, layout.n_out, relu)


def _fits(x: Tensor, layout: EIELayout, bias: Tensor | None) -> bool:
    """Whether `_refuse` finds nothing: the named checks take as long as a small layer."""
    shape, device = x.shape, x.device
    return (
        len(shape) == 2
        and shape[1] == layout.n_in
        and x.dtype == torch.float32
        and device == layout.tensors[0].device
        and (
            bias is None
            or (bias.shape == (layout.n_out,) and bias.dtype == torch.float32 and bias.device == device)
        )
    )


def _refuse(x: Tensor, layout: EIELayout, bias: Tensor | None) -> None:
    """Raise what is wrong."""
    check_shape("x", x, (None, layout.n_in))
    check_dtype("x", x, torch.float32)
    tensors = {"x": x, "layout": layout.tensors[0]}
    if bias is not None:
        check_shape("bias", bias, (layout.n_out,))
        check_dtype("bias", bias, torch.float32)
        tensors["bias"] = bias
    check_same_device(**tensors)


def eie_chip_linear(
    x: Tensor, matrix: EIEMatrix, bias: Tensor | None = None, *, relu: bool = False
) -> Tensor:
    """The same product straight from the chip's format, entry by entry: to check and to compare.

    Args:
        x: (n_items, n_in) float32.
        matrix: in EIE's format, on the device of `x`: see `EIEMatrix.to`.
        bias: (n_out,) float32, or None.
        relu: whether negative sums become 0.

    Returns:
        (n_items, n_out) float32.

    Raises:
        ShapeError, DtypeError, DeviceError, UnsupportedError: as `eie_linear`.
        FormatError: the tensors are no EIE matrix.
    """
    matrix.checked()
    check_shape("x", x, (None, matrix.n_in))
    check_dtype("x", x, torch.float32)
    tensors = {"x": x, "matrix": matrix.codes}
    if bias is not None:
        check_shape("bias", bias, (matrix.n_out,))
        check_dtype("bias", bias, torch.float32)
        tensors["bias"] = bias
    check_same_device(**tensors)
    refuse_gradients(**tensors)
    return backend_of(x).eie_chip_linear(
        x.detach().contiguous(),
        matrix.codes,
        matrix.skips,
        matrix.pointers,
        matrix.batch_starts,
        matrix.codebook,
        None if bias is None else bias.detach(),
        matrix.n_out,
        relu,
    )
