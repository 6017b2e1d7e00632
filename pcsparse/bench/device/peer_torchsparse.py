"""TorchSparse++ 2.1 on an accelerator, where a build of it is installed.

Its maps are made at the first layer of a stride and a kernel and stay with the tensor; those of transposed
layers are made anew in every call. Outputs beyond a tensor's `spatial_range` are dropped, so tensors get one
with room. Layers compute in the type of their features, and its autocast decorators are commented out: under
autocast, features go in as 16 bits, as they must to come out so.

Source: mit-han-lab/torchsparse@385f5ce, torchsparse/{tensor,backends}.py, nn/modules/conv.py,
nn/functional/conv/{conv,conv_config}.py, nn/functional/conv/kmap, utils/tune.py.
"""

import importlib
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.device.grid_conv import GridConv
from pcsparse.bench.device.peer import DevicePeer, from_zero
from pcsparse.bench.device.torchsparse_tuning import SAMPLES, Tuner, enter
from pcsparse.bench.library import LibraryConv
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.types import Triple

# where a probe's kernel is applied: an output cell far from the borders of its grid
_CELL, _PROBE_GRID = 16, (1, 64, 64, 64)
# slots of its hash table a voxel: its own number, and one for kernels that reach several coarse cells, 27 / 8
# on average; with too few it refuses and asks for more
_SLOTS, _MORE_SLOTS = 2, 4
# channels that its fast kernels take
_PROBE_CHANNELS = 32


