"""The 2:4 format: of every four weights of a row two are stored, each with its position in two bits.

A group is four consecutive weights along the input channels. Its two kept values stand side by side in
`values`, lower position first. Its nibble in `positions` holds the lower position in bits 0 and 1 and the
other in bits 2 and 3: 2 bits a value, 4 bits a group. Groups fill bytes from the low nibble, so a 32-bit
little-endian word holds the positions of 16 values, the first in its lowest bits.

A group with fewer than two weights that are not 0 is filled up with zeros at its lowest free positions, so
that every matrix has one form only.

Source: Mishra et al., "Accelerating Sparse Deep Neural Networks", 2021 (arXiv 2104.08378), section 3. The
order of bits and the filling are ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.errors import FormatError, RangeError, ShapeError

GROUP = 4
"""Weights of which two are kept."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_KEPT = 2
_TOO_MANY = 255


def _nibble(occupied: int) -> int:
    """Positions of the two values of a group whose non-zero weights are the set bits of `occupied`."""
    used = [i for i in range(GROUP) if occupied >> i & 1]
    free = [i for i in range(GROUP) if not occupied >> i & 1]
    if len(used) > _KEPT:
        return _TOO_MANY
    low, high = sorted((used + free)[:_KEPT])
    return low | high << 2


_NIBBLES = tuple(_nibble(occupied) for occupied in range(1 << GROUP))


@dataclass(frozen=True, eq=False)
class TwoFourMatrix:
    """A weight matrix (n_out, n_in) in the 2:4 format.

    Attributes:
        values: (n_out, n_in / 2) float32, float16 or bfloat16.
        positions: (n_out, ceil(n_in / 8)) uint8, two groups a byte; after an odd last group a nibble of 0.
        n_out: rows.
        n_in: columns, a multiple of 4.
    """

    values: Tensor
    positions: Tensor
    n_out: int
    n_in: int

    @property
    def stored_bytes(self) -> int:
        """Of values and positions: 9/16 of dense float16, 17/32 of dense float32 where n_in divides by 8."""
        return sum(part.numel() * part.element_size() for part in (self.values, self.positions))

    def columns(self) -> Tensor:
        """The column of each stored value, (n_out, n_in / 2) int64."""
        return value_columns(self.positions, self.n_in)

    def unpack(self) -> Tensor:
        """The weights, (n_out, n_in), dtype of `values`: what was packed, but 0.0 for -0.0."""
        dense = self.values.new_zeros(self.n_out, self.n_in)
        return dense.scatter_(1, self.columns(), self.values)

    def to(self, dtype: torch.dtype) -> "TwoFourMatrix":
        """The same with values of another dtype, see `DTYPES`.

        Raises:
            DtypeError: another dtype.
            RangeError: a value is too large for it.
        """
        # packed anew: a value that a narrow dtype rounds to 0 moves to where a filler belongs
        return pack_two_four(self.unpack().to(dtype))

    def checked(self) -> "TwoFourMatrix":
        """This matrix, if its tensors are such a matrix in its one form: for those that come from outside.

        Raises:
            FormatError: what does not hold, with the values.
        """
        for problem in _problems(self):
            raise FormatError(f"no 2:4 matrix: {problem}")
        return self


