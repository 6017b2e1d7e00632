"""Sorted implicit GEMM: tiles of alike output rows gather and multiply without a buffer, on tensor cores.

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4; JeffreyXiang/FlexGEMM@6dd94a8.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import PLAIN, Dataflow, Epilogue
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of

_PRECISIONS = ("ieee", "tf32")


@dataclass(frozen=True)
class SortedImplicitGemmConfig:
    """Sizes of tiles; 0 for the rule's number, which comes from the sizes of the problem.

    All but `warps` and `stages` shape the order of addition, and so the bits.

    Attributes:
        splits: chunks of offsets that are sorted apart, each a partial sum.
        tile: output rows a program owns; pairs multiplied together in grad_weight.
        tile_out: output channels a program owns.
        tile_in: products added in one step; input channels a program owns in grad_weight.
        warps: warps a program.
        stages: how far loads run ahead.
        parts: into how many partial sums the work of a tile, or of all pairs in grad_weight, is cut.
        precision: of products of float32, "ieee" or "tf32".

    Raises:
        RangeError: a number that no kernel can run with.
    """

    splits: int = 0
    tile: int = 0
    tile_out: int = 0
    tile_in: int = 0
    warps: int = 0
    stages: int = 0
    parts: int = 0
    precision: str = "ieee"

    def __post_init__(self) -> None:
        """Check what a file or a caller gave."""
        tiles = (self.tile, self.tile_out, self.tile_in)
        if any(size and (size < 16 or size & (size - 1)) for size in tiles):
            raise RangeError(f"tiles must be powers of two from 16, or 0 for the rule's, got {self}")
        if self.warps not in (0, 4, 8) or min(self.splits, self.stages, self.parts) < 0:
            raise RangeError(f"warps must be 4 or 8, and other numbers not negative, got {self}")
        if self.precision not in _PRECISIONS:
            raise RangeError(f"precision must be one of {', '.join(_PRECISIONS)}, got {self.precision!r}")


@final
class SortedImplicitGemm(Dataflow[SortedImplicitGemmConfig]):
    """Contract and kernels: `kernels.protocol.Backend.implicit_gemm`."""

    name = "sorted_implicit_gemm"
    devices = ("cuda",)
    config_class = SortedImplicitGemmConfig

    def refuses(self, problem: ConvProblem) -> str | None:
        """Only a GPU runs it, not in float64, and on maps whose outputs occur once at an offset."""
        if problem.device not in self.devices:
            return f"it is for GPUs and has no kernel on {problem.device}"
        if problem.dtype == torch.float64:
            return "it adds in float32, and the features are float64"
        return None if problem.distinct else "an offset of the map leads several inputs to one output"

    def configs(self, problem: ConvProblem) -> Iterator[SortedImplicitGemmConfig]:
        """The rule first, then what differs from it in one or two sizes."""
        plain = SortedImplicitGemmConfig(precision=_precision(problem.dtype))
        yield plain
        itemsize = problem.dtype.itemsize
        best = sizes_for(problem.k, problem.c_in, problem.c_out, problem.n_out, itemsize, plain.precision)
        # the rule's numbers are those of the plain one
        tried = {best}
        for config in _around(best, problem):
            if config not in tried:
                tried.add(config)
                yield config

    def configs_grad_weight(self, problem: ConvProblem) -> Iterator[SortedImplicitGemmConfig]:
        """The kernel's rule, then tiles and numbers of partial sums."""
        plain = SortedImplicitGemmConfig(precision=_precision(problem.dtype))
        yield plain
        yield from (replace(plain, tile=tile) for tile in (32, 64, 128))
        yield from (replace(plain, parts=parts) for parts in (8, 32, 128))

    def forward(
        self,
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        config: SortedImplicitGemmConfig,
        epilogue: Epilogue = PLAIN,
    ) -> Tensor:
        """See the base class."""
        return self._run(feats, weight, kmap, config, epilogue, mirrored=False)

    def grad_feats(
        self, grad_out: Tensor, weight: Tensor, kmap: KernelMap, config: SortedImplicitGemmConfig
    ) -> Tensor:
        """See the base class; a symmetric map is its own transpose, with the offsets mirrored."""
        back = kmap if kmap.symmetric else kmap.transposed()
        return self._run(grad_out, weight.transpose(1, 2), back, config, PLAIN, mirrored=kmap.symmetric)

    @staticmethod
    def _run(
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        config: SortedImplicitGemmConfig,
        epilogue: Epilogue,
        *,
        mirrored: bool,
    ) -> Tensor:
        k, c_in, c_out = weight.shape
        sizes = _completed(config, k, c_in, c_out, kmap.n_out, feats.element_size())
        passing = epilogue.passing
        return backend_of(feats, weight).implicit_gemm(
            feats,
            weight,
            kmap.layout(sizes.splits, sizes.tile),
            kmap.n_out,
            sizes.tile_out,
            sizes.tile_in,
            sizes.warps,
            sizes.stages,
            sizes.parts,
            sizes.precision,
            mirrored,
            bias=epilogue.bias,
            residual=epilogue.residual,
            relu=epilogue.relu,
            mask=None if passing is None else passing.mask,
            through=None if passing is None else passing.feats,
            scale=None if passing is None else passing.scale,
            shift=None if passing is None else passing.shift,
        )

    def grad_weight(
        self, feats: Tensor, grad_out: Tensor, kmap: KernelMap, config: SortedImplicitGemmConfig
    ) -> Tensor:
        """See the base class."""
        few = feats.shape[1] <= _FEW_CHANNELS
        return backend_of(feats, grad_out).implicit_gemm_grad_weight(
            feats,
            grad_out,
            kmap.table,
            None if few else kmap.grad_weight_layout(),
            tile_in=config.tile_in,
            tile_out=config.tile_out,
            tile_rows=config.tile,
            partials=config.parts,
            precision=config.precision,
        )


