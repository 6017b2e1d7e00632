"""The frozen list of cases that benchmarks, tests and the tuner share.

Tags: `ci` runs in seconds on a small cloud, `paper` is what the table of `docs/benchmarks.md` shows, `stress`
is larger, rarer or slower than either.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import torch

from pcsparse.coords.relation import Relation
from pcsparse.models import MinkUNetSpec

Tag = Literal["ci", "paper", "stress"]
Layer = Literal["submanifold", "strided", "inverse"]
Way = Literal["down", "inverse", "generative"]
Form = Literal["module", "fused"]

VOXEL_SIZE = 0.05
"""Metres; at 5 cm an HDL-64E sweep has about 90,000 voxels."""
REFERENCE_VOXELS, REFERENCE_PAIRS = 94_444, 284_298
"""Of the sweep that the figures to reach were set on: voxels, and pairs of its submanifold 3^3 map."""
REFERENCE_OPERATIONS = 274.4e9
"""Of a forward pass of MinkUNet-18, ratio 1.0, on that sweep."""
SETTLE = 1
"""Untimed runs of a candidate right before each timed one of a map or layer: every library finds its own data
in the caches. A network is larger than any cache and needs none."""


@dataclass(frozen=True)
class Goal:
    """A time to reach on two threads, set on the reference sweep.

    Attributes:
        seconds: there.
        amount: of work there: pairs for maps and layers, operations for networks. On another sweep the goal
            grows with the amount.
    """

    seconds: float
    amount: float

    def scaled(self, amount: float) -> float:
        """Seconds for that much work."""
        return self.seconds * amount / self.amount


@dataclass(frozen=True)
class MapCase:
    """A kernel map, from int coordinates to lists of pairs.

    Attributes:
        name: unique among all cases.
        relation: geometry, of the way from fine to coarse.
        tags: who runs it.
        goal: of the figure to reach, if there is one.
        way: "down" from the cloud, making the coarse coordinates where there is a stride; "inverse" the same
            and the way back to the cloud; "generative" from the coarse coordinates to every voxel that they
            reach, making those.
        shuffled: rows in random order, not ascending by key as voxelisation leaves them.
    """

    name: str
    relation: Relation
    tags: tuple[Tag, ...]
    goal: Goal | None = None
    way: Way = "down"
    shuffled: bool = False


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
        dtype: of features and weights.
        goal: of the figure to reach, if there is one.
    """

    name: str
    layer: Layer
    relation: Relation
    c_in: int
    c_out: int
    backward: bool
    with_map: bool
    tags: tuple[Tag, ...]
    dtype: torch.dtype = torch.float32
    goal: Goal | None = None


@dataclass(frozen=True)
class NetCase:
    """A whole network, all maps included.

    Attributes:
        name: unique among all cases.
        spec: every width.
        training: a training step (forward, loss, backward, SGD), not a forward pass.
        tags: who runs it.
        dtype: float32; bfloat16 means network and features in bfloat16, in training autocast to bfloat16.
        form: "fused" for inference with batch norm and ReLU folded into the convolutions.
        goal: of the figure to reach, if there is one.
    """

    name: str
    spec: MinkUNetSpec
    training: bool
    tags: tuple[Tag, ...]
    dtype: torch.dtype = torch.float32
    form: Form = "module"
    goal: Goal | None = None


_CUBE, _HALVE = Relation.of(3), Relation.of(2, 2)


def _pairs(milliseconds: float | None, amount: float = REFERENCE_PAIRS) -> Goal | None:
    return None if milliseconds is None else Goal(milliseconds / 1e3, amount)


def _submanifold(
    channels: int,
    *tags: Tag,
    goal: float | None = None,
    backward: bool = False,
    dtype: torch.dtype = torch.float32,
) -> ConvCase:
    name = f"submanifold 3^3 C={channels}" + (" forward+backward" if backward else "")
    name += " bf16" if dtype == torch.bfloat16 else ""
    return ConvCase(
        name, "submanifold", _CUBE, channels, channels, backward, False, tags, dtype, _pairs(goal)
    )


MAP_CASES = (
    MapCase("map 3^3", _CUBE, ("ci", "paper"), _pairs(8)),
    # the figure to reach does not say that the rows are sorted
    MapCase("map 3^3 shuffled", _CUBE, ("ci", "paper"), _pairs(8), shuffled=True),
    MapCase("map 3^3 dilation 2", Relation.of(3, 1, 2), ("ci", "paper")),
    MapCase("map 5^3", Relation.of(5), ("ci", "paper")),
    MapCase("map 7^3", Relation.of(7), ("paper",)),
    MapCase("map 2^3 stride 2", _HALVE, ("ci", "paper")),
    MapCase("map 3^3 stride 2", Relation.of(3, 2), ("paper",)),
    MapCase("map 2^3 stride 2 inverse", _HALVE, ("ci", "paper"), way="inverse"),
    MapCase("map 2^3 stride 2 generative", _HALVE, ("ci", "paper"), way="generative"),
)

