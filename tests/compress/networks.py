"""Networks with a Spec, for tests of channel pruning: what the shipped ones do not have."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcsparse import SparseTensor
from pcsparse.nn import BatchNormReLU, Linear, SparseConv3d, SubmanifoldConv3d, ToBEV


@dataclass(frozen=True)
class Widths:
    """A Spec that is the channels of each layer by name."""

    sizes: tuple[tuple[str, tuple[int, int]], ...]

    def with_channels(self, channels: Mapping[str, tuple[int, int]]) -> "Widths":
        assert set(channels) <= {name for name, _ in self.sizes}
        return replace(self, sizes=tuple((n, channels.get(n, size)) for n, size in self.sizes))

    def __getitem__(self, name: str) -> tuple[int, int]:
        return dict(self.sizes)[name]


def widths(**sizes: tuple[int, int]) -> Widths:
    return Widths(tuple(sizes.items()))


class FlatCNN(nn.Module):
    """Convolutions, a pooled and flattened map beside what is wide already, and linear layers with norms."""

    SPEC = widths(first=(3, 6), second=(6, 4), beside=(6, 2), hidden=(4 * 9 + 2, 8), last=(8, 5))

    def __init__(self, spec: Widths = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.first, self.norm1 = nn.Conv2d(*spec["first"], 3, padding=1), nn.BatchNorm2d(spec["first"][1])
        self.second = nn.Conv2d(*spec["second"], 3, padding=1)
        self.beside = nn.Linear(*spec["beside"])
        self.pool, self.flat, self.drop = nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)
        n = spec["second"][1] * 9 + spec["beside"][1]
        self.norm2, self.hidden = nn.BatchNorm1d(n), nn.Linear(*spec["hidden"])
        self.last = nn.Linear(*spec["last"])

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.first(x)))
        beside = self.beside(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        x = self.flat(functional.avg_pool2d(self.pool(functional.silu(self.second(x))), 2))
        x = self.drop(self.norm2(torch.cat([x, beside], dim=1)))
        return self.last(functional.leaky_relu(self.hidden(x)))

    def example_input(self) -> Tensor:
        return torch.zeros(1, 3, 12, 12)


class UpCNN(nn.Module):
    """Down and up again by a transposed convolution, with a skip, an up-sampled branch and a sum."""

    SPEC = widths(stem=(2, 6), down=(6, 8), up=(8, 5), side=(8, 3), beside=(6, 14), head=(14, 4))

    def __init__(self, spec: Widths = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.stem, self.down = nn.Conv2d(*spec["stem"], 3, padding=1), nn.Conv2d(*spec["down"], 2, 2)
        self.up, self.side = nn.ConvTranspose2d(*spec["up"], 2, 2), nn.Conv2d(*spec["side"], 1)
        self.norm = nn.BatchNorm2d(spec["up"][1])
        self.beside, self.head = nn.Conv2d(*spec["beside"], 1), nn.Conv2d(*spec["head"], 1)
        self.act = nn.LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        stem = self.act(self.stem(x))
        low = self.act(self.down(stem))
        side = functional.interpolate(self.side(low), scale_factor=2)
        joined = torch.cat([self.norm(self.up(low)), stem, side], dim=1)
        return self.head(2 * joined - self.beside(stem))

    def example_input(self) -> Tensor:
        return torch.zeros(1, 2, 4, 4)


class BEVNet(nn.Module):
    """A sparse convolution at half resolution, its map seen from above, and a residual 2-D block on it."""

    SPEC = widths(**{"down.0": (2, 5)}, first=(5 * 3, 6), second=(6, 6), head=(6, 3))

    def __init__(self, spec: Widths = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.down = nn.Sequential(SparseConv3d(*spec["down.0"], 2, 2), BatchNormReLU(spec["down.0"][1]))
        self.bev = ToBEV((0, -1, 0), (4, 3, 3), outside="crop")
        self.first = nn.Conv2d(*spec["first"], 3, padding=1)
        self.norm, self.second = nn.BatchNorm2d(spec["first"][1]), nn.Conv2d(*spec["second"], 1)
        self.head = nn.Conv2d(*spec["head"], 1)

    def forward(self, x: SparseTensor) -> Tensor:
        y = self.norm(self.first(self.bev(self.down(x))))
        return self.head(functional.gelu(y + self.second(y)))


class TwoHeads(nn.Module):
    """A head that runs in training only, and a pretrained one that never does."""

    SPEC = widths(**{"conv": (2, 6), "head": (6, 3), "aux.1": (6, 4)})

    def __init__(self, spec: Widths = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.conv, self.head = SubmanifoldConv3d(*spec["conv"], 3), Linear(*spec["head"])
        self.aux = nn.Sequential(nn.Dropout(0.5), nn.Linear(*spec["aux.1"]))
        self.pretrained = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9, affine=False))

    def forward(self, x: SparseTensor) -> SparseTensor | dict[str, SparseTensor | Tensor]:
        y = self.conv(x)
        out = self.head(y)
        return {"out": out, "aux": self.aux(y.feats)} if self.training else out


class HeadFirst(nn.Module):
    """The layer that is registered first runs last."""

    SPEC = widths(head=(6, 3), conv=(2, 6))

    def __init__(self, spec: Widths = SPEC) -> None:
        super().__init__()
        self.spec = spec
        self.head, self.conv = Linear(*spec["head"]), SubmanifoldConv3d(*spec["conv"], 3)

    def forward(self, x: SparseTensor) -> SparseTensor:
        return self.head(self.conv(x))


class RecurrentNet(nn.Module):
    """One block that is called three times, as one tensor each time."""

    SPEC = widths(**{"first.0": (3, 8), "block.0": (8, 8), "head": (8, 2)})

    def __init__(self, spec: Widths = SPEC) -> None:
        super().__init__()
        self.spec = spec
        first, block = spec["first.0"], spec["block.0"]
        self.first = nn.Sequential(SubmanifoldConv3d(*first, 3, bias=True), BatchNormReLU(first[1]))
        self.block = nn.Sequential(SubmanifoldConv3d(*block, 3), BatchNormReLU(block[1]))
        self.head = Linear(*spec["head"])

    def forward(self, x: SparseTensor) -> SparseTensor:
        y = self.first(x)
        for _ in range(3):
            y = self.block(y)
        return self.head(y)
