"""The frozen list of cases that are measured on an accelerator.

Time on one is short, so the cases of a list that say most come first, and what is added goes to its end.

Tags: `quick` runs in seconds, `paper` is what the table of `docs/benchmarks.md` shows.
"""

from dataclasses import dataclass
from math import inf
from typing import Literal

from pcsparse.bench.device.precision import BF16, FP16, FP32, TF32, Precision
from pcsparse.coords.relation import Relation
from pcsparse.hardware.eie_layers import EIE_LAYERS, EIELayer
from pcsparse.models import MinkUNetSpec, SecondSpec

Tag = Literal["quick", "paper"]
Kind = Literal["submanifold", "strided", "inverse", "generative"]
Search = Literal["nearest", "ball", "farthest"]
Form = Literal["fused", "recorded", "eager", "training", "recorded training"]

CUBE_SIDE = 37
"""A cube of about 50,000 voxels, the size of spconv-triton's benchmark."""
LAUNCH_SIDE = 8
"""A cube so small that a layer on it costs what it costs to launch it."""


@dataclass(frozen=True)
class DeviceLayer:
    """One convolution.

    Attributes:
        name: unique among all cases, but for the precision.
        kind: "submanifold", "strided" (fine to coarse), "inverse" (back), or "generative" (transposed, from
            the cloud to every voxel that it reaches).
        kernel: edge.
        stride: of the way from fine to coarse.
        channels: in and out.
        precision: of features and weights.
        backward: forward and both gradients, not forward alone.
        with_map: the map is made anew in every run.
        tags: who runs it.
    """

    name: str
    kind: Kind
    kernel: int
    stride: int
    channels: int
    precision: Precision
    backward: bool = False
    with_map: bool = False
    tags: tuple[Tag, ...] = ("paper",)

    @property
    def form(self) -> str:
        """What a mean over several layers may be taken of."""
        return "with its map" if self.with_map else "forward+backward" if self.backward else "forward"


@dataclass(frozen=True)
class DeviceMap:
    """A kernel map, from int coordinates alone."""

    name: str
    relation: Relation
    tags: tuple[Tag, ...] = ("paper",)


@dataclass(frozen=True)
class DeviceNet:
    """A whole network with all its maps, or a training step: forward, loss, backward.

    Attributes:
        name: unique among all cases, but for the precision.
        spec: every width.
        form: "fused" (batch norm and ReLU folded), "recorded" (the same, replayed as a CUDA graph by the
            package; peers run it fused), "eager", "training" (16 bits by autocast), or "recorded
            training" (the same, replayed as a CUDA graph by the package; peers run it launch by launch).
        precision: of features and weights.
        batch: clouds.
        tags: who runs it.
    """

    name: str
    spec: MinkUNetSpec | SecondSpec
    form: Form
    precision: Precision
    batch: int = 1
    tags: tuple[Tag, ...] = ("paper",)

    @property
    def trains(self) -> bool:
        """Whether it is a training step."""
        return self.form in ("training", "recorded training")


@dataclass(frozen=True)
class DeviceHead:
    """One of EIE's layers at a batch."""

    name: str
    layer: EIELayer
    n_items: int
    tags: tuple[Tag, ...] = ("paper",)


@dataclass(frozen=True)
class DeviceTwoFour:
    """A square 2:4 weight at a batch; see `DeviceHead`."""

    name: str
    side: int
    n_items: int
    precision: Precision
    tags: tuple[Tag, ...] = ("paper",)


@dataclass(frozen=True)
class DeviceSearch:
    """Neighbours of points.

    Attributes:
        name: unique among all cases.
        kind: "nearest", "ball" (the first k within the radius), or "farthest" (k samples).
        k: how many.
        radius: metres.
        n_queries: evenly spread among the points; None for all of them.
        tags: who runs it.
    """

    name: str
    kind: Search
    k: int
    radius: float = inf
    n_queries: int | None = None
    tags: tuple[Tag, ...] = ("paper",)