_BF16 = torch.bfloat16
CONV_CASES = (
    _submanifold(16, "ci", "paper", goal=0.9),
    # one more than a register holds, and a hundred: a cliff at remainders would show
    _submanifold(17, "ci", "paper"),
    _submanifold(32, "ci", "paper", goal=2.5),
    _submanifold(64, "paper", goal=7.5),
    _submanifold(65, "paper"),
    _submanifold(96, "paper", goal=14.5),
    _submanifold(100, "paper"),
    _submanifold(128, "paper", goal=25),
    _submanifold(256, "stress"),
    _submanifold(32, "ci", dtype=_BF16),
    _submanifold(64, "paper", goal=5, dtype=_BF16),
    _submanifold(96, "paper", goal=9, dtype=_BF16),
    _submanifold(128, "paper", goal=15, dtype=_BF16),
    _submanifold(256, "paper", goal=52, dtype=_BF16),
    _submanifold(32, "ci", "paper", goal=8, backward=True),
    _submanifold(64, "paper", goal=22, backward=True),
    _submanifold(128, "stress", backward=True),
    _submanifold(32, "ci", "stress", backward=True, dtype=_BF16),
    ConvCase(
        "strided 2^3 with its map C=32",
        "strided",
        _HALVE,
        32,
        32,
        False,
        True,
        ("ci", "paper"),
        goal=_pairs(4, REFERENCE_VOXELS),
    ),
    ConvCase("strided 2^3 C=32", "strided", _HALVE, 32, 32, False, False, ("paper",)),
    ConvCase("inverse 2^3 C=32", "inverse", _HALVE, 32, 32, False, False, ("ci", "paper")),
    ConvCase("inverse 2^3 C=32 forward+backward", "inverse", _HALVE, 32, 32, True, False, ("ci", "paper")),
)


def _dataflow(kernel: int, channels: int, *tags: Tag, backward: bool = False) -> ConvCase:
    name = f"dataflow {kernel}^3 C={channels}" + (" forward+backward" if backward else "")
    relation = Relation.of(kernel)
    return ConvCase(name, "submanifold", relation, channels, channels, backward, False, tags)


DATAFLOW_CASES = (
    _dataflow(3, 16, "ci", "paper"),
    _dataflow(3, 32, "paper"),
    _dataflow(3, 64, "paper"),
    _dataflow(3, 128, "paper"),
    _dataflow(3, 256, "paper"),
    _dataflow(1, 32, "ci", "paper"),
    _dataflow(1, 256, "paper"),
    _dataflow(3, 32, "ci", "paper", backward=True),
    _dataflow(3, 128, "paper", backward=True),
)
"""What every dataflow runs; a 1^3 map is known without looking, so that nothing is left but the product."""
DATAFLOW_VOXELS = (1_000, 10_000, None)
"""Sizes of cloud for them; None is the whole cloud."""


def _unet18(milliseconds: float, *, training: bool, dtype: torch.dtype, form: Form = "module") -> NetCase:
    name = "MinkUNet-18 x1.0" + (" training step" if training else "") + (" fused" if form == "fused" else "")
    name += " bf16" if dtype == _BF16 else ""
    amount = REFERENCE_OPERATIONS * (3 if training else 1)
    spec, goal = MinkUNetSpec.minkunet18(), Goal(milliseconds / 1e3, amount)
    return NetCase(name, spec, training, ("paper",), dtype, form, goal)


_QUARTER = MinkUNetSpec.minkunet18(width=0.25)
NET_CASES = (
    NetCase("MinkUNet-18 x0.25", _QUARTER, False, ("ci",)),
    NetCase("MinkUNet-18 x0.25 fused", _QUARTER, False, ("ci",), form="fused"),
    NetCase("MinkUNet-18 x0.25 bf16", _QUARTER, False, ("ci",), _BF16),
    _unet18(850, training=False, dtype=torch.float32),
    _unet18(850, training=False, dtype=torch.float32, form="fused"),
    _unet18(500, training=False, dtype=_BF16),
    _unet18(500, training=False, dtype=_BF16, form="fused"),
    NetCase("MinkUNet-14 x1.0", MinkUNetSpec.minkunet14(), False, ("stress",)),
    NetCase("MinkUNet-34 x1.0", MinkUNetSpec.minkunet34(), False, ("stress",)),
    NetCase("MinkUNet-18 x0.25 training step", _QUARTER, True, ("ci",)),
    NetCase("MinkUNet-18 x0.25 training step bf16", _QUARTER, True, ("ci",), _BF16),
    _unet18(2700, training=True, dtype=torch.float32),
    _unet18(1800, training=True, dtype=_BF16),
)

MEMORY_GOAL = 2.8e9
"""Bytes at the peak of a training step of MinkUNet-18 x1.0 on the reference sweep."""
SCALING_VOXELS = tuple(round(10 ** (exponent / 2)) for exponent in range(8, 14))
SCALING_CHANNELS = (16, 32, 64, 128, 256)
"""Sizes at which the cost a pair and channel must not grow: 10^4 to 10^6.5 voxels."""

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
