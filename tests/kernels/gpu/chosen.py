"""What the rule launches for the layers of the shipped networks, as cases of `compile_launches`."""

from collections.abc import Callable, Iterator

import torch

from pcsparse.engine.gemm_sizes import SortedImplicitGemmConfig, sizes_for
from pcsparse.models import MinkUNet, MinkUNetSpec, SecondBackbone, SecondSpec
from pcsparse.nn.tuning import conv_calls
from pcsparse.sparse_tensor import SparseTensor

PRODUCTS = {
    "float16": (torch.float16, "ieee"),
    "bfloat16": (torch.bfloat16, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "float32": (torch.float32, "ieee"),
}
"""Features and weights, and how their products are rounded."""
# voxels on either side of the rule's thresholds, 16,384 and 65,536, and so many that places of 128 channels
# and more pass 2^31
_ROWS = (1_500, 20_000, 100_000, 17_000_000)
# whose code is that of float16 but for the name of the type
_FEWER_ROWS = {"bfloat16": (100_000,)}
_GRID = (64, 64, 40)

Layer = tuple[int, int, int, bool]
"""Offsets, channels in and out, and whether the map is symmetric."""


def layers() -> list[Layer]:
    """Of MinkUNet-18 and -34 and of both backbones of SECOND, each once."""
    networks = {
        MinkUNet(MinkUNetSpec.minkunet18()): 4,
        MinkUNet(MinkUNetSpec.minkunet34()): 4,
        SecondBackbone(SecondSpec.voxel(5, _GRID)): 5,
        SecondBackbone(SecondSpec.residual_voxel(5, _GRID)): 5,
    }
    coords = torch.zeros(40, 4, dtype=torch.int32)
    coords[:, 1:] = torch.arange(40)[:, None]
    found = set()
    for network, channels in networks.items():
        cloud = SparseTensor(torch.zeros(len(coords), channels), coords, batch_size=1)
        for call in conv_calls(network, cloud):
            problem = call.problem
            found.add((problem.k, problem.c_in, problem.c_out, problem.symmetric))
    return sorted(found)


def chosen(name: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """All passes of all layers with the sizes of the rule, by a name of `PRODUCTS`; they need no memory."""
    dtype, precision = PRODUCTS[name]
    for k, c_in, c_out, symmetric in layers():
        for n in _FEWER_ROWS.get(name, _ROWS):
            title = f"{name}, {k} offsets, {c_in} -> {c_out}, {n} rows"
            sizes = sizes_for(k, c_in, c_out, n, dtype.itemsize, symmetric, precision)
            yield f"{title}, forward", gemm(k, c_in, c_out, n, dtype, sizes)
            sizes = sizes_for(k, c_out, c_in, n, dtype.itemsize, symmetric, precision)
            yield f"{title}, grad_feats", gemm(k, c_out, c_in, n, dtype, sizes, transposed=True)
            yield f"{title}, grad_weight", _grad_weight(k, c_in, c_out, n, dtype, precision)


def gemm(
    k: int,
    c_in: int,
    c_out: int,
    n: int,
    dtype: torch.dtype,
    sizes: SortedImplicitGemmConfig,
    *,
    transposed: bool = False,
) -> Callable[[], object]:
    """A convolution with these sizes, as it ends in a fused network; if transposed, an input gradient."""

    def run() -> object:
        from pcsparse.kernels.gpu import gemm_layout, implicit_gemm

        def rows(*shape: int, of: torch.dtype = dtype) -> torch.Tensor:
            return torch.empty(shape, dtype=of, device="meta")

        weight = rows(k, c_out, c_in).transpose(1, 2) if transposed else rows(k, c_in, c_out)
        splits = sizes.splits if sizes.order == "mask" else 0
        layout = gemm_layout(rows(k, n, of=torch.int32), splits, sizes.tile)
        last = {} if transposed else {"bias": rows(c_out), "residual": rows(n, c_out), "relu": True}
        numbers = sizes.tile_out, sizes.tile_in, sizes.warps, sizes.stages, sizes.parts, sizes.precision
        return implicit_gemm(rows(n, c_in), weight, layout, n, *numbers, **last)

    return run


def _grad_weight(
    k: int, c_in: int, c_out: int, n: int, dtype: torch.dtype, precision: str
) -> Callable[[], object]:
    def run() -> object:
        from pcsparse.kernels.gpu import grad_weight_layout, implicit_gemm_grad_weight

        feats, grad_out = (torch.empty(n, c, dtype=dtype, device="meta") for c in (c_in, c_out))
        table = torch.empty(k, n, dtype=torch.int32, device="meta")
        layout = grad_weight_layout(table)
        return implicit_gemm_grad_weight(feats, grad_out, table, layout, precision=precision)

    return run
