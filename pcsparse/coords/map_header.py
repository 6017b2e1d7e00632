"""How a kernel map travels through a custom operator: as tensors, the first of which leads back to it."""

import weakref
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape, is_traced
from pcsparse.coords.relation import Relation
from pcsparse.errors import ShapeError

if TYPE_CHECKING:
    from pcsparse.coords.kernel_map import KernelMap

_NUMBERS = 15  # twelve of the relation, n_in, n_out, flags
# how many tensors a map of either form travels as: that many tell the form where values are not at hand
_WITH_TABLE, _WITH_PAIRS = 2, 4


class Owner:
    """A reference to a map that a copy or another process gets empty.

    It is weak, so that no cycle keeps a dropped map alive, unless `keep` says that there is no cycle.

    Attributes:
        edits: of the tensors that the map was made of, see `edits`.
    """

    def __init__(self, kmap: "KernelMap | None" = None, edits: int = 0, *, keep: bool = False) -> None:
        self._kmap: Callable[[], KernelMap | None]
        self._kmap = weakref.ref(kmap) if kmap is not None and not keep else lambda: kmap
        self.edits = edits

    def kernel_map(self) -> "KernelMap | None":
        """The map, unless it was dropped or this is a copy."""
        return self._kmap()

    def __reduce__(self) -> tuple[type["Owner"], tuple[()]]:
        return Owner, ()


def edits(tensors: Sequence[Tensor]) -> int:
    """How often these tensors were changed in place; those of inference mode do not count it."""
    try:
        return sum([tensor._version for tensor in tensors])
    except RuntimeError:
        return sum([0 if tensor.is_inference() else tensor._version for tensor in tensors])


def make_header(kmap: "KernelMap") -> Tensor:
    """(15,) int64 on the host: what a map is beside its lists or its table."""
    # this stands before every map
    bits = kmap.symmetric | kmap.reads_coarse << 1 | kmap.monotone << 2 | kmap.distinct << 3
    numbers = (*kmap.relation.numbers, kmap.n_in, kmap.n_out, bits)
    # entering a context takes as long as making the tensor
    if not torch.is_inference_mode_enabled():
        return _header_of(numbers)
    # autograd saves the header, and it cannot save tensors of inference mode
    with torch.inference_mode(False):
        return _header_of(numbers)


def _header_of(numbers: tuple[int, ...]) -> Tensor:
    if is_traced():
        return torch.tensor(numbers, device="cpu")
    # a fifth of the time, and every map has one
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)


def read_header(tensors: Sequence[Tensor]) -> tuple[Relation, int, int, tuple[bool, bool, bool, bool]]:
    """Relation, n_in, n_out, flags in the order of `KernelMap`, out of what `KernelMap.tensors` gives.

    Raises:
        ShapeError: neither [header, rows_in, rows_out, starts] nor [header, table], or the header has not 15
            numbers.
        DtypeError: the header is not int64.
    """
    if len(tensors) not in (_WITH_TABLE, _WITH_PAIRS):
        raise ShapeError(
            "a kernel map is given as [header, rows_in, rows_out, starts] or [header, table], got "
            f"{len(tensors)} tensors; take those of KernelMap.tensors()"
        )
    check_shape("header", tensors[0], (_NUMBERS,))
    check_dtype("header", tensors[0], torch.int64)
    numbers = tensors[0].tolist()
    kernel_size, stride, dilation, padding = (tuple(numbers[i : i + 3]) for i in (0, 3, 6, 9))
    n_in, n_out, bits = numbers[12:]
    flags = (bool(bits & 1), bool(bits & 2), bool(bits & 4), bool(bits & 8))
    return Relation(kernel_size, stride, dilation, padding), n_in, n_out, flags


def volume_of(tensors: Sequence[Tensor]) -> int:
    """Kernel offsets of the map that travels as `tensors`, by their shapes alone: they may have no values."""
    if len(tensors) == _WITH_TABLE:
        return tensors[1].shape[0]
    # starts has one entry more than there are offsets
    return tensors[3].shape[0] - 1
