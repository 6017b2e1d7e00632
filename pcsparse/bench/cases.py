"""The frozen list of cases that benchmarks, tests and the tuner share.

Tags: `ci` runs in seconds on a small cloud, `paper` is what the table of `docs/benchmarks.md` shows, `stress`
is larger, rarer or slower than either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from pcsparse.coords.relation import Relation
from pcsparse.models import MinkUNetSpec

Tag = Literal["ci", "paper", "stress"]
Layer = Literal["submanifold", "strided", "inverse"]

VOXEL_SIZE = 0.05
"""Metres; at 5 cm an HDL-64E sweep has about 90,000 voxels."""


@dataclass(frozen=True)
class MapCase:
    """A kernel map, from int coordinates to lists of pairs.

    Attributes:
        name: unique among all cases.
        relation: geometry; with a stride the coarse coordinates are made too.
        tags: who runs it.
    """

    name: str
    relation: Relation
    tags: tuple[Tag, ...]


@dataclass(frozen=True)
class ConvCase:
    """One convolution on the finest level of the cloud.

    Attributes:
        name: unique among all cases.
        layer: "submanifold", "strided" (fine to coarse) or "inverse" (coarse to fine).
        relation: geometry of the kernel, of the way from fine to coarse.
        c_in: input channels.
        c_out: output channels.
        backward: forward and both gradients, not forward alone.
        with_map: the map, and for a strided layer its coordinates, are made anew in every run.
        tags: who runs it.
    """

    name: str
    layer: Layer
    relation: Relation
    c_in: int
    c_out: int
    backward: bool
    with_map: bool
    tags: tuple[Tag, ...]


@dataclass(frozen=True)
class NetCase:
    """A whole network, all maps included.

    Attributes:
        name: unique among all cases.
        spec: every width.
        training: a training step (forward, loss, backward, SGD), not a forward pass.
        tags: who runs it.
    """

    name: str
    spec: MinkUNetSpec
    training: bool
    tags: tuple[Tag, ...]


_CUBE, _HALVE = Relation.of(3), Relation.of(2, 2)


def _submanifold(channels: int, *tags: Tag, backward: bool = False) -> ConvCase:
    name = f"submanifold 3^3 C={channels}" + (" forward+backward" if backward else "")
    return ConvCase(name, "submanifold", _CUBE, channels, channels, backward, False, tags)


MAP_CASES = (
    MapCase("map 3^3", _CUBE, ("ci", "paper")),
    MapCase("map 5^3", Relation.of(5), ("ci", "paper")),
    MapCase("map 2^3 stride 2", _HALVE, ("ci", "paper")),
    MapCase("map 3^3 stride 2", Relation.of(3, 2), ("stress",)),
    MapCase("map 7^3", Relation.of(7), ("stress",)),
)

CONV_CASES = (
    _submanifold(16, "ci", "paper"),
    _submanifold(32, "ci", "paper"),
    _submanifold(64, "paper"),
    _submanifold(96, "paper"),
    _submanifold(128, "paper"),
    _submanifold(256, "stress"),
    _submanifold(32, "ci", "paper", backward=True),
    _submanifold(64, "paper", backward=True),
    _submanifold(128, "stress", backward=True),
    ConvCase("strided 2^3 with its map C=32", "strided", _HALVE, 32, 32, False, True, ("ci", "paper")),
    ConvCase("strided 2^3 C=32", "strided", _HALVE, 32, 32, False, False, ("paper",)),
    ConvCase("inverse 2^3 C=32", "inverse", _HALVE, 32, 32, False, False, ("ci", "paper")),
    ConvCase("inverse 2^3 C=32 forward+backward", "inverse", _HALVE, 32, 32, True, False, ("ci", "paper")),
)

NET_CASES = (
    NetCase("MinkUNet-18 x0.25", MinkUNetSpec.minkunet18(width=0.25), False, ("ci",)),
    NetCase("MinkUNet-18 x1.0", MinkUNetSpec.minkunet18(), False, ("paper",)),
    NetCase("MinkUNet-14 x1.0", MinkUNetSpec.minkunet14(), False, ("stress",)),
    NetCase("MinkUNet-34 x1.0", MinkUNetSpec.minkunet34(), False, ("stress",)),
    NetCase("MinkUNet-18 x0.25 training step", MinkUNetSpec.minkunet18(width=0.25), True, ("ci",)),
    NetCase("MinkUNet-18 x1.0 training step", MinkUNetSpec.minkunet18(), True, ("paper",)),
)

GROUPING_CHANNELS = (32, 96)
"""Channels at which the groupings of gather-GEMM-scatter are compared."""
EPSILONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
BATCH_BELOW = (0, 5_000, 10_000, 15_000, 20_000, 25_000)
"""TorchSparse's tuning grid (MLSys 2022), every second S of it."""
TILE_HEIGHTS = (64, 128)
"""Rows a tile of an implicit GEMM: TorchSparse++ uses 64 in grad_weight and 128 in forward."""

Case = TypeVar("Case", bound="_Tagged")


class _Tagged(Protocol):
    @property
    def tags(self) -> tuple[Tag, ...]: ...


def tagged(cases: Iterable[Case], tags: Iterable[Tag]) -> tuple[Case, ...]:
    """The cases that have at least one of `tags`."""
    wanted = set(tags)
    return tuple(case for case in cases if wanted & set(case.tags))
