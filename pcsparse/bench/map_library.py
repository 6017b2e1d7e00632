"""Libraries made of a way to build maps and a way to convolve: the twin, plain torch, and one that counts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.bench.limits import Work, conv_work
from pcsparse.bench.peer import PlainMap, plain_conv, plain_expanded_map, plain_map
from pcsparse.bench.scene import build_map, twin_map
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.kernels import reference


@dataclass(frozen=True, eq=False)
class Lists:
    """A map as a convolution reads it.

    Attributes:
        relation: of the way from fine to coarse.
        pairs: the lists.
        n_in: input rows.
        n_out: output rows.
        kept: what an implementation derives from the lists.
    """

    relation: Relation
    pairs: Pairs
    n_in: int
    n_out: int
    kept: dict[str, Any] = field(default_factory=dict)

    def transposed(self) -> "Lists":
        """The way back, made once."""
        if "back" not in self.kept:
            back = Pairs(self.pairs.rows_out, self.pairs.rows_in, self.pairs.starts)
            self.kept["back"] = Lists(self.relation, back, self.n_out, self.n_in)
        found: Lists = self.kept["back"]
        return found


Build = Callable[[Tensor, Relation], tuple[Tensor, Pairs]]
Convolve = Callable[[Tensor, Tensor, Lists], Tensor]


@dataclass(frozen=True, eq=False)
class Rows:
    """Features at a level, with the maps that all levels of one cloud share."""

    feats: Tensor
    coords: Tensor
    maps: dict[Any, Any]


class MapLibrary(Library):
    """A library from its two halves.

    Args:
        name: of the library.
        build: (n, 4) coordinates and a relation -> coarse coordinates and pairs.
        convolve: features, weights and lists -> features.
        dtypes: that it convolves.
        expand: coarse coordinates and a relation -> fine coordinates and pairs, of the generative way.
    """

    def __init__(
        self,
        name: str,
        build: Build,
        convolve: Convolve,
        dtypes: tuple[torch.dtype, ...] = (torch.float32,),
        expand: Build | None = None,
    ) -> None:
        super().__init__()
        self.name, self._build, self.convolve, self._dtypes = name, build, convolve, dtypes
        self._expand = expand

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """Dtypes alone."""
        return None if dtype in self._dtypes else super().refuses(backward=backward, dtype=dtype)

    def geometry(self, coords: Tensor) -> Tensor:
        """The coordinates."""
        return coords

    def tensor(self, geometry: Tensor, feats: Tensor) -> Rows:
        """No map yet."""
        return Rows(feats, geometry, {})

    def feats(self, x: Rows) -> Tensor:
        """(n, c)."""
        return x.feats

    def replace(self, x: Rows, feats: Tensor) -> Rows:
        """The same level."""
        return Rows(feats, x.coords, x.maps)

    def coords(self, x: Rows, stride: int) -> Tensor:
        """Level indices already."""
        return x.coords

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Our order of offsets."""
        module = _MapConv(self, layer, Relation.of(kernel, stride), c_in, c_out, level)
        return LibraryConv(module, module.weight, lambda weight: weight)

    def conv(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Nothing to probe: the order of offsets is that of the maps, and `count` would show none."""
        return self.layer(layer, kernel, stride, c_in, c_out, level)

    def make_map(self, geometry: Tensor, relation: Relation, way: Way = "down") -> tuple[Tensor, Pairs]:
        """Coordinates of the other level and pairs.

        Raises:
            UnsupportedError: generative, where it has no `expand`, or one that refuses.
        """
        if way == "generative":
            if self._expand is None:
                raise UnsupportedError(f"{self.name} has no generative maps")
            return self._expand(geometry, relation)
        coarse, pairs = self._build(geometry, relation)
        if way == "inverse":
            pairs = Pairs(pairs.rows_out, pairs.rows_in, pairs.starts)
        return coarse, pairs

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """As they are."""
        coords, pairs = made
        return coords, pairs

    def lists(self, x: Rows, layer: Layer, relation: Relation, level: int) -> tuple[Tensor, Lists]:
        """Output coordinates and lists of a layer, built at the first call for a cloud."""
        key = (level, relation)
        if key not in x.maps:
            coarse, pairs = self._build(x.coords, relation)
            x.maps[key] = x.coords, coarse, Lists(relation, pairs, len(x.coords), len(coarse))
        fine, coarse, lists = x.maps[key]
        return (fine, lists.transposed()) if layer == "inverse" else (coarse, lists)


class _MapConv(nn.Module):
    def __init__(
        self, library: MapLibrary, layer: Layer, relation: Relation, c_in: int, c_out: int, level: int
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(relation.volume, c_in, c_out))
        self._library, self._key = library, (layer, relation, level)

    def forward(self, x: Rows) -> Rows:
        coords, lists = self._library.lists(x, *self._key)
        return Rows(self._library.convolve(x.feats, self.weight, lists), coords, x.maps)


def _plain(feats: Tensor, weight: Tensor, lists: Lists) -> Tensor:
    if "plain" not in lists.kept:
        lists.kept["plain"] = PlainMap.of(lists.pairs, lists.n_out, lists.relation.is_symmetric)
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        feats, weight = feats.to(dtype), weight.to(dtype)
    return plain_conv(feats, weight, lists.kept["plain"])


class _TwinConv(torch.autograd.Function):
    # autograd through the twin would keep every gathered row of a whole network: gigabytes in float64
    @staticmethod
    def forward(ctx: Any, feats: Tensor, weight: Tensor, lists: Lists) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.lists = lists
        pairs = lists.pairs
        return reference.output_stationary(
            feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, lists.n_out, 0
        )

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        feats, weight = ctx.saved_tensors
        pairs, back = ctx.lists.pairs, weight.transpose(1, 2)
        rows_in, rows_out, starts = pairs.rows_in, pairs.rows_out, pairs.starts
        return (
            reference.output_stationary(grad_out, back, rows_out, rows_in, starts, feats.shape[0], 0),
            reference.output_stationary_grad_weight(feats, grad_out, rows_in, rows_out, starts, 0),
            None,
        )


def _twin(feats: Tensor, weight: Tensor, lists: Lists) -> Tensor:
    out: Tensor = _TwinConv.apply(feats, weight, lists)
    return out


def plain_torch() -> MapLibrary:
    """Gather, matrix product, scatter; its own maps; bfloat16 by oneDNN, added up in float32."""
    dtypes = (torch.float32, torch.bfloat16)
    return MapLibrary("plain torch", plain_map, _plain, dtypes, plain_expanded_map)


def twin() -> MapLibrary:
    """The twins of the kernels, on the twins' own maps; any dtype, made for float64."""
    return MapLibrary("twin", twin_map, _twin, (torch.float32, torch.float64))


def counting(works: list[Work], *, training: bool, dtype: torch.dtype) -> MapLibrary:
    """Computes nothing and appends the work of every convolution to `works`; maps are the package's."""

    def count(feats: Tensor, weight: Tensor, lists: Lists) -> Tensor:
        k, c_in, c_out = weight.shape
        n_pairs = lists.pairs.rows_in.numel()
        works.append(conv_work(lists.n_in, lists.n_out, n_pairs, k, c_in, c_out, training, dtype))
        return feats.new_empty(lists.n_out, c_out)

    return MapLibrary("counting", _our_map, count)


def _our_map(coords: Tensor, relation: Relation) -> tuple[Tensor, Pairs]:
    coarse, kmap = build_map(coords, relation)
    return coarse, kmap.pairs