def _around(best: SortedImplicitGemmConfig, problem: ConvProblem) -> Iterator[SortedImplicitGemmConfig]:
    for splits in range(1, min(4, problem.k) + 1):
        yield from (replace(best, splits=splits, tile=tile) for tile in (64, 128))
    widest = _power_of_two(problem.c_out)
    for tile_out in (32, 64, 128, 256):
        for tile_in in (32, 64, 128):
            if tile_out <= widest and tile_in * problem.dtype.itemsize <= _MOST_BYTES_A_STEP:
                yield replace(best, tile_out=tile_out, tile_in=tile_in)
    yield from (replace(best, warps=warps) for warps in (4, 8))
    yield from (replace(best, stages=stages) for stages in (3, 5, 7))
    yield from (replace(best, parts=parts) for parts in (1, 2, 4, 8))


def _precision(dtype: torch.dtype) -> str:
    """What torch is allowed to do with products of float32: its own switch for that."""
    narrow = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if narrow else "ieee"


# channels below which several offsets share a tile of grad_weight, and the table is read as it is
_FEW_CHANNELS = 16

# Numbers measured on an H200, bfloat16, on the levels of a LiDAR sweep and on a dense block (docs/log.md).
# All layers of a level share one layout, whatever their channels, so that splits and tile follow from k and
# the rows alone. A level of few rows has too few tiles to keep 132 processors busy, and the heaviest of them
# take longest: there splits, which also save most, repay their partial sums.
_MANY_ROWS, _FEW_ROWS_SPLITS = 16384, 3
# rows whose tiles are enough for all processors even where a program owns 256 channels
_WIDE_ROWS = 65536
_PROGRAMS = 264
_MOST_PARTS, _STEPS_A_PART = 8, 8
_MOST_BYTES_A_STEP = 256


@lru_cache(maxsize=4096)
def sizes_for(
    k: int, c_in: int, c_out: int, n_out: int, itemsize: int, precision: str
) -> SortedImplicitGemmConfig:
    """The rule: sizes for a problem, from its sizes alone."""
    exact = itemsize == 4 and precision == "ieee"
    # products outside of tensor cores keep their operands in registers
    tile, widest = (64, 64) if exact else (128, 256 if n_out >= _WIDE_ROWS and itemsize == 2 else 128)
    tile_out = min(_power_of_two(c_out), widest)
    # a step of 64 channels where they are a multiple of it: rows of 128 bytes
    tile_in = 16 if exact else 64 if c_in % 64 == 0 and itemsize == 2 else 32
    splits = _FEW_ROWS_SPLITS if k >= 27 and n_out < _MANY_ROWS else 1
    programs = max(1, splits * -(-n_out // tile) * -(-c_out // tile_out))
    steps = k * -(-c_in // tile_in) // (2 * splits)
    parts = max(1, min(_MOST_PARTS, _PROGRAMS // programs, steps // _STEPS_A_PART))
    warps = 8 if tile * tile_out >= 128 * 256 else 4
    return SortedImplicitGemmConfig(splits, tile, tile_out, tile_in, warps, 5, parts, precision)


@lru_cache(maxsize=4096)
def _completed(
    config: SortedImplicitGemmConfig, k: int, c_in: int, c_out: int, n_out: int, itemsize: int
) -> SortedImplicitGemmConfig:
    """The config with the rule's numbers where it has none; no more splits than offsets."""
    rule = vars(sizes_for(k, c_in, c_out, n_out, itemsize, config.precision))
    sizes = {name: value or rule[name] for name, value in vars(config).items()}
    return SortedImplicitGemmConfig(**(sizes | {"splits": min(sizes["splits"], max(k, 1))}))


def _power_of_two(channels: int) -> int:
    """The least tile that holds them."""
    return max(16, 1 << (channels - 1).bit_length())
