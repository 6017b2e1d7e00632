"""The sparse 3-D backbone of SECOND as CenterPoint and OpenPCDet run it: voxels to a bird's-eye view.

Stem and first stage at full resolution, three stages that each halve it, a last convolution that halves the
height alone; then the heights of each place stand side by side as channels. `voxel` is OpenPCDet's
VoxelBackBone8x (SECOND, PV-RCNN, Voxel R-CNN), `residual` its VoxelResBackBone8x, which CenterPoint uses.

Names of modules are those of OpenPCDet, so that a checkpoint's keys are found here: only the norms of a
residual block are `norm1`, `norm2` here and `bn1`, `bn2` there, and the biases of its convolutions have no
place here, as batch norm cancels them (take them off the running means). Its axes are (z, y, x).

Source: pcdet/models/backbones_3d/spconv_backbone.py of open-mmlab/OpenPCDet@8caccce. SECOND: Yan et al.,
Sensors 2018. CenterPoint: Yin et al., CVPR 2021 (arXiv 2006.11275).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.errors import FormatError, RangeError
from pcsparse.models.minkunet import ConvSpec
from pcsparse.nn import BatchNorm, BatchNormReLU, ResidualBlock, SparseConv3d, SubmanifoldConv3d, ToBEV
from pcsparse.nn.map_search import search_together
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.types import Triple

_VOXEL_WIDTHS, _RESIDUAL_WIDTHS = (16, 16, 32, 64, 64), (16, 16, 32, 64, 128)
_OUT = 128
_STAGES = 4
# cells along z of which one is left at the end
_LEAST_HEIGHT = 24
_EPS, _MOMENTUM = 1e-3, 0.01
NUSCENES_GRID: Triple = (1440, 1440, 40)
"""Cells along x, y, z of CenterPoint on nuScenes: 108 m by 108 m by 8 m, cells of 0.075 and 0.2 m height."""


@dataclass(frozen=True)
class SecondStage:
    """One level: the 3^3 convolution that halves the resolution, then 3^3 convolutions.

    Attributes:
        down: None for the first stage, which stays at full resolution.
        convs: of residual networks two for each block.
    """

    down: ConvSpec | None
    convs: tuple[ConvSpec, ...]


@dataclass(frozen=True)
class SecondSpec:
    """Every width of a backbone, so that a sliced network is the same class with another Spec.

    Attributes:
        grid: cells of the finest level along x, y and z. Coordinates count from 0; one more layer of cells
            lies above the highest, as in OpenPCDet.
        stem: the first 3^3 convolution.
        stages: four, the first at full resolution.
        out: the last convolution, of three cells of height.
        residual: whether the convolutions of a stage are residual blocks.
    """

    grid: Triple
    stem: ConvSpec
    stages: tuple[SecondStage, ...]
    out: ConvSpec
    residual: bool

    @staticmethod
    def voxel(in_channels: int = 5, grid: Triple = NUSCENES_GRID, width: float = 1.0) -> "SecondSpec":
        """VoxelBackBone8x: one convolution in the first stage, two in the others after the one that halves.

        Raises:
            RangeError: a width becomes 0, or the grid is too low or narrow.
        """
        return _spec(in_channels, grid, width, _VOXEL_WIDTHS, (1, 2, 2, 2), residual=False)

    @staticmethod
    def residual_voxel(
        in_channels: int = 5, grid: Triple = NUSCENES_GRID, width: float = 1.0
    ) -> "SecondSpec":
        """VoxelResBackBone8x: two residual blocks a stage, 128 channels in the last.

        Raises:
            RangeError: a width becomes 0, or the grid is too low or narrow.
        """
        return _spec(in_channels, grid, width, _RESIDUAL_WIDTHS, (4, 4, 4, 4), residual=True)

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "SecondSpec":
        """Inverse of `to_json`.

        Raises:
            FormatError: not the JSON of a SecondSpec.
        """
        try:
            data = json.loads(text)
            x, y, z = map(int, data["grid"])
            if not isinstance(data["residual"], bool):
                raise ValueError(f"residual={data['residual']!r}")
            return SecondSpec(
                (x, y, z),
                _conv(data["stem"]),
                tuple(map(_stage, data["stages"])),
                _conv(data["out"]),
                data["residual"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a SecondSpec ({error!r}): {text[:200]}") from error

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "SecondSpec":
        """The same network with other channels.

        Args:
            channels: c_in and c_out by the name that the layer has in `SecondBackbone`, such as
                "conv2.1.conv1"; convolutions that are not named stay as they are.

        Raises:
            RangeError: a name that is no layer of the network.
        """
        left = dict(channels)

        def sized(name: str, conv: ConvSpec) -> ConvSpec:
            c_in, c_out = left.pop(name, (conv.c_in, conv.c_out))
            return replace(conv, c_in=c_in, c_out=c_out)

        def stage(name: str, old: SecondStage) -> SecondStage:
            first = 0 if old.down is None else 1
            names = (
                f"{name}.{first + i // 2}.conv{i % 2 + 1}" if self.residual else f"{name}.{first + i}.0"
                for i in range(len(old.convs))
            )
            down = None if old.down is None else sized(f"{name}.0.0", old.down)
            return SecondStage(down, tuple(map(sized, names, old.convs)))

        spec = replace(
            self,
            stem=sized("conv_input.0", self.stem),
            stages=tuple(stage(f"conv{i}", old) for i, old in enumerate(self.stages, 1)),
            out=sized("conv_out.0", self.out),
        )
        if left:
            raise RangeError(f"this SecondBackbone has no layer {', '.join(sorted(left))}")
        return spec

    @property
    def shapes(self) -> tuple[Triple, ...]:
        """Cells along x, y, z of the four stages and of the output."""
        x, y, z = self.grid[0], self.grid[1], self.grid[2] + 1
        found = [(x, y, z)]
        for stage in range(1, _STAGES):
            # the last stage has no border of zeros below and above
            x, y, z = (x + 1) // 2, (y + 1) // 2, (z - 1) // 2 if stage == _STAGES - 1 else (z + 1) // 2
            found.append((x, y, z))
        found.append((x, y, (z - 1) // 2))
        return tuple(found)

    @property
    def bev_channels(self) -> int:
        """Of the dense map: channels of the last convolution times cells of height."""
        return self.out.c_out * self.shapes[-1][2]


def _spec(
    in_channels: int,
    grid: Triple,
    width: float,
    published: tuple[int, ...],
    convs: tuple[int, ...],
    *,
    residual: bool,
) -> SecondSpec:
    widths = [int(width * channels) for channels in published]
    out = int(width * _OUT)
    if min(*widths, out, in_channels) < 1:
        raise RangeError(f"width={width} leaves a layer of {min(*widths, out)} channels; use a larger width")
    stages = []
    for i, n in enumerate(convs):
        before, after = widths[i], widths[i + 1]
        # at full resolution nothing changes the width
        down = ConvSpec(before, after) if i else None
        stages.append(SecondStage(down, (ConvSpec(after, after),) * n))
    stem = ConvSpec(in_channels, widths[0])
    spec = SecondSpec(grid, stem, tuple(stages), ConvSpec(widths[-1], out), residual)
    _check_grid(spec)
    return spec


def _conv(data: dict[str, Any]) -> ConvSpec:
    spec = ConvSpec(**data)
    return replace(spec, offsets=None if spec.offsets is None else tuple(spec.offsets))


def _stage(data: dict[str, Any]) -> SecondStage:
    down = None if data["down"] is None else _conv(data["down"])
    return SecondStage(down, tuple(map(_conv, data["convs"])))


class SecondBackbone(nn.Module):
    """Dense features of a bird's-eye view out of voxels.

    A voxel outside the grid is an error. Levels end where the dense network's do: what a strided convolution
    would write beyond its grid is dropped, as spconv drops it.

    Args:
        spec: every width; `SecondSpec.voxel()` and `SecondSpec.residual_voxel()` give the published ones.

    Raises:
        RangeError: neighbouring widths of the Spec do not fit each other, or the grid is too small.
    """

    def __init__(self, spec: SecondSpec) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        shapes = spec.shapes
        self.conv_input = _with_norm(_cube(spec.stem))
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(*_layers(spec, i, shapes[i])) for i in range(_STAGES)
        )
        out = spec.out
        # one cell higher than there, as the level below is: see `_down`
        self.conv_out = _with_norm(
            SparseConv3d(
                out.c_in, out.c_out, (1, 1, 3), (1, 1, 2), offsets=out.offsets, box=_raised(shapes[-1])
            )
        )
        self.to_bev = ToBEV((0, 0, 1), shapes[-1])
        for level, blocks in enumerate((self.conv1, self.conv2, self.conv3, self.conv4)):
            stem = [self.conv_input] if level == 0 else []
            search_together(_cubes(blocks, *stem))
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.eps, module.momentum = _EPS, _MOMENTUM

    def forward(self, x: SparseTensor) -> Tensor:
        """(n, in_channels) -> (batch, bev_channels, y, x), zero where no voxel is.

        Raises:
            RangeError: a voxel lies outside the grid.
        """
        bev: Tensor = self.to_bev(self.levels(x)[-1])
        return bev

    def levels(self, x: SparseTensor) -> list[SparseTensor]:
        """The outputs of the four stages, of strides 1, 2, 4 and 8, and of the last convolution.

        Raises:
            RangeError: a voxel lies outside the grid.
        """
        self.check_inside(x)
        x = self.conv_input(x)
        found = []
        for stage in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv_out):
            x = stage(x)
            found.append(x)
        return found

    def check_inside(self, x: SparseTensor) -> None:
        """Raise where a voxel of `x` lies outside the grid.

        Raises:
            RangeError: one does.
        """
        # nothing traced or recorded may look at values
        if len(x) == 0 or x.coords.is_meta or torch.compiler.is_compiling():
            return
        grid = self.spec.grid
        last = (grid[0] - 1, grid[1] - 1, grid[2] - 1)
        # bounds that the host knows already; the maps are made of these keys
        if x.cache.sorted_keys(x.coords).extent.within((0, 0, 0), last):
            return
        low, high = torch.stack(torch.aminmax(x.coords[:, 1:], dim=0)).tolist()
        if min(low) < 0 or any(index >= size for index, size in zip(high, grid, strict=True)):
            raise RangeError(
                f"voxels from {tuple(low)} to {tuple(high)} do not lie within the grid of {grid} cells, "
                "which starts at (0, 0, 0); crop the points, and voxelise with the grid's corner as origin"
            )


def _layers(spec: SecondSpec, i: int, shape: Triple) -> Iterator[nn.Module]:
    stage = spec.stages[i]
    if stage.down is not None:
        yield _with_norm(_down(stage.down, shape, last=i == _STAGES - 1))
    if not spec.residual:
        for conv in stage.convs:
            yield _with_norm(_cube(conv))
        return
    for first, second in zip(stage.convs[::2], stage.convs[1::2], strict=True):
        yield ResidualBlock(
            first.c_in, first.c_out, second.c_out, (first.offsets, second.offsets), projected=False
        )


def _cube(conv: ConvSpec) -> SubmanifoldConv3d:
    return SubmanifoldConv3d(conv.c_in, conv.c_out, 3, offsets=conv.offsets)


def _down(conv: ConvSpec, shape: Triple, *, last: bool) -> SparseConv3d:
    """The 3^3 convolution of stride 2 onto a grid of `shape` cells.

    spconv's padding of 1 is none here, as odd kernels are centred. The last one has a padding of 0 along z
    there: fine = 2 * coarse + (0, 1, 2) is fine = 2 * (coarse + 1) + (-1, 0, 1) - 1, a padding of 1 here with
    all coarse cells one higher.
    """
    padding, box = ((0, 0, 1), _raised(shape)) if last else (0, _grid(shape))
    return SparseConv3d(conv.c_in, conv.c_out, 3, 2, padding=padding, offsets=conv.offsets, box=box)


def _grid(shape: Triple) -> tuple[Triple, Triple]:
    return (0, 0, 0), (shape[0] - 1, shape[1] - 1, shape[2] - 1)


def _raised(shape: Triple) -> tuple[Triple, Triple]:
    return (0, 0, 1), (shape[0] - 1, shape[1] - 1, shape[2])


def _with_norm(conv: SubmanifoldConv3d | SparseConv3d) -> nn.Sequential:
    return nn.Sequential(conv, BatchNormReLU(conv.c_out))


def _cubes(*parts: nn.Module) -> list[SubmanifoldConv3d]:
    return [m for part in parts for m in part.modules() if isinstance(m, SubmanifoldConv3d)]


def _check_grid(spec: SecondSpec) -> None:
    if min(spec.grid) < 1 or min(spec.shapes[-1]) < 1:
        raise RangeError(
            f"a grid of {spec.grid} cells leaves {spec.shapes[-1]} at the end; it must have at least "
            f"{_LEAST_HEIGHT} along z, and 1 along x and y"
        )


def _check(spec: SecondSpec) -> None:
    """Walk through the channels as `forward` does."""

    def meet(where: str, have: int, want: int) -> None:
        if have != want:
            raise RangeError(f"{where} of the Spec reads {want} channels, but {have} arrive")

    _check_grid(spec)
    if len(spec.stages) != _STAGES:
        raise RangeError(f"the backbone has {_STAGES} stages, the Spec has {len(spec.stages)}")
    convs = [conv for stage in spec.stages for conv in (stage.down, *stage.convs) if conv is not None]
    if any(conv.voxels is not None for conv in (spec.stem, *convs, spec.out)):
        raise RangeError("shares of voxels are for MinkUNet alone; set voxels to None")
    channels = spec.stem.c_out
    for i, stage in enumerate(spec.stages):
        where = f"stage {i + 1}"
        if (stage.down is None) != (i == 0):
            raise RangeError(
                f"{where} of the Spec: the first stage has no convolution that halves, others do"
            )
        if spec.residual and len(stage.convs) % 2:
            raise RangeError(f"{where} of the Spec: residual blocks take convolutions by twos, got "
                             f"{len(stage.convs)}")  # fmt: skip
        if stage.down is not None:
            meet(f"{where}, down", channels, stage.down.c_in)
            channels = stage.down.c_out
        entered = channels
        for j, conv in enumerate(stage.convs):
            meet(f"{where}, convolution {j}", channels, conv.c_in)
            channels = conv.c_out
            if spec.residual and j % 2:
                meet(f"{where}, the sum after convolution {j}", entered, channels)
    meet("the last convolution", channels, spec.out.c_in)
