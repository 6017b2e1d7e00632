"""PillarBEV: pillars of points, a dense 2-D network over the bird's-eye view, classes a cell.

Each point is described by nine numbers and a linear layer, the maximum over the points of a pillar is laid
into a dense map, three blocks of 2-D convolutions see it at falling resolution and are brought back to the
first one's, and a head of 3 x 3 convolutions and a 1 x 1 one gives logits.

Source: PointPillars (Lang et al., CVPR 2019, arXiv 1812.05784), section 2.1 for the pillars, 2.2 for the
backbone, which is that of SECOND (Yan et al., Sensors 2018). It differs from the paper in two things: the
pillars hold all points (the paper draws at most 100 a pillar and 12,000 pillars), and the head tells cells
apart where the paper's finds boxes.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.checks import check_dtype, check_same_device, check_shape
from pcsparse.coords.device_constant import device_constant
from pcsparse.coords.pillars import PillarGrid, Span, to_pillars
from pcsparse.coords.voxelize import Voxels
from pcsparse.errors import FormatError, RangeError
from pcsparse.models.example_points import device_of_points
from pcsparse.nn.row_layer import RowLinear, RowNormReLU
from pcsparse.ops import voxel_reduce

POINT_FEATURES = 9
"""x, y, z in metres, intensity, x, y, z from the mean of the pillar's points, x, y from its middle."""

# SECOND's; its momentum, 0.01, would leave a run of a few hundred steps with the statistics of its start
_EPS = 1e-3


@dataclass(frozen=True)
class BlockSpec2d:
    """One block of the backbone.

    Attributes:
        c_in: channels in.
        convs: channels that each of its 3 x 3 convolutions writes; the first one has the stride.
        stride: of the block, over what it reads.
        c_up: channels in which it comes back to the resolution of the first block.
    """

    c_in: int
    convs: tuple[int, ...]
    stride: int
    c_up: int

    @property
    def c_out(self) -> int:
        """Channels out."""
        return self.convs[-1]