def _cube(channels: int, precision: Precision, *tags: Tag, backward: bool = False) -> DeviceLayer:
    name = f"submanifold 3^3 C={channels}" + (" forward+backward" if backward else "")
    return DeviceLayer(name, "submanifold", 3, 1, channels, precision, backward, tags=tags or ("paper",))


def _with_map(
    name: str,
    kind: Kind,
    kernel: int,
    stride: int,
    *tags: Tag,
    channels: int = 64,
    precision: Precision = FP16,
) -> DeviceLayer:
    given: tuple[Tag, ...] = tags or ("paper",)
    name = f"{name} with its map C={channels}"
    return DeviceLayer(name, kind, kernel, stride, channels, precision, with_map=True, tags=given)


_MAPPED: tuple[tuple[str, Kind, int, int], ...] = (
    ("submanifold 3^3", "submanifold", 3, 1),
    ("strided 3^3", "strided", 3, 2),
    ("inverse 2^3", "inverse", 2, 2),
    ("generative 2^3", "generative", 2, 2),
)
_PAPER: tuple[Tag, ...] = ("paper",)
_ALWAYS: tuple[Tag, ...] = ("quick", "paper")
LAYERS = (
    _cube(32, FP16, "quick", "paper"),
    _cube(16, FP16),
    _cube(64, FP16, "quick", "paper"),
    _cube(96, FP16),
    _cube(128, FP16),
    _cube(256, FP16),
    _cube(64, TF32),
    _cube(256, TF32),
    _cube(128, BF16, "quick", "paper"),
    _cube(64, FP32),
    _cube(32, FP16, "quick", "paper", backward=True),
    _cube(64, FP16, backward=True),
    _cube(128, FP16, backward=True),
    _cube(256, FP16, backward=True),
    _cube(64, TF32, backward=True),
    _with_map("submanifold 3^3", "submanifold", 3, 1, "quick", "paper"),
    _with_map("strided 2^3", "strided", 2, 2, "quick", "paper"),
    _with_map("strided 3^3", "strided", 3, 2),
    _with_map("inverse 2^3", "inverse", 2, 2, "quick", "paper"),
    _with_map("generative 2^3", "generative", 2, 2),
    *(_cube(channels, BF16, backward=True) for channels in (64, 128)),
    *(
        _with_map(*layer, channels=channels, precision=precision)
        for channels, precision in ((256, FP16), (64, TF32), (256, TF32), (64, BF16))
        for layer in _MAPPED
        # a submanifold layer of many channels hides its map
        if channels == 64 or layer[1] != "submanifold"
    ),
)
MAPS = (
    DeviceMap("map 3^3", Relation.of(3), ("quick", "paper")),
    DeviceMap("map 2^3 stride 2", Relation.of(2, 2), ("quick", "paper")),
    DeviceMap("map 3^3 stride 2", Relation.of(3, 2)),
    DeviceMap("map 5^3", Relation.of(5)),
)
DENSE = tuple(
    DeviceLayer(
        f"submanifold 3^3 C={channels} on a full cube", "submanifold", 3, 1, channels, precision, tags=tags
    )
    for channels, precision, tags in (
        (256, FP16, _ALWAYS),
        (256, BF16, _PAPER),
        (256, TF32, _PAPER),
        (128, FP16, _PAPER),
    )
)
LAUNCHES = tuple(
    DeviceLayer(
        f"launch: submanifold 3^3 C=32{way}", "submanifold", 3, 1, 32, FP16, backward, tags=("quick", "paper")
    )
    for way, backward in (("", False), (" forward+backward", True))
)

