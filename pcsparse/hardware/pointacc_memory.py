"""What PointAcc's memory unit moves for a layer: with its input buffer as a cache, and without.

*Fetch on demand*: a pair of the map asks for its input row when its turn comes, and nothing is gathered
before. Pairs come in the order in which the mapping unit makes them: by tiles of output rows, in each by
offset, in each ascending. *Hybrid order of loops*: the sums of a tile of output rows and output channels stay
in the accumulators while all offsets and input channels go by; within, a tile of weights stays in the array
while the pairs of its offset go by. Either all input channels of an offset go by before the next offset, and
a list of pairs is read once for them, or all offsets before the next input channels (*channels outer*), and
fewer rows are in use at a time. Where the weights of a tile of output channels do not fit into their buffer,
either they are fetched again for every tile of rows (*sums stay*), or the loops go over groups of weights
that fit, and the sums leave and come back between groups (*weights stay*).

Size of a block and order of loops are chosen a layer, by trying all, as software would for the chip. Which
sizes, and that the choice is by bytes of the DRAM, is ours.

To compare with: *no cache*, the same loops with every fetch from the DRAM; and *gather and scatter*, as a GPU
does it without fusion: gathered rows are written to the DRAM and read back, and so are the products of each
pair, which are then added into the outputs.

Rows that a layer adds up before it multiplies them are fetched like pairs, and weighted and added on their
way to the array; their weights are where a pair has its output row. Channels beside them are read by row.

Source: Lin et al., PointAcc (MICRO 2021, arXiv 2110.07600), section 4 (unverified).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pcsparse.errors import RangeError
from pcsparse.hardware.pointacc_cache import BYTES, MISSES, Cache, fresh_counts, run_cache
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_cycles import Ints
from pcsparse.hardware.trace import LayerTrace

BLOCK_POINTS = (1, 2, 4, 8, 16)
"""Rows of a block that the search tries."""


@dataclass(frozen=True)
class CacheConfig:
    """How a layer uses the memory.

    Attributes:
        block_points: consecutive rows of a block, a power of two.
        all_channels: whether a block has all input channels, or those of one tile of the array.
        channels_outer: whether the loop over input channels is around that over offsets.
        weights_stay: whether sums leave the chip rather than weights.
    """

    block_points: int = 1
    all_channels: bool = False
    channels_outer: bool = False
    weights_stay: bool = False


@dataclass(frozen=True)
class Traffic:
    """Bytes to and from the DRAM.

    Attributes:
        inputs: features read.
        weights: read.
        outputs: features written.
        sums: that leave and come back; what is gathered and scattered.
        maps: pairs read.
    """

    inputs: int = 0
    weights: int = 0
    outputs: int = 0
    sums: int = 0
    maps: int = 0

    @property
    def total(self) -> int:
        """All."""
        return self.inputs + self.weights + self.outputs + self.sums + self.maps

    @property
    def features(self) -> int:
        """Without weights and maps."""
        return self.inputs + self.outputs + self.sums

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.inputs + other.inputs,
            self.weights + other.weights,
            self.outputs + other.outputs,
            self.sums + other.sums,
            self.maps + other.maps,
        )


@dataclass(frozen=True)
class CachedTraffic:
    """A layer with the cache.

    Attributes:
        config: that made it.
        traffic: with it.
        fetches: of rows, a tile of channels at a time.
        misses: blocks that came from the DRAM.
    """

    config: CacheConfig
    traffic: Traffic
    fetches: int
    misses: int


@dataclass(frozen=True, eq=False)
class _Loops:
    """A layer's loops on a chip.

    Attributes:
        rows: (n_fetches,) int32, input rows.
        spans: (tiles + 1, k) int64.
        point_bytes: (n_tiles,) int64, of a row in each tile of input channels.
        n_passes: tiles of output channels.
        groups: (n_groups + 1,) int64, of weight tiles.
        refetched: whether every tile of rows brings its weights again.
        channels_outer: how weight tiles are numbered, see `pointacc_cache`.
    """

    rows: Tensor
    spans: Tensor
    point_bytes: Ints
    n_passes: int
    groups: Ints
    refetched: bool
    channels_outer: bool

    @staticmethod
    def of(layer: LayerTrace, chip: PointAccChip, config: CacheConfig) -> "_Loops":
        rows, spans = layer.accesses(chip.tile_rows)
        tiles = channel_tiles(layer.c_fetched, chip.array_rows)
        n_weights = layer.volume * len(tiles)
        a_tile = chip.array_rows * chip.array_cols * layer.itemsize
        held = chip.weight_bytes // a_tile
        if held < 1:
            raise RangeError(
                f"weight_bytes={chip.weight_bytes} of the chip hold no tile of {chip.array_rows} x "
                f"{chip.array_cols} weights of {layer.itemsize} bytes; give at least {a_tile}"
            )
        fits = layer.volume * len(channel_tiles(layer.c_in, chip.array_rows)) <= held
        # sums of channels that are not fetched would have to come back for a group of their own
        stay = config.weights_stay and not fits and not layer.beside
        starts = np.arange(0, n_weights, held) if stay else np.zeros(1, np.int64)
        return _Loops(
            rows,
            spans,
            np.array(tiles, np.int64) * layer.itemsize,
            len(channel_tiles(layer.c_out, chip.array_cols)),
            np.append(starts, n_weights).astype(np.int64),
            not fits and not stay,
            config.channels_outer,
        )

    @property
    def n_fetches(self) -> int:
        return self.n_passes * len(self.point_bytes) * len(self.rows)

    def rest(self, layer: LayerTrace, chip: PointAccChip) -> Traffic:
        """All but the rows that are fetched."""
        counts = self.spans.diff(dim=0)
        # an offset without pairs needs no weights
        used = int((counts > 0).sum()) if self.refetched else int((counts.sum(dim=0) > 0).sum())
        n_groups = len(self.groups) - 1
        by_offset = counts.sum(dim=0).numpy()
        pairs = sum(
            int(by_offset[self._offsets(first, last)].sum())
            for first, last in zip(self.groups[:-1].tolist(), self.groups[1:].tolist(), strict=True)
        )
        return Traffic(
            inputs=beside_bytes(layer, chip),
            weights=used * layer.c_in * layer.c_out * layer.itemsize,
            outputs=output_bytes(layer),
            sums=2 * (n_groups - 1) * layer.n_rows * layer.c_out * chip.sum_bytes,
            maps=0 if layer.is_linear else self.n_passes * pairs * chip.pair_bytes,
        )

    def _offsets(self, first: int, last: int) -> Ints:
        """Of weight tiles, those whose list of pairs is not that of the tile before."""
        at = np.arange(first, last)
        k = self.spans.shape[1]
        offsets = at % k if self.channels_outer else at // len(self.point_bytes)
        return offsets[np.append(True, offsets[1:] != offsets[:-1])]


def cached(layer: LayerTrace, chip: PointAccChip, config: CacheConfig) -> CachedTraffic:
    """Run a layer's fetches through the input buffer.

    Raises:
        RangeError: a block is larger than a way of the buffer, its rows are no power of two, or the weight
            buffer holds no tile of weights.
    """
    loops = _Loops.of(layer, chip, config)
    cache = cache_of(layer, chip, config)
    counts = fresh_counts()
    run_cache(
        cache, loops.rows.numpy(), loops.spans.numpy(), loops.groups, loops.point_bytes, layer.n_in, counts
    )
    first, later = counts
    passes = loops.n_passes - 1
    inputs = Traffic(inputs=int(first[BYTES] + passes * later[BYTES]))
    return CachedTraffic(
        config, inputs + loops.rest(layer, chip), loops.n_fetches, int(first[MISSES] + passes * later[MISSES])
    )


def cache_of(layer: LayerTrace, chip: PointAccChip, config: CacheConfig) -> Cache:
    """The input buffer in blocks: as many sets as fit, of a power of two.

    Raises:
        RangeError: see `cached`.
    """
    points = config.block_points
    if points < 1 or points & (points - 1):
        raise RangeError(f"block_points must be a power of two, got {points}")
    channels = layer.c_fetched if config.all_channels else min(layer.c_fetched, chip.array_rows)
    block = points * channels * layer.itemsize
    sets = chip.input_bytes // (block * chip.ways)
    if sets < 1:
        raise RangeError(
            f"{layer.name}: {chip.ways} blocks of {points} rows and {channels} channels take "
            f"{block * chip.ways} bytes, the input buffer has {chip.input_bytes}; take smaller blocks, "
            "or fewer ways"
        )
    sets = 1 << (sets.bit_length() - 1)
    return Cache(
        sets, chip.ways, points.bit_length() - 1, config.all_channels, config.channels_outer, chip.burst_bytes
    )


def best_cached(layer: LayerTrace, chip: PointAccChip) -> CachedTraffic:
    """The configuration of least bytes; of equals the one with the smaller block."""
    tried = [cached(layer, chip, config) for config in _configs(layer, chip)]
    return min(tried, key=lambda each: each.traffic.total)


def uncached(layer: LayerTrace, chip: PointAccChip, config: CacheConfig | None = None) -> Traffic:
    """The loops of a configuration with every fetch from the DRAM."""
    loops = _Loops.of(layer, chip, config or CacheConfig())
    a_pair = sum(chip.bursts(size) for size in loops.point_bytes.tolist())
    return Traffic(inputs=loops.n_passes * a_pair * layer.n_fetches) + loops.rest(layer, chip)


def gather_scatter(layer: LayerTrace, chip: PointAccChip) -> Traffic:
    """Gathered rows and products through the DRAM; weights once, and products no wider than features."""
    row_in, row_out = (chip.bursts(c * layer.itemsize) for c in (layer.c_fetched, layer.c_out))
    n, fetched = layer.n_pairs, layer.n_fetches
    # read, written side by side, read back; written, read back, and added: outputs read and written
    gathered = 2 * n * layer.c_in * layer.itemsize
    scattered = 2 * n * layer.c_out * layer.itemsize + n * row_out
    return Traffic(
        inputs=fetched * row_in + n * layer.beside * layer.itemsize,
        weights=layer.volume * layer.c_in * layer.c_out * layer.itemsize,
        outputs=n * row_out,
        sums=gathered + scattered,
        maps=(fetched + n) * chip.pair_bytes,
    )


def channel_tiles(channels: int, width: int) -> list[int]:
    """Channels of each tile; the last has the rest."""
    return [min(width, channels - first) for first in range(0, channels, width)]


def beside_bytes(layer: LayerTrace, chip: PointAccChip) -> int:
    """What a layer reads of channels beside its gathered rows, which no cache holds."""
    passes = len(channel_tiles(layer.c_out, chip.array_cols))
    return passes * layer.n_rows * layer.beside * layer.itemsize


def output_bytes(layer: LayerTrace) -> int:
    """What a layer writes."""
    return layer.n_rows // layer.pooled * layer.c_out * layer.itemsize


def _configs(layer: LayerTrace, chip: PointAccChip) -> Iterator[CacheConfig]:
    grouped = _Loops.of(layer, chip, CacheConfig()).refetched
    tiled = layer.c_fetched > chip.array_rows
    for points, wide, outer, stay in itertools.product(
        BLOCK_POINTS, (False, True), (False, True), (False, True)
    ):
        if (
            (wide and not tiled)
            or (outer and (not tiled or layer.volume == 1))
            or (stay and (not grouped or layer.beside))
        ):
            continue
        channels = layer.c_fetched if wide else min(layer.c_fetched, chip.array_rows)
        config = CacheConfig(points, wide, outer, stay)
        # one row of one tile is always tried, so that a chip that cannot hold it is refused
        if (points == 1 and not wide) or points * channels * layer.itemsize * chip.ways <= chip.input_bytes:
            yield config