def value_columns(positions: Tensor, n_in: int) -> Tensor:
    """The column of each stored value, (n_out, n_in / 2) int64; positions as in `TwoFourMatrix`."""
    shifts = torch.arange(0, 8, 2, device=positions.device)
    two_bits = (positions[..., None] >> shifts & (GROUP - 1)).flatten(1)[:, : n_in // 2].long()
    first = torch.arange(n_in // 2, device=positions.device) // _KEPT * GROUP
    return two_bits + first


def pack_two_four(weight: Tensor, mask: Tensor | None = None) -> TwoFourMatrix:
    """Store a matrix in the 2:4 format.

    Args:
        weight: (n_out, n_in) float32, float16 or bfloat16, finite; n_in a multiple of 4.
        mask: (n_out, n_in) bool, the weights to keep; None where those to drop are 0 already.

    Raises:
        ShapeError: no matrix, n_in no multiple of 4, or a mask of another shape.
        DtypeError: another dtype.
        RangeError: a weight that is not finite, or more than two weights of a group that are kept and not 0.
    """
    check_shape("weight", weight, (None, None))
    check_dtype("weight", weight, *DTYPES)
    weight = weight.detach()
    n_out, n_in = weight.shape
    check_groups("weight", n_in)
    n_wrong = int((~weight.isfinite()).sum())
    if n_wrong:
        raise RangeError(f"{n_wrong} of {weight.numel()} weights are not finite; look for what made them so")
    if mask is not None:
        check_shape("mask", mask, (n_out, n_in))
        check_dtype("mask", mask, torch.bool)
        check_same_device(weight=weight, mask=mask)
        weight = weight * mask
    groups = weight.reshape(n_out, n_in // GROUP, GROUP)
    bits = torch.tensor([1, 2, 4, 8], dtype=torch.uint8, device=weight.device)
    occupied = ((groups != 0) * bits).sum(dim=-1, dtype=torch.int64)
    nibbles = torch.tensor(_NIBBLES, dtype=torch.uint8, device=weight.device)[occupied]
    if bool((nibbles == _TOO_MANY).any()):
        row, group = (nibbles == _TOO_MANY).nonzero()[0].tolist()
        raise RangeError(
            f"no 2:4 matrix: row {row} has {int((groups[row, group] != 0).sum())} weights that are not 0 in "
            f"columns {GROUP * group} to {GROUP * group + GROUP - 1}; choose two of each four with "
            "compress.two_four.two_four_mask and give the mask"
        )
    pair = torch.stack([nibbles & 3, nibbles >> 2], dim=-1).long()
    values = groups.gather(2, pair).reshape(n_out, n_in // 2)
    # adding 0 turns -0 into 0
    return TwoFourMatrix(values + 0, _joined(nibbles), n_out, n_in)


def check_groups(name: str, n_in: int) -> None:
    """Raise ShapeError unless `n_in` columns are whole groups of four."""
    if n_in % GROUP:
        raise ShapeError(
            f"{name} has {n_in} columns, no multiple of {GROUP}, so its last group is not whole; keep this "
            "layer dense or pad its inputs with zeros"
        )


def _joined(nibbles: Tensor) -> Tensor:
    """(n, groups) uint8 nibbles as (n, ceil(groups / 2)) bytes."""
    padded = pad(nibbles, (0, nibbles.shape[1] % 2))
    return padded[:, ::2] | padded[:, 1::2] << 4


def _problems(matrix: TwoFourMatrix) -> Iterator[str]:
    """What is wrong with a matrix, one by one; each check relies on those before it."""
    n_out, n_in = matrix.n_out, matrix.n_in
    if n_out < 0 or n_in < 0 or n_in % GROUP:
        yield f"{n_out} rows, {n_in} columns"
    values, positions = matrix.values, matrix.positions
    if values.dtype not in DTYPES or tuple(values.shape) != (n_out, n_in // 2):
        yield f"values should be float ({n_out}, {n_in // 2}), are {values.dtype} {tuple(values.shape)}"
    if positions.dtype != torch.uint8 or tuple(positions.shape) != (n_out, -(-n_in // 8)):
        yield (
            f"positions should be uint8 ({n_out}, {-(-n_in // 8)}), are {positions.dtype} "
            f"{tuple(positions.shape)}"
        )
    n_wrong = int((~values.isfinite()).sum())
    if n_wrong:
        yield f"{n_wrong} of {values.numel()} values are not finite"
    pairs = matrix.columns().view(n_out, n_in // GROUP, _KEPT)
    wrong = (pairs[..., 0] >= pairs[..., 1]).nonzero()
    if len(wrong):
        row, group = wrong[0].tolist()
        yield f"the positions of row {row}, group {group} do not ascend: {(pairs[row, group] % 4).tolist()}"
    # there is one form of each matrix, so packing what this one says must give it back
    again = pack_two_four(matrix.unpack())
    if not torch.equal(again.positions, positions):
        row, byte = (again.positions != positions).nonzero()[0].tolist()
        yield (
            f"byte {byte} of the positions of row {row} is {int(positions[row, byte])}, and the values call "
            f"for {int(again.positions[row, byte])}: a zero stands elsewhere than at the lowest free position"
        )