class TorchSparsePlus(DevicePeer):
    """Sorted or unsorted implicit GEMM over maps of a hash table.

    Args:
        device: where its tensors live.

    Raises:
        ImportError: it is not installed, or another version is, or its extension does not load.
    """

    remark = (
        f"tuned by its own tuner, implicit GEMM, on {SAMPLES} inputs; "
        "a layer whose map is ready by the device's clock"
    )

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._package: Any = importlib.import_module("torchsparse")
        version = self._package.__version__
        if not version.startswith("2.1"):
            raise ImportError(f"TorchSparse {version} has another interface; 2.1 is compared on accelerators")
        self._modules: Any = importlib.import_module("torchsparse.nn")
        self._functional: Any = importlib.import_module("torchsparse.nn.functional")
        self._tuner = Tuner(self._package, self._modules.Conv3d, self._functional.conv_config, device)
        self._found: dict[tuple[Layer, Triple, Triple], Tensor] = {}
        self._shift = torch.zeros(3, dtype=torch.int32, device=device)
        self.device, self.name = device, f"TorchSparse++ {version}"

    def allow_tf32(self, allowed: bool) -> None:
        """Whether float32 products may round their factors."""
        self._package.backends.allow_tf32 = allowed

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """bfloat16."""
        return None if dtype in (torch.float16, torch.float32) else "no bfloat16"

    def geometry(self, coords: Tensor) -> tuple[Tensor, list[int], Tensor, int]:
        """Indices from zero up, the size of the grid, what was taken off, and the number of clouds."""
        return from_zero(coords)

    def tensor(self, geometry: Any, feats: Tensor) -> Any:
        """Without maps."""
        indices, shape, self._shift, batch = geometry
        return self._new(indices, feats, (batch, *shape))

    def _new(self, coords: Tensor, feats: Tensor, size: tuple[int, ...]) -> Any:
        kind = feats.device.type
        if torch.is_autocast_enabled(kind):
            feats = feats.to(torch.get_autocast_dtype(kind))
        x = self._package.SparseTensor(feats, coords, spatial_range=size)
        enter(x)
        return x

    def feats(self, x: Any) -> Tensor:
        """(n, c)."""
        found: Tensor = x.feats
        return found

    def replace(self, x: Any, feats: Tensor) -> Any:
        """As its own `cat` does, the grid kept."""
        other = self._package.SparseTensor(feats, x.coords, x.stride, x.spatial_range)
        other._caches = x._caches
        return other

    def coords(self, x: Any, stride: int) -> Tensor:
        """Shifted back by what `geometry` found for the last tensor made."""
        found: Tensor = x.coords.clone()
        found[:, 1:] += torch.div(self._shift, stride, rounding_mode="floor")
        return found

    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Weights (k, c_in, c_out)."""
        return self._made(layer, (kernel,) * 3, (stride,) * 3, _centred((kernel,) * 3), c_in, c_out)

    def offset_order(self, layer: Layer, kernel: int, stride: int) -> Tensor:
        """Which of our offsets each of its weights is, (k,) int64; probed at the first call."""
        return self._order(layer, (kernel,) * 3, (stride,) * 3)

    def grid_tensor(self, coords: Tensor, feats: Tensor, grid: Triple, batch: int) -> Any:
        """Its `spatial_range` is the network's grid."""
        return self._new(coords, feats, (batch, *grid))

    def grid_conv(self, conv: GridConv, c_in: int, c_out: int) -> LibraryConv:
        """Its paddings are those of dense convolutions."""
        layer: Layer = "submanifold" if conv.submanifold else "strided"
        made = self._made(layer, conv.kernel, conv.stride, conv.padding, c_in, c_out)
        made.reorder(self._order(layer, conv.kernel, conv.stride))
        return made

    def grid_coords(self, x: Any) -> Tensor:
        """Its coordinates."""
        found: Tensor = x.coords
        return found

    def _made(
        self, layer: Layer, kernel: Triple, stride: Triple, padding: Triple, c_in: int, c_out: int
    ) -> LibraryConv:
        conv = self._modules.Conv3d(
            c_in, c_out, kernel, stride=stride, padding=padding, transposed=layer == "inverse"
        )
        conv._config = self._tuner.default.copy()
        inner = _ConvReLU(conv, self._package.backends, _slots(kernel, stride))
        return LibraryConv(inner, conv.kernel, lambda weight: weight, _finish)

    def _order(self, layer: Layer, kernel: Triple, stride: Triple) -> Tensor:
        if (layer, kernel, stride) not in self._found:
            self._found[layer, kernel, stride] = self._probe(layer, kernel, stride)
        return self._found[layer, kernel, stride]

    @torch.no_grad()
    def _probe(self, layer: Layer, kernel: Triple, stride: Triple) -> Tensor:
        """One output channel a weight, which is one there alone, over all cells that one output cell reads.

        Raises:
            UnsupportedError: a weight reaches no offset, or two the same.
        """
        taps = torch.tensor(list(itertools.product(*map(range, kernel))), dtype=torch.int32)
        low = [_CELL * s - p for s, p in zip(stride, _centred(kernel), strict=True)]
        k, wide = len(taps), -(-len(taps) // _PROBE_CHANNELS) * _PROBE_CHANNELS
        cells = nn.functional.pad(taps + taps.new_tensor(low), (1, 0)).to(self.device)
        marks = torch.zeros(k, _PROBE_CHANNELS, device=self.device)
        marks[:, 0] = torch.arange(1, k + 1)
        weight = torch.zeros(k, _PROBE_CHANNELS, wide)
        weight[:, 0, :k] = torch.eye(k)

        def run(which: Layer, x: Any) -> Any:
            made = self._made(which, kernel, stride, _centred(kernel), _PROBE_CHANNELS, wide)
            made.load(weight)
            return made.to(self.device).eval()(x)

        x = self._new(cells, marks, _PROBE_GRID)
        x = run("strided" if layer == "inverse" else layer, x)
        here = (x.coords[:, 1:] == _CELL).all(dim=1)
        if layer == "inverse":
            lit = torch.zeros(len(here), _PROBE_CHANNELS, device=self.device)
            lit[here, 0] = 1.0
            found = self.feats(run(layer, self.replace(x, lit)))[:, :k].argmax(dim=0)
        else:
            found = self.feats(x)[here][0, :k].round().long() - 1
        if sorted(found.tolist()) != list(range(k)):
            raise UnsupportedError(
                f"{self.name}: the weights of {layer} {kernel} reach offsets {found.tolist()}"
            )
        return found.cpu()

    def tune(
        self, net: nn.Module, start: Callable[[], Any], forward: Callable[[Any], Tensor], *, warm: bool
    ) -> None:
        """Choose every layer's settings; once for the same layers, rows and precision."""
        self._tuner.tune(net, start, forward, warm=warm)

    def make_map(self, geometry: Any, relation: Relation, way: Way = "down") -> object:
        """What its layers call for inference with the settings that it starts from: tables, rows not sorted.

        Raises:
            UnsupportedError: dilation, which its maps leave out, or another way.
        """
        if way != "down" or max(relation.dilation) > 1:
            raise UnsupportedError(f"{self.name} is not compared in {way} maps or in dilated ones")
        indices, shape, _, batch = geometry
        default = self._tuner.default
        self._package.backends.hash_rsv_ratio = _slots(relation.kernel_size, relation.stride)
        return self._functional.build_kernel_map(
            indices, len(indices), relation.kernel_size, relation.stride, _centred(relation.kernel_size),
            spatial_range=(batch, *shape), mode=default["kmap_mode"], dataflow=default["dataflow"],
            downsample_mode=default["downsample_mode"],
        )  # fmt: skip

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Not read: its convolutions are compared instead.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"the maps of {self.name} are checked by its convolutions")


class _ConvReLU(nn.Module):
    """A convolution and, once it is folded, what its users write after it."""

    def __init__(self, conv: nn.Module, backends: Any, slots: int) -> None:
        super().__init__()
        self.conv, self.relu = conv, False
        self._backends, self._slots = backends, slots

    def forward(self, x: Any) -> Any:
        self._backends.hash_rsv_ratio = self._slots
        y = self.conv(x)
        if self.relu:
            y.feats = y.feats.relu_()
        return y


def _finish(inner: Any, bias: Tensor, relu: bool) -> None:
    inner.conv.bias = nn.Parameter(bias, requires_grad=False)
    inner.relu = relu


def _slots(kernel: Triple, stride: Triple) -> int:
    overlaps = any(1 < step < size for size, step in zip(kernel, stride, strict=True))
    return _MORE_SLOTS if overlaps else _SLOTS


def _centred(kernel: Triple) -> Triple:
    """Paddings of odd edges, as ours are centred; even ones have none."""
    x, y, z = (size // 2 if size % 2 else 0 for size in kernel)
    return x, y, z
