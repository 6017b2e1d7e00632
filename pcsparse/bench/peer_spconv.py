"""spconv's CPU wheel, where it is installed.

Its CPU convolutions race: with more than one thread rows are wrong, so it runs with one. There is no backward
pass on a CPU. `forward` works on a copy of its input's table of maps, so a layer called twice on one tensor
would build its map twice: `keep_maps` hands the table back. A strided layer refuses a map that is there.

Source: traveller59/spconv 2.3.8, spconv/pytorch/conv.py and ops.py.
"""

from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError

# a multiple of every stride, below the lowest coordinate
_ALIGN = 64


class Spconv(Library):
    """Rulebooks of a hash, one GEMM an offset, scatter."""

    threads = 1
    keeps_strided_maps = False
    remark = "1 thread: with more, its rows are wrong by a race; no backward pass on a CPU"

    def __init__(self) -> None:
        super().__init__()
        import spconv.pytorch as spconv
        from spconv.core import ConvAlgo
        from spconv.pytorch import ops

        self._spconv, self._ops, self._algo = spconv, ops, ConvAlgo.Native
        self._shift = torch.zeros(3, dtype=torch.int32)
        self.name = f"spconv {metadata.version('spconv')} (1 thread)"

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """Gradients, and all but float32."""
        return "no backward pass on a CPU" if backward else super().refuses(backward=backward, dtype=dtype)

    def geometry(self, coords: Tensor) -> tuple[Tensor, list[int], Tensor]:
        """Indices from zero up, and the size of the grid."""
        low = coords[:, 1:].amin(dim=0) if len(coords) else coords.new_zeros(3)
        shift = torch.div(low, _ALIGN, rounding_mode="floor") * _ALIGN
        indices = coords.clone()
        indices[:, 1:] -= shift
        high = indices[:, 1:].amax(dim=0) if len(coords) else shift
        # room for the neighbours of the last voxels
        return indices, [int(size) // _ALIGN * _ALIGN + 2 * _ALIGN for size in high], shift

    def tensor(self, geometry: Any, feats: Tensor) -> Any:
        """With an empty table of maps."""
        indices, shape, self._shift = geometry
        return self._spconv.SparseConvTensor(feats, indices, shape, 1)

    def feats(self, x: Any) -> Tensor:
        """(n, c)."""
        found: Tensor = x.features
        return found

    def replace(self, x: Any, feats: Tensor) -> Any:
        """The same table of maps."""
        return x.replace_feature(feats)

    def coords(self, x: Any, stride: int) -> Tensor:
        """Shifted back by what `geometry` found for the last tensor made."""
        found: Tensor = x.indices.clone()
        found[:, 1:] += torch.div(self._shift, stride, rounding_mode="floor")
        return found

    def keep_maps(self, x: Any, y: Any) -> None:
        """Hand the table of maps back."""
        x.indice_dict = y.indice_dict

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Weights (c_out, x, y, z, c_in)."""
        key = {"submanifold": f"cube {level}"}.get(layer, f"halve {level}")
        make = self._spconv
        if layer == "submanifold":
            module = make.SubMConv3d(c_in, c_out, kernel, bias=False, indice_key=key)
        elif layer == "strided":
            module = make.SparseConv3d(c_in, c_out, kernel, stride=stride, bias=False, indice_key=key)
        else:
            module = make.SparseInverseConv3d(c_in, c_out, kernel, bias=False, indice_key=key)
        return LibraryConv(module, module.weight, _as_ours)

    def make_map(self, geometry: Any, relation: Relation, way: Way = "down") -> object:
        """What its layers call to build a rulebook; inverse layers read that of the way down backwards.

        Raises:
            UnsupportedError: a kernel that reaches below the grid, where its layers drop outputs.
        """
        indices, shape, shift = geometry
        first, last = relation.steps()[0], relation.steps()[-1]
        reaches = any(step >= size for step, size in zip(last, relation.stride, strict=True))
        if min(-step for step in first) < 0 or (reaches and not relation.is_submanifold):
            raise UnsupportedError(f"not compared: spconv drops outputs of {relation} at the border")
        made = self._ops.get_indice_pairs(
            indices, 1, shape, self._algo, list(relation.kernel_size), list(relation.stride),
            [-step for step in first], list(relation.dilation), [0, 0, 0],
            relation.is_submanifold, way == "generative",
        )  # fmt: skip
        return made, shift, relation, way

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Half of a submanifold map is stored: the other half is its mirror image."""
        (out, pairs, counts), shift, relation, way = made
        coords, stride = out.clone(), shift.new_tensor(relation.stride)
        if way == "generative":
            coords[:, 1:] += shift * stride
        else:
            coords[:, 1:] += torch.div(shift, stride, rounding_mode="floor")
        lists = [pairs[:, k, : int(count)] for k, count in enumerate(counts)]
        if relation.is_submanifold:
            middle = len(lists) // 2
            n = len(out)
            lists[middle] = torch.arange(n, dtype=torch.int32).expand(2, n)
            lists[middle + 1 :] = [part.flip(0) for part in reversed(lists[:middle])]
        starts = torch.tensor([0, *(part.shape[1] for part in lists)]).cumsum(0)
        both = torch.cat(lists, dim=1)
        rows_in, rows_out = both.flip(0) if way == "inverse" else both
        return coords, Pairs(rows_in, rows_out, starts)


def _as_ours(weight: Tensor) -> Tensor:
    return weight.permute(1, 2, 3, 4, 0).flatten(0, 2)