_UNET, _HALF = MinkUNetSpec.minkunet18(), MinkUNetSpec.minkunet18(width=0.5)
_SECOND = SecondSpec.residual_voxel()
NETS = (
    DeviceNet("MinkUNet-18 x1.0 fused", _UNET, "fused", FP16, tags=("quick", "paper")),
    DeviceNet("MinkUNet-18 x0.5 fused", _HALF, "fused", FP16),
    DeviceNet("CenterPoint backbone fused", _SECOND, "fused", FP16, tags=("quick", "paper")),
    DeviceNet("MinkUNet-18 x1.0 recorded", _UNET, "recorded", FP16, tags=("quick", "paper")),
    DeviceNet("MinkUNet-18 x0.5 recorded", _HALF, "recorded", FP16),
    DeviceNet("CenterPoint backbone recorded", _SECOND, "recorded", FP16, tags=("quick", "paper")),
    DeviceNet("MinkUNet-18 x1.0 recorded", _UNET, "recorded", BF16),
    DeviceNet("MinkUNet-18 x1.0 recorded", _UNET, "recorded", TF32),
    DeviceNet("MinkUNet-18 x1.0 eager", _UNET, "eager", FP16),
    DeviceNet("MinkUNet-18 x0.5 eager", _HALF, "eager", FP16),
    DeviceNet("CenterPoint backbone eager", _SECOND, "eager", FP16),
    DeviceNet("MinkUNet-18 x1.0 fused", _UNET, "fused", TF32),
    DeviceNet("MinkUNet-18 x1.0 fused", _UNET, "fused", BF16),
    DeviceNet("CenterPoint backbone fused", _SECOND, "fused", TF32),
    DeviceNet("CenterPoint backbone recorded", _SECOND, "recorded", TF32),
    DeviceNet("MinkUNet-18 x0.5 recorded", _HALF, "recorded", TF32),
    DeviceNet("CenterPoint backbone recorded", _SECOND, "recorded", BF16),
)
STEPS = (
    DeviceNet("MinkUNet-18 x1.0 training step", _UNET, "training", FP16, 2, ("quick", "paper")),
    DeviceNet("MinkUNet-18 x1.0 recorded training step", _UNET, "recorded training", FP16, 2, _ALWAYS),
    DeviceNet("MinkUNet-18 x0.5 training step", _HALF, "training", FP16, 2),
    DeviceNet("MinkUNet-18 x0.5 recorded training step", _HALF, "recorded training", FP16, 2),
    DeviceNet("CenterPoint backbone training step", _SECOND, "training", FP16, 2),
    DeviceNet("CenterPoint backbone recorded training step", _SECOND, "recorded training", FP16, 2),
    DeviceNet("MinkUNet-18 x1.0 training step", _UNET, "training", BF16, 2),
    DeviceNet("MinkUNet-18 x1.0 training step", _UNET, "training", TF32, 2),
    DeviceNet("MinkUNet-18 x1.0 recorded training step", _UNET, "recorded training", TF32, 2),
    DeviceNet("CenterPoint backbone recorded training step", _SECOND, "recorded training", TF32, 2),
    DeviceNet("MinkUNet-18 x1.0 recorded training step", _UNET, "recorded training", BF16, 2),
    DeviceNet("CenterPoint backbone recorded training step", _SECOND, "recorded training", BF16, 2),
)
HEADS: tuple[DeviceHead | DeviceTwoFour, ...] = (
    *(
        DeviceHead(f"EIE {layer.name}", layer, 1, _ALWAYS if layer.name == "Alex-7" else _PAPER)
        for layer in EIE_LAYERS
    ),
    *(DeviceHead(f"EIE Alex-7, {n} items", EIE_LAYERS[1], n) for n in (4, 16)),
    *(DeviceTwoFour(f"2:4 4096x4096, {n} items", 4096, n, FP32, _ALWAYS) for n in (1, 4)),
    *(DeviceTwoFour(f"2:4 4096x4096, {n} items", 4096, n, FP16) for n in (1, 16, 256, 4096)),
)
SEARCHES = (
    DeviceSearch("1 nearest", "nearest", 1),
    DeviceSearch("16 nearest", "nearest", 16, tags=_ALWAYS),
    DeviceSearch("32 in 0.8 m of 2048", "ball", 32, 0.8, 2048, _ALWAYS),
    DeviceSearch("2048 farthest", "farthest", 2048, tags=_ALWAYS),
)
