"""spconv and spconv-triton on an accelerator: one interface, so one adapter.

Both build a map at the first layer with its `indice_key` and keep it with the tensor. A strided layer refuses
a map that is there. Batch norm and ReLU fold into a layer as its bias and `act_type`, which their inference
kernels apply in the epilogue; a residual sum they do apart.

Source: traveller59/spconv 2.3.8, spconv/pytorch/{conv,ops}.py; L-Reichardt/spconv-triton 1.0.0, the same.
"""

import importlib
import warnings
from abc import abstractmethod
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.cases import Layer, Way
from pcsparse.bench.device.grid_conv import GridConv
from pcsparse.bench.library import Library, LibraryConv
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.types import Triple

# a multiple of every stride, below the lowest coordinate
_ALIGN = 64
SPCONV_LIKE = ("spconv", "spconv_triton")
# of spconv-triton's 36 and 21 candidates: a sweep of all would compile for minutes, layer by layer
_FEW_GEMM = ((128, 128, 64, 8, 4), (128, 64, 64, 4, 3), (64, 64, 64, 4, 4), (128, 256, 64, 8, 3),
             (128, 32, 32, 4, 4), (128, 16, 16, 4, 4))  # fmt: skip
_FEW_DWEIGHT = ((64, 64, 64, 4, 3), (128, 64, 64, 8, 4), (128, 128, 64, 8, 3), (128, 32, 32, 4, 4))

_BLOCK = 1024


class DevicePeer(Library):
    """Abstract: a library on an accelerator; what one of them has not, it refuses by name.

    Attributes:
        device: where its tensors live.
        orders_rows: whether `make_map` makes the order of rows, too, that its convolutions need.
    """

    device: torch.device
    orders_rows: bool = False

    @abstractmethod
    def allow_tf32(self, allowed: bool) -> None:
        """Whether float32 products may round their factors."""

    def generative(self, kernel: int, stride: int, c_in: int, c_out: int) -> LibraryConv:
        """A transposed layer that makes its voxels."""
        raise UnsupportedError(f"{self.name} is not compared in generative layers")

    def grid_conv(self, conv: GridConv, c_in: int, c_out: int) -> LibraryConv:
        """A layer of a network on a grid."""
        raise UnsupportedError(f"{self.name} is not compared in networks on a grid")

    def tune(
        self, net: nn.Module, start: Callable[[], Any], forward: Callable[[Any], Tensor], *, warm: bool
    ) -> None:
        """What its users do once before they run, where they do anything; not timed.

        Args:
            net: its layers, in the mode in which they will run.
            start: gives a new input, without any map.
            forward: features (n, c) that come of an input.
            warm: whether maps will be ready in the runs that are timed.
        """


