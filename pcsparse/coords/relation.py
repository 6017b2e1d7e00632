"""The one equation between a fine and a coarse level, and the order of kernel offsets.

    fine = stride * coarse + dilation * offset[k] - padding

Offsets run in C order: x slowest, z fastest. Odd kernels are centred (-1, 0, 1), even ones run 0 ... k - 1. A
convolution reads fine and writes coarse; its transpose reads coarse and writes fine. No other file knows the
order.
"""

import functools
import itertools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pcsparse.checks import as_triple
from pcsparse.coords.keys import key_delta
from pcsparse.kernels.key_layout import check_offset_count
from pcsparse.types import Triple


@dataclass(frozen=True)
class Relation:
    """How a kernel ties two levels together. All fields are (x, y, z).

    Attributes:
        numbers: all twelve.
    """

    kernel_size: Triple
    stride: Triple = (1, 1, 1)
    dilation: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    numbers: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """What tables of maps ask for again and again."""
        fields = self.kernel_size, self.stride, self.dilation, self.padding
        object.__setattr__(self, "_hash", hash(fields))
        object.__setattr__(self, "numbers", (*fields[0], *fields[1], *fields[2], *fields[3]))

    def __hash__(self) -> int:
        """Of the four fields."""
        return self._hash  # type: ignore[attr-defined, no-any-return]

    @staticmethod
    def of(
        kernel_size: int | Triple,
        stride: int | Triple = 1,
        dilation: int | Triple = 1,
        padding: int | Triple = 0,
    ) -> "Relation":
        """Build from ints or triples; of equal ones there is one object, so that layers find maps by it.

        Raises:
            ShapeError: a field is not one int or three, or is too small.
        """
        relation = Relation(
            as_triple("kernel_size", kernel_size, 1),
            as_triple("stride", stride, 1),
            as_triple("dilation", dilation, 1),
            as_triple("padding", padding, 0),
        )
        return relation if torch.compiler.is_compiling() else _the_one(relation)

    @property
    def volume(self) -> int:
        """Number of offsets, k."""
        return self.kernel_size[0] * self.kernel_size[1] * self.kernel_size[2]

    @property
    def is_submanifold(self) -> bool:
        """Whether both levels are the same grid, so that a layer can keep its coordinates."""
        return self.stride == (1, 1, 1) and self.padding == (0, 0, 0)

    @property
    def is_symmetric(self) -> bool:
        """Whether offset k - 1 - i is minus offset i, so that half of a submanifold map gives the rest."""
        return self.is_submanifold and all(size % 2 == 1 for size in self.kernel_size)

    @property
    def is_partition(self) -> bool:
        """Whether every fine cell belongs to exactly one coarse cell."""
        return self.kernel_size == self.stride and self.dilation == (1, 1, 1)

    @property
    def centre(self) -> int:
        """The position of the offset (0, 0, 0), where a submanifold convolution reads each voxel itself."""
        return _centre(self)

    def offsets(self) -> list[Triple]:
        """The k offsets, in the order of the weights."""
        axes = [range(-(size // 2), size // 2 + 1) if size % 2 else range(size) for size in self.kernel_size]
        return [(x, y, z) for x, y, z in itertools.product(*axes)]

    def steps(self) -> list[Triple]:
        """`dilation * offset[k] - padding` for every k: what is added to `stride * coarse`."""
        return list(_steps(self))

    def key_deltas(self) -> Tensor:
        """`steps()` as differences of keys, (k,) int64.

        Raises:
            RangeError: a step is longer than the guard of the keys, or there are more offsets than a search
                of a map can number; none was listed then.
        """
        return torch.tensor(self.key_steps(), dtype=torch.int64, device="cpu")

    def key_steps(self) -> tuple[int, ...]:
        """`key_deltas()` as numbers.

        Raises:
            RangeError: as there.
        """
        check_offset_count(self.volume)
        return _key_deltas(self)


@functools.lru_cache(maxsize=256)
def _the_one(relation: Relation) -> Relation:
    return relation


# a network asks for those of its few kernels again and again, once a map
@functools.lru_cache(maxsize=64)
def _steps(relation: Relation) -> tuple[Triple, ...]:
    d, p = relation.dilation, relation.padding
    return tuple((d[0] * x - p[0], d[1] * y - p[1], d[2] * z - p[2]) for x, y, z in relation.offsets())


@functools.lru_cache(maxsize=64)
def _centre(relation: Relation) -> int:
    return relation.offsets().index((0, 0, 0))


@functools.lru_cache(maxsize=64)
def _key_deltas(relation: Relation) -> tuple[int, ...]:
    return tuple(key_delta(step) for step in _steps(relation))