@dataclass(frozen=True)
class PillarBEVSpec:
    """Every width of a PillarBEV.

    Attributes:
        grid: the pillars.
        blocks: of the backbone; the first one's `c_in` are the channels of a pillar.
        head: channels of the head's 3 x 3 convolutions.
        n_classes: outputs a cell.
    """

    grid: PillarGrid
    blocks: tuple[BlockSpec2d, ...]
    head: tuple[int, ...]
    n_classes: int

    @staticmethod
    def of(
        grid: PillarGrid,
        n_classes: int,
        *,
        channels: int = 64,
        convs: tuple[int, ...] = (4, 6, 6),
        first_stride: int = 2,
        head: tuple[int, ...] = (64,),
    ) -> "PillarBEVSpec":
        """The published pattern: channels double from block to block, each comes back with twice the first's.

        Args:
            grid: the pillars.
            n_classes: outputs a cell.
            channels: of a pillar and of the first block; 64 in the paper.
            convs: of each block.
            first_stride: of the first block: 2 in the paper for cars, 1 for people; of the others it is 2.
            head: channels of the head's 3 x 3 convolutions.
        """
        blocks, c_in = [], channels
        for i, n in enumerate(convs):
            c_out = channels << i
            blocks.append(BlockSpec2d(c_in, (c_out,) * n, 2 if i else first_stride, 2 * channels))
            c_in = c_out
        return PillarBEVSpec(grid, tuple(blocks), head, n_classes)

    @staticmethod
    def pointpillars(n_classes: int = 19) -> "PillarBEVSpec":
        """The paper's sizes for cars on KITTI: pillars of 0.16 m ahead of the sensor.

        The paper's 70.4 m by 80 m are no whole multiple of the backbone's stride of 8 pillars; these are the
        next smaller ones that are.
        """
        grid = PillarGrid((0.0, 69.12), (-39.68, 39.68), (-3.0, 1.0), 0.16)
        return PillarBEVSpec.of(grid, n_classes)

    @property
    def cells(self) -> PillarGrid:
        """The cells that get logits: pillars times the stride of the first block."""
        return self.grid.coarser(self.blocks[0].stride)

    def to_json(self) -> str:
        """JSON text; `from_json` reads it back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> "PillarBEVSpec":
        """Inverse of `to_json`.

        Raises:
            FormatError: not the JSON of a PillarBEVSpec.
        """
        try:
            data = json.loads(text)
            grid = data["grid"]
            return PillarBEVSpec(
                PillarGrid(_span(grid["x"]), _span(grid["y"]), _span(grid["z"]), float(grid["size"])),
                tuple(map(_block_spec, data["blocks"])),
                tuple(int(width) for width in data["head"]),
                int(data["n_classes"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"not a PillarBEVSpec ({error!r}): {text[:200]}") from error

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "PillarBEVSpec":
        """The same network with other channels.

        Args:
            channels: c_in and c_out by the name that the layer has in `PillarBEV`, such as "blocks.1.3"; of
                layers that are not named c_out stays, and every c_in follows from the layers before.

        Raises:
            RangeError: a name that is no layer of the network.
        """
        left = {name: c_out for name, (_, c_out) in channels.items()}
        left.pop(f"head.{3 * len(self.head)}", None)
        c_in, blocks = left.pop("pillars.linear", self.blocks[0].c_in), []
        for i, block in enumerate(self.blocks):
            # each convolution is followed by its norm and a ReLU
            convs = tuple(left.pop(f"blocks.{i}.{3 * j}", width) for j, width in enumerate(block.convs))
            c_up = left.pop(f"up.{i}.0", block.c_up)
            blocks.append(replace(block, c_in=c_in, convs=convs, c_up=c_up))
            c_in = convs[-1]
        head = tuple(left.pop(f"head.{3 * i}", width) for i, width in enumerate(self.head))
        if left:
            raise RangeError(f"this PillarBEV has no layer {', '.join(sorted(left))}")
        return replace(self, blocks=tuple(blocks), head=head)

    def with_classes(self, n_classes: int) -> "PillarBEVSpec":
        """The same network with another last layer."""
        return replace(self, n_classes=n_classes)


def _block_spec(data: dict[str, Any]) -> BlockSpec2d:
    # files from before a block's convolutions could differ have one width and a number
    convs = data["convs"] if "convs" in data else [data["c_out"]] * data["n_convs"]
    return BlockSpec2d(int(data["c_in"]), tuple(map(int, convs)), int(data["stride"]), int(data["c_up"]))


def _span(values: Any) -> Span:
    low, high = values
    return float(low), float(high)


class PillarFeatures(nn.Module):
    """One row of features a pillar: linear layer, batch norm, ReLU, maximum over the pillar's points.

    Args:
        grid: the pillars.
        c_out: channels.
    """

    def __init__(self, grid: PillarGrid, c_out: int) -> None:
        super().__init__()
        self.grid = grid
        self.linear = RowLinear(POINT_FEATURES, c_out, bias=False)
        self.norm = RowNormReLU(c_out, eps=_EPS)

    def forward(self, points: Tensor, intensity: Tensor, pillars: Voxels) -> Tensor:
        """(n, 3) points and (n,) intensity of n points -> (m, c_out) of their m pillars."""
        # metres stay float32 up to here, for a narrow dtype would round them
        described = self.describe(points, intensity, pillars).to(self.linear.weight.dtype)
        described = self.norm(self.linear(described))
        return voxel_reduce(described, pillars, "max")

    def describe(self, points: Tensor, intensity: Tensor, pillars: Voxels) -> Tensor:
        """The (n, 9) inputs, see `POINT_FEATURES`."""
        mean = voxel_reduce(points, pillars, "mean")[pillars.inverse]
        corner = device_constant((self.grid.x[0], self.grid.y[0]), points)
        middle = corner + self.grid.size * (pillars.coords[:, 1:3].to(points.dtype) + 0.5)
        from_middle = points[:, :2] - middle[pillars.inverse]
        return torch.cat([points, intensity[:, None], points - mean, from_middle], dim=1)


class PillarBEV(nn.Module):
    """Class logits for every cell of the ground around a sensor.

    Points are float32 whatever the dtype of the network; logits have that of the network. The dense part is
    torch's `conv2d`, whose bits may change with the number of threads, unlike those of sparse networks.

    Args:
        spec: every width, see `PillarBEVSpec.of`.

    Raises:
        RangeError: neighbouring widths of the Spec do not fit, a width or stride is below 1, or the pillars
            are no whole multiple of the strides.
    """

    def __init__(self, spec: PillarBEVSpec) -> None:
        super().__init__()
        _check(spec)
        self.spec = spec
        self.pillars = PillarFeatures(spec.grid, spec.blocks[0].c_in)
        self.blocks = nn.ModuleList(nn.Sequential(*_block(block)) for block in spec.blocks)
        self.up = nn.ModuleList()
        scale = 1
        for i, block in enumerate(spec.blocks):
            scale *= block.stride if i else 1
            up = nn.ConvTranspose2d(block.c_out, block.c_up, scale, scale, bias=False)
            self.up.append(nn.Sequential(up, *_norm(block.c_up)))
        self.head = nn.Sequential(*_head(spec))

    def forward(self, points: Tensor, intensity: Tensor, batch: Tensor, n_clouds: int) -> Tensor:
        """Logits of the cells.

        Args:
            points: (n, 3) float32, metres, all inside `spec.grid` (`spec.grid.inside` tells which are).
            intensity: (n,) float32, 0 to 1.
            batch: (n,) integer, the cloud of each point, 0 to n_clouds - 1; a cloud may have no points.
            n_clouds: clouds.

        Returns:
            (n_clouds, n_classes, nx, ny) of `spec.cells`.

        Raises:
            ShapeError, DtypeError, DeviceError: inputs that do not fit each other.
            RangeError: a point outside the grid, an intensity that is not finite, or a cloud outside 0 to
                n_clouds - 1.
        """
        logits: Tensor = self.head(self.neck(self.scatter(points, intensity, batch, n_clouds)))
        return logits

    def example_input(self) -> tuple[Tensor, Tensor, Tensor, int]:
        """A cloud of one point in the first cell: the arguments of `forward`.

        It lies where the parameters do; on the CPU if these are on the "meta" device.
        """
        grid, device = self.spec.grid, device_of_points(self)
        point = torch.tensor(
            [[grid.x[0] + grid.size / 2, grid.y[0] + grid.size / 2, sum(grid.z) / 2]], device=device
        )
        return point, torch.zeros(1, device=device), torch.zeros(1, dtype=torch.int64, device=device), 1

    def scatter(self, points: Tensor, intensity: Tensor, batch: Tensor, n_clouds: int) -> Tensor:
        """The map of pillars, (n_clouds, c, nx, ny), 0 where no point stands; arguments as of `forward`."""
        check_shape("points", points, (None, 3))
        check_dtype("points", points, torch.float32)
        check_shape("intensity", intensity, (len(points),))
        check_dtype("intensity", intensity, torch.float32)
        check_shape("batch", batch, (len(points),))
        check_same_device(points=points, intensity=intensity, batch=batch)
        _check_values(batch, n_clouds, intensity)
        pillars = to_pillars(points, self.spec.grid, batch=batch)
        feats = self.pillars(points, intensity, pillars)
        nx, ny = self.spec.grid.shape
        cloud, x, y, _ = pillars.coords.long().unbind(dim=1)
        # each cell is written once, so no order of writing shows
        canvas = feats.new_zeros(n_clouds * nx * ny, feats.shape[1])
        canvas = canvas.index_copy(0, (cloud * nx + x) * ny + y, feats)
        return canvas.view(n_clouds, nx, ny, -1).permute(0, 3, 1, 2).contiguous()

    def neck(self, canvas: Tensor) -> Tensor:
        """(n, c, nx, ny) of the pillars -> (n, sum of c_up, nx, ny) of the cells."""
        seen = []
        for block, up in zip(self.blocks, self.up, strict=True):
            canvas = block(canvas)
            seen.append(up(canvas))
        return torch.cat(seen, dim=1)


def _norm(channels: int) -> Iterator[nn.Module]:
    yield nn.BatchNorm2d(channels, eps=_EPS)
    yield nn.ReLU()


def _block(spec: BlockSpec2d) -> Iterator[nn.Module]:
    channels = spec.c_in
    for i, width in enumerate(spec.convs):
        yield nn.Conv2d(channels, width, 3, 1 if i else spec.stride, padding=1, bias=False)
        yield from _norm(width)
        channels = width


def _head(spec: PillarBEVSpec) -> Iterator[nn.Module]:
    channels = sum(block.c_up for block in spec.blocks)
    for width in spec.head:
        yield nn.Conv2d(channels, width, 3, padding=1, bias=False)
        yield from _norm(width)
        channels = width
    yield nn.Conv2d(channels, spec.n_classes, 1)


def _check(spec: PillarBEVSpec) -> None:
    if not spec.blocks or not all(block.convs for block in spec.blocks):
        raise RangeError(f"a PillarBEVSpec needs at least one block, and a convolution in each, got {spec}")
    numbers = [*spec.head, spec.n_classes]
    for block in spec.blocks:
        numbers += [block.c_in, *block.convs, block.stride, block.c_up]
    if min(numbers) < 1:
        raise RangeError(f"widths, counts and strides of a PillarBEVSpec are at least 1, got {spec}")
    for i in range(1, len(spec.blocks)):
        have, want = spec.blocks[i - 1].c_out, spec.blocks[i].c_in
        if have != want:
            raise RangeError(f"blocks.{i} of the Spec reads {want} channels, but {have} arrive")
    stride = 1
    for block in spec.blocks:
        stride *= block.stride
    # what is not a whole multiple would come back larger than it went down
    spec.grid.coarser(stride)


def _check_values(batch: Tensor, n_clouds: int, intensity: Tensor) -> None:
    if n_clouds < 1:
        raise RangeError(f"n_clouds must be at least 1, got {n_clouds}")
    if not batch.numel():
        return
    # one question to the device for all
    facts = (*batch.aminmax(), (~intensity.isfinite()).sum())
    low, high, n_wrong = torch.stack([fact.long() for fact in facts]).tolist()
    if low < 0 or high >= n_clouds:
        raise RangeError(f"batch must lie in 0 to {n_clouds - 1}, got {low} to {high}")
    if n_wrong:
        raise RangeError(
            f"{n_wrong} of {len(intensity)} intensities are not finite; drop these points, or set a value"
        )
