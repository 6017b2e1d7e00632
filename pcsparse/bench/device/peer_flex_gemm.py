"""FlexGEMM's Triton convolution on an accelerator, its maps made here.

Its maps need a CUDA extension that is built from source; its convolution is Triton alone. So the kernel is
fed with what the extension would give, in the same form and order: neighbours (n, 27), rows sorted by the
rank of their masks in gray code, and for each tile the offsets that any of its rows has. Submanifold layers,
forward, with the map ready, are what it is compared in.

Source: JeffreyXiang/FlexGEMM@6dd94a8, flex_gemm/ops/spconv/submanifold_conv3d.py and
flex_gemm/kernels/cuda/spconv/migemm_neighmap_pp.cu.
"""

import importlib
import os
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.device.peer import DevicePeer
from pcsparse.bench.library import LibraryConv
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.kernels.reference.keys import pack_rows

_NOTHING = (1 << 32) - 1
# no tiles of its own are listed for an H200, which has the same multiprocessors
_LISTED = "NVIDIA H100"


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """A map in FlexGEMM's form.

    Attributes:
        table: (n, k) uint32.
        order: (n,) int64, rows sorted by the gray rank of their masks.
        present: (n, k) bool, rows in that order.
        tiles: offsets of each tile and where each tile's begin, by the tile's height.
    """

    table: Tensor
    order: Tensor
    present: Tensor
    tiles: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(coords: Tensor, relation: Relation) -> "_Neighbours":
        """Of coordinates (n, 4) int32, ascending by key."""
        keys, columns = pack_rows(coords)[0], []
        for step in relation.steps():
            wanted = pack_rows(coords + coords.new_tensor([0, *step]))[0]
            place = torch.searchsorted(keys, wanted).clamp(max=max(len(keys) - 1, 0))
            columns.append(torch.where(keys[place] == wanted, place, _NOTHING))
        table = torch.stack(columns, dim=1)
        present = table != _NOTHING
        bits = (present.long() << torch.arange(present.shape[1], device=coords.device)).sum(dim=1)
        rank = bits.clone()
        for shift in range(1, present.shape[1]):
            rank ^= bits >> shift
        order = torch.argsort(rank)
        return _Neighbours(table.to(torch.uint32).contiguous(), order, present[order])

    def tile(self, height: int) -> tuple[Tensor, Tensor]:
        """Ascending offsets of each tile of that many rows, int32, and where each tile's begin."""
        if height not in self.tiles:
            n, k = self.present.shape
            rows = nn.functional.pad(self.present, (0, 0, 0, -n % height))
            active = rows.view(-1, height, k).any(dim=1)
            starts = nn.functional.pad(active.sum(dim=1).cumsum(0), (1, 0)).int()
            self.tiles[height] = active.nonzero()[:, 1].int(), starts
        return self.tiles[height]


@dataclass(frozen=True, eq=False)
class _Rows:
    feats: Tensor
    coords: Tensor
    maps: dict[Relation, _Neighbours]


class FlexGemm(DevicePeer):
    """Submanifold convolutions.

    Args:
        device: where its tensors live.

    Raises:
        ImportError: the package is not installed.
    """

    remark = "its Triton kernel alone, without split-K; maps made here, not timed"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        # what it remembers of other runs must not decide here
        os.environ.update(FLEX_GEMM_USE_AUTOTUNE_CACHE="0", FLEX_GEMM_AUTOSAVE_AUTOTUNE_CACHE="0")
        sys.modules.setdefault("flex_gemm.kernels.cuda", ModuleType("flex_gemm.kernels.cuda"))
        with mock.patch("torch.cuda.get_device_name", return_value=_LISTED):
            self._kernels: Any = importlib.import_module("flex_gemm.kernels.triton.spconv")
        self.device, self.name = device, "FlexGEMM kernel"

    def allow_tf32(self, allowed: bool) -> None:
        """Whether float32 products may round their factors."""
        self._kernels.config.allow_tf32 = allowed

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """Gradients: their lists of pairs come from the extension."""
        return "compared in forward passes alone" if backward else None

    def geometry(self, coords: Tensor) -> tuple[Tensor, dict[Relation, _Neighbours]]:
        """Coordinates, and maps as they are asked for."""
        return coords, {}

    def tensor(self, geometry: Any, feats: Tensor) -> _Rows:
        """Maps stay with the geometry: making them is not FlexGEMM's work here."""
        return _Rows(feats, *geometry)

    def feats(self, x: _Rows) -> Tensor:
        """(n, c)."""
        return x.feats

    def replace(self, x: _Rows, feats: Tensor) -> _Rows:
        """The same maps."""
        return _Rows(feats, x.coords, x.maps)

    def coords(self, x: _Rows, stride: int) -> Tensor:
        """Level indices already."""
        return x.coords

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Weights (c_out, k, c_in).

        Raises:
            UnsupportedError: not a submanifold layer.
        """
        if layer != "submanifold":
            raise UnsupportedError("compared in submanifold layers alone")
        module = _FlexConv(self._kernels, Relation.of(kernel), c_in, c_out)
        return LibraryConv(module, module.weight, lambda weight: weight.permute(1, 2, 0))

    def conv(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Offsets are in our order, as the maps are made here."""
        return self.layer(layer, kernel, stride, c_in, c_out, level)

    def make_map(self, geometry: Any, relation: Relation, way: Way = "down") -> object:
        """Not its own.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("its maps need an extension that is built from source")

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Not its own.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("its maps need an extension that is built from source")


class _FlexConv(nn.Module):
    def __init__(self, kernels: Any, relation: Relation, c_in: int, c_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(c_out, relation.volume, c_in))
        self._kernels, self._relation = kernels, relation

    def forward(self, x: _Rows) -> _Rows:
        if self._relation not in x.maps:
            x.maps[self._relation] = _Neighbours.of(x.coords, self._relation)
        known = x.maps[self._relation]
        out = self._kernels.sparse_submanifold_conv_fwd_masked_implicit_gemm(
            x.feats,
            self.weight,
            None,
            known.table,
            known.order,
            lambda height: known.tile(height)[0],
            lambda height: known.tile(height)[1],
        )
        return _Rows(out, x.coords, x.maps)
