"""ConvProblem: the checked, hashable fact of one convolution. An unchecked problem cannot exist."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_same_device, is_traced
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.errors import DtypeError, ShapeError

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class ConvProblem:
    """Everything that a choice of dataflow may depend on.

    Attributes:
        device: type of the device, "cpu" or "cuda".
        dtype: of features and weights.
        k: kernel offsets.
        c_in: input channels.
        c_out: output channels.
        n_in: input rows.
        n_out: output rows.
        n_pairs: pairs over all offsets; None for a map that was born as a table, where counting them would
            keep the host waiting.
        symmetric: the map is a submanifold map of an odd kernel.
        distinct: no output occurs twice at an offset of the map or of its transpose.
    """

    device: str
    dtype: torch.dtype
    k: int
    c_in: int
    c_out: int
    n_in: int
    n_out: int
    n_pairs: int | None
    symmetric: bool
    distinct: bool = True

    def transposed(self) -> "ConvProblem":
        """The problem of the input gradient: channels and rows swap."""
        return replace(self, c_in=self.c_out, c_out=self.c_in, n_in=self.n_out, n_out=self.n_in)

    def sizes(self, of: str) -> str:
        """A pass over this problem and what its operands take, for a message."""
        mib = [
            rows * channels * self.dtype.itemsize / 2**20
            for rows, channels in ((self.n_in, self.c_in), (self.n_out, self.c_out))
        ]
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{of} of a convolution of {self.n_in} rows of {self.c_in} {dtype} channels ({mib[0]:.0f} MiB) "
            f"to {self.n_out} rows of {self.c_out} ({mib[1]:.0f} MiB) at {self.k} offsets"
        )

    def is_of(self, feats: Tensor, weight: Tensor, kmap: KernelMap, grad_out: Tensor) -> bool:
        """Whether a gradient is of this problem, whose operands and map were checked when it was made."""
        return (
            feats.shape == (self.n_in, self.c_in)
            and grad_out.shape == (self.n_out, self.c_out)
            and weight.shape == (self.k, self.c_in, self.c_out)
            and feats.dtype == weight.dtype == grad_out.dtype == self.dtype
            and feats.device == weight.device == grad_out.device == kmap.device
            and (kmap.n_in, kmap.n_out, kmap.volume) == (self.n_in, self.n_out, self.k)
            and (kmap.symmetric, kmap.distinct) == (self.symmetric, self.distinct)
        )

    @staticmethod
    def of(
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        *,
        back: bool = False,
    ) -> "ConvProblem":
        """Check the parts of a convolution against each other; once for a map and operands of these sizes.

        Args:
            feats: (n_in, c_in) float.
            weight: (k, c_in, c_out), dtype and device of `feats`.
            kmap: with n_in inputs and k offsets.
            bias: (c_out,) or None.
            residual: (n_out, c_out) or None.
            back: whether the map is gone from its outputs to its inputs, as gradients do; as if `kmap` were
                its transposed one, which need not be made for that.

        Raises:
            ShapeError: the parts disagree on n_in, c_in, c_out or k, or c_in or c_out is 0.
            DtypeError: not a float dtype, or dtypes differ.
            DeviceError: devices differ.
        """
        if is_traced():
            return _checked(feats, weight, kmap, bias, residual, back)
        # all that is read of the operands
        facts = [(t.shape, t.dtype, t.device) if t is not None else None for t in (bias, residual)]
        key = (
            feats.shape,
            weight.shape,
            feats.dtype,
            weight.dtype,
            feats.device,
            weight.device,
            back,
            *facts,
        )
        known: dict[Any, ConvProblem] = kmap.kept("problems", dict)
        if key not in known:
            known[key] = _checked(feats, weight, kmap, bias, residual, back)
        return known[key]


def _checked(
    feats: Tensor, weight: Tensor, kmap: KernelMap, bias: Tensor | None, residual: Tensor | None, back: bool
) -> ConvProblem:
    if feats.dim() != 2 or weight.dim() != 3:
        raise ShapeError(
            f"feats must be (n_in, c_in) and weight (k, c_in, c_out), got {tuple(feats.shape)} and "
            f"{tuple(weight.shape)}"
        )
    check_dtype("feats", feats, *_FLOATS)
    given = {"feats": feats, "weight": weight, "bias": bias, "residual": residual}
    parts = {name: part for name, part in given.items() if part is not None}
    for name, part in parts.items():
        if part.dtype != feats.dtype:
            raise DtypeError(f"{name} is {part.dtype}, feats is {feats.dtype}; use one dtype, or autocast")
    check_same_device(**parts)
    # features without values have no kernels that could read a map elsewhere
    if kmap.device != feats.device and not feats.is_meta:
        check_same_device(feats=feats, kernel_map=kmap.tensors()[1])
    (k, c_in, c_out), (n_in, channels) = weight.shape, feats.shape
    map_in, map_out = (kmap.n_out, kmap.n_in) if back else (kmap.n_in, kmap.n_out)
    if channels != c_in or c_in == 0 or c_out == 0:
        raise ShapeError(f"weight {tuple(weight.shape)} does not take feats with {channels} channels")
    if n_in != map_in or k != kmap.volume:
        raise ShapeError(
            f"the kernel map has {map_in} inputs and {kmap.volume} offsets, but feats has {n_in} rows "
            f"and weight {k} offsets; build the map from the coordinates of these features"
        )
    if bias is not None and bias.shape != (c_out,):
        raise ShapeError(f"bias must have shape ({c_out},), got {tuple(bias.shape)}")
    if residual is not None and residual.shape != (map_out, c_out):
        raise ShapeError(
            f"residual must have shape {(map_out, c_out)}, that of the output, got {tuple(residual.shape)}"
        )
    return ConvProblem(
        device=feats.device.type,
        dtype=feats.dtype,
        k=k,
        c_in=c_in,
        c_out=c_out,
        n_in=n_in,
        n_out=map_out,
        n_pairs=None if kmap.of_table else kmap.n_pairs,
        symmetric=kmap.symmetric,
        distinct=kmap.distinct,
    )