class SpconvPeer(DevicePeer):
    """A library with spconv's interface.

    Args:
        package: "spconv" or "spconv_triton".
        device: where its tensors live.

    Raises:
        ImportError: the package is not installed, or its libraries do not load.
    """

    keeps_strided_maps = False
    # by their masks, for both ways of a strided map
    orders_rows = True

    def __init__(self, package: str, device: torch.device) -> None:
        super().__init__()
        with warnings.catch_warnings():
            # they have an older torch in mind
            warnings.simplefilter("ignore")
            self._make = importlib.import_module(f"{package}.pytorch")
            self._ops = importlib.import_module(f"{package}.pytorch.ops")
            self._constants = importlib.import_module(f"{package}.constants")
            # where its name of a ReLU lies
            names = importlib.import_module("cumm" if package == "spconv" else "spconv_triton.compat")
            self._relu = (names.tensorview if package == "spconv" else names.tv).gemm.Activation.ReLU
        self._algo = importlib.import_module(f"{package}.core").ConvAlgo.MaskImplicitGemm
        if package != "spconv":
            self.remark = _few_configs()
        self.device = device
        # a CPU build has one algorithm, which takes in nothing
        self._fuses = device.type == "cuda"
        self._shift = torch.zeros(3, dtype=torch.int32, device=device)
        self.name = f"{package} {_version(package)}"

    def allow_tf32(self, allowed: bool) -> None:
        """Whether float32 products may round their factors."""
        vars(self._constants)["SPCONV_ALLOW_TF32"] = allowed

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """bfloat16."""
        return None if dtype in (torch.float16, torch.float32) else "no bfloat16"

    def geometry(self, coords: Tensor) -> tuple[Tensor, list[int], Tensor, int]:
        """Indices from zero up, the size of the grid, what was taken off, and the number of clouds."""
        return from_zero(coords)

    def tensor(self, geometry: Any, feats: Tensor) -> Any:
        """With an empty table of maps."""
        indices, shape, self._shift, batch = geometry
        return self._make.SparseConvTensor(feats, indices, shape, batch)

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
        key = {"submanifold": f"cube {kernel} {level}"}.get(layer, f"halve {kernel} {level}")
        if layer == "submanifold":
            module = self._make.SubMConv3d(c_in, c_out, kernel, bias=False, indice_key=key)
        elif layer == "strided":
            # an odd kernel is centred, as ours is
            padding = kernel // 2 if kernel % 2 else 0
            module = self._make.SparseConv3d(
                c_in, c_out, kernel, stride=stride, padding=padding, bias=False, indice_key=key
            )
        else:
            module = self._make.SparseInverseConv3d(c_in, c_out, kernel, bias=False, indice_key=key)
        return self._wrapped(module)

    def conv(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """Offsets are in our order; every result is compared with the twin's."""
        return self.layer(layer, kernel, stride, c_in, c_out, level)

    def generative(self, kernel: int, stride: int, c_in: int, c_out: int) -> LibraryConv:
        """A transposed layer that makes its voxels."""
        return self._wrapped(self._make.SparseConvTranspose3d(c_in, c_out, kernel, stride=stride, bias=False))

    def _wrapped(self, module: nn.Module) -> LibraryConv:
        return LibraryConv(module, module.weight, _as_ours, self._finish if self._fuses else None)  # type: ignore[arg-type]

    def _finish(self, inner: Any, bias: Tensor, relu: bool) -> None:
        inner.bias = nn.Parameter(bias, requires_grad=False)
        if relu:
            inner.act_type = self._relu

    def grid_tensor(self, coords: Tensor, feats: Tensor, grid: Triple, batch: int) -> Any:
        """Its grid is the network's."""
        return self._make.SparseConvTensor(feats, coords, list(grid), batch)

    def grid_conv(self, conv: GridConv, c_in: int, c_out: int) -> LibraryConv:
        """Its paddings are those of dense convolutions."""
        if conv.submanifold:
            module = self._make.SubMConv3d(c_in, c_out, list(conv.kernel), bias=False, indice_key=conv.key)
        else:
            module = self._make.SparseConv3d(
                c_in,
                c_out,
                list(conv.kernel),
                stride=list(conv.stride),
                padding=list(conv.padding),
                bias=False,
                indice_key=conv.key,
            )
        return self._wrapped(module)

    def grid_coords(self, x: Any) -> Tensor:
        """Its indices."""
        found: Tensor = x.indices
        return found

    def make_map(self, geometry: Any, relation: Relation, way: Way = "down") -> object:
        """What its layers call to build a map for inference; a strided map has both ways.

        Raises:
            UnsupportedError: on a CPU, where there are no such maps.
        """
        if self.device.type != "cuda":
            raise UnsupportedError(f"{self.name} builds these maps on an accelerator alone")
        indices, shape, _, batch = geometry
        padding = [size // 2 if size % 2 else 0 for size in relation.kernel_size]
        return self._ops.get_indice_pairs_implicit_gemm(
            indices, batch, shape, self._algo, list(relation.kernel_size), list(relation.stride), padding,
            list(relation.dilation), [0, 0, 0], subm=relation.is_submanifold, transpose=way == "generative",
            is_train=not relation.is_submanifold,
        )  # fmt: skip

    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Not read: its convolutions are compared instead.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(f"the maps of {self.name} are checked by its convolutions")


def from_zero(coords: Tensor) -> tuple[Tensor, list[int], Tensor, int]:
    """Indices (n, 4) from zero up, the size of a grid around them, what was taken off (3,), and clouds."""
    low = coords[:, 1:].amin(dim=0) if len(coords) else coords.new_zeros(3)
    shift = torch.div(low, _ALIGN, rounding_mode="floor") * _ALIGN
    indices = coords.clone()
    indices[:, 1:] -= shift
    high = indices.amax(dim=0).tolist() if len(coords) else [0, 0, 0, 0]
    # room for the neighbours of the last voxels
    shape = [size // _ALIGN * _ALIGN + 2 * _ALIGN for size in high[1:]]
    return indices, shape, shift, high[0] + 1


def _few_configs() -> str:
    gemm = importlib.import_module("spconv_triton.pytorch._impl.gemm")
    for kernel, few, names in (
        (gemm._gather_gemm_kernel, _FEW_GEMM, ("BLOCK_M", "BLOCK_N", "BLOCK_R")),
        (gemm._dweight_masked_kernel, _FEW_DWEIGHT, ("BLOCK_P", "BLOCK_K", "BLOCK_C")),
    ):
        kernel.configs = [
            config
            for config in kernel.configs
            if (*(config.kwargs[name] for name in names), config.num_warps, config.num_stages) in few
            and config.kwargs.get("GROUP_SIZE_M", 8) == 8
        ]
        kernel.cache_results = False
    pairs = importlib.import_module("spconv_triton.pytorch._impl.pair_kernels")
    for kernel in vars(pairs).values():
        if hasattr(kernel, "configs"):
            kernel.configs = [c for c in kernel.configs if c.kwargs.get("BLOCK") == _BLOCK][
                :1
            ] or kernel.configs
    return f"tunes among {len(_FEW_GEMM)} and {len(_FEW_DWEIGHT)} of its candidates, to end in time"


def _version(package: str) -> str:
    for name in (package.replace("_", "-"), f"{package}-cu126", f"{package}-cu120"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "of unknown version"


def _as_ours(weight: Tensor) -> Tensor:
    return weight.permute(1, 2, 3, 4, 0).flatten(0, 2)
