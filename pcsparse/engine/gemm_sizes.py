"""The sizes of a sorted implicit GEMM, and the rule that finds them.

All layers of a map share one layout, whatever their channels: order, splits and tile follow from the map's
sizes, the others from those of the layer, too. Numbers without another source were measured on an H200, in
bfloat16, on the levels of a LiDAR sweep and on a dense block (docs/log.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import RangeError

_PRECISIONS = ("ieee", "tf32", "torch")
_ORDERS = ("auto", "mask", "none")


@dataclass(frozen=True)
class SortedImplicitGemmConfig:
    """Sizes of tiles; 0 for the rule's number, which comes from the sizes of the problem.

    All but `warps` and `stages` shape the order of addition, and so the bits.

    Attributes:
        order: of the output rows: "mask" where they are sorted by their offsets, "none" where they stay, or
            "auto" for the rule's.
        splits: chunks of offsets that are sorted apart, each a partial sum.
        tile: output rows a program owns; pairs multiplied together in grad_weight.
        tile_out: output channels a program owns.
        tile_in: products added in one step; input channels a program owns in grad_weight.
        warps: warps a program; a gradient of features takes twice as many where these lack registers.
        stages: how far loads run ahead.
        parts: into how many partial sums the work of a tile, or of all pairs in grad_weight, is cut.
        precision: of products of float32, "ieee" or "tf32"; "torch" for what torch allows when they are made,
            in a graph that was traced, where torch's switch cannot be read.

    Raises:
        RangeError: a number that no kernel can run with.
    """

    order: str = "auto"
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
        if self.order not in _ORDERS:
            raise RangeError(f"order must be one of {', '.join(_ORDERS)}, got {self.order!r}")
        if self.precision not in _PRECISIONS:
            raise RangeError(f"precision must be one of {', '.join(_PRECISIONS)}, got {self.precision!r}")

    @property
    def layout(self) -> tuple[int, int]:
        """Splits and tile of the layout that it reads (`KernelMap.layout`), once no number is the rule's."""
        return self.splits if self.order == "mask" else 0, self.tile


# a level of fewer rows has too few tiles to keep 132 processors busy, and the heaviest of them take longest:
# there splits, which also save most, repay their partial sums
_MANY_ROWS, _FEW_ROWS_SPLITS = 16384, 3
# multiply-adds of all offsets, with and without a neighbour, below which one pass over unsorted rows costs
# less than the sort; a symmetric map is that of many layers, others mostly of one
_WORTH_SORTING = 1 << 34
# rows whose tiles are enough for all processors even where a program owns 256 channels
_WIDE_ROWS = 65536
_PROGRAMS = 264
_MOST_PARTS, _STEPS_A_PART = 8, 8
_MOST_BYTES_A_STEP = 256
# rows of a tile of output channels, as they are stored, that a warp owns: half of its registers for sums in
# float32 of 16 bits, a quarter for those of float32, beside which a residual row lies as it ends. Twice as
# much spills 500 to 1,300 bytes a thread on sm_90, and up to 10,000 on sm_80
_MOST_BYTES_A_WARP = 8192


@lru_cache(maxsize=4096)
def sizes_for(
    k: int, c_in: int, c_out: int, n_out: int, itemsize: int, symmetric: bool, precision: str
) -> SortedImplicitGemmConfig:
    """The rule: sizes for a problem, from its sizes alone."""
    exact = itemsize == 4 and precision == "ieee"
    # products outside of tensor cores keep their operands in registers
    tile, widest = (64, 64) if exact else (128, 256 if n_out >= _WIDE_ROWS and itemsize == 2 else 128)
    tile_out = min(_power_of_two(c_out), widest)
    # a step of 64 channels where they are a multiple of it: rows of 128 bytes
    tile_in = 16 if exact else 64 if c_in % 64 == 0 and itemsize == 2 else 32
    order = "mask" if k > 1 and (symmetric or k * c_in * c_out * n_out >= _WORTH_SORTING) else "none"
    splits = _FEW_ROWS_SPLITS if order == "mask" and k >= 27 and n_out < _MANY_ROWS else 1
    programs = max(1, splits * -(-n_out // tile) * -(-c_out // tile_out))
    steps = k * -(-c_in // tile_in) // (2 * splits)
    parts = max(1, min(_MOST_PARTS, _PROGRAMS // programs, steps // _STEPS_A_PART))
    warps = _fewest_warps(tile, tile_out, itemsize)
    return SortedImplicitGemmConfig(order, splits, tile, tile_out, tile_in, warps, 5, parts, precision)


@lru_cache(maxsize=4096)
def completed(
    config: SortedImplicitGemmConfig,
    k: int,
    c_in: int,
    c_out: int,
    n_out: int,
    itemsize: int,
    symmetric: bool,
) -> SortedImplicitGemmConfig:
    """The config with the rule's numbers where it has none; no more splits than offsets."""
    rule = sizes_for(k, c_in, c_out, n_out, itemsize, symmetric, config.precision)
    order = rule.order if config.order == "auto" else config.order
    known = {name: value for name, value in vars(config).items() if value}
    splits = min(config.splits or rule.splits, max(k, 1)) if order == "mask" else 1
    return replace(rule, **(known | {"order": order, "splits": splits}))


def candidates(plain: SortedImplicitGemmConfig, problem: ConvProblem) -> Iterator[SortedImplicitGemmConfig]:
    """The rule's sizes with one or two of them changed, each once, for a tuner."""
    sizes = problem.k, problem.c_in, problem.c_out, problem.n_out, problem.dtype.itemsize
    best = sizes_for(*sizes, problem.symmetric, plain.precision)
    tried = {best}
    for config in _around(best, problem):
        fewest = _fewest_warps(config.tile, config.tile_out, problem.dtype.itemsize)
        if config not in tried and config.warps >= fewest:
            tried.add(config)
            yield config


def _around(best: SortedImplicitGemmConfig, problem: ConvProblem) -> Iterator[SortedImplicitGemmConfig]:
    for tile in (64, 128):
        yield replace(best, order="none", splits=1, tile=tile)
        for splits in range(1, min(4, problem.k) + 1):
            yield replace(best, order="mask", splits=splits, tile=tile)
    widest = _power_of_two(problem.c_out)
    for tile_out in (32, 64, 128, 256):
        for tile_in in (32, 64, 128):
            if tile_out <= widest and tile_in * problem.dtype.itemsize <= _MOST_BYTES_A_STEP:
                warps = max(best.warps, min(8, _fewest_warps(best.tile, tile_out, problem.dtype.itemsize)))
                yield replace(best, tile_out=tile_out, tile_in=tile_in, warps=warps)
    yield from (replace(best, warps=warps) for warps in (4, 8))
    yield from (replace(best, stages=stages) for stages in (3, 5, 7))
    yield from (replace(best, parts=parts) for parts in (1, 2, 4, 8))


def _fewest_warps(tile: int, tile_out: int, itemsize: int) -> int:
    """Warps, 4 or more, whose registers hold the sums of a tile."""
    return max(4, tile * tile_out * itemsize // _MOST_BYTES_A_WARP)


def _power_of_two(channels: int) -> int:
    """The least tile that holds them."""
    return max(16, 1 << (channels - 1).bit_length())
