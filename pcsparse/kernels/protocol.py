"""The contract of the kernels: tensors in, tensors out, the same on every device.

A backend is a module that has these functions; `kernels.select.backend_of` picks it, mypy checks it against
`Backend`, and `kernels.reference` is the readable one that the others are tested against. Kernels check
nothing: their callers have. Integer inputs are contiguous.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pcsparse.kernels.jobs import LevelStep, Search
from pcsparse.kernels.running import Running
from pcsparse.types import Bounds, Triple


class Backend(Protocol):
    """Everything a device must be able to do.

    Attributes:
        TABLES: whether maps are born as tables (k, n_out) on this device, whose sizes the host knows without
            waiting; else as lists of pairs.
    """

    TABLES: bool

    def pack_rows(self, coords: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], bool]:
        """Keys of coordinates, by the layout of `kernels.key_layout`, and all that is to be checked of them.

        Args:
            coords: (n, 4) int32, columns (batch, x, y, z).

        Returns:
            keys (n,) int64, without meaning where a field is out of range; the smallest and the largest value
            of each of the four columns, 0 if n = 0; whether each key is larger than the one before.
        """
        ...

    def unpack_keys(self, keys: Tensor) -> Tensor:
        """Coordinates (n, 4) int32 of keys (n,) int64: the inverse of `pack_rows`."""
        ...

    def key_extent(self, keys: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The smallest and the largest (batch, x, y, z) that `keys` (n,) int64 stand for; 0 if n = 0."""
        ...

    def ascend(self, keys: Tensor) -> bool:
        """Whether each of `keys` (n,) int64 is larger than the one before."""
        ...

    def scale_keys(self, keys: Tensor, stride: Triple) -> Tensor:
        """Keys of stride * coordinates, which keep their order.

        Args:
            keys: (n,) int64.
            stride: (x, y, z); what it makes of the coordinates is in the range of a key.

        Returns:
            (n,) int64.
        """
        ...

    def sort_keys(self, keys: Tensor, bounds: Bounds | None = None) -> tuple[Tensor, Tensor]:
        """Sort keys, and say where each came from.

        Args:
            keys: (n,) int64, none negative, any order.
            bounds: of their coordinates, which may help to sort them; None: not known.

        Returns:
            sorted (n,) int64, ascending; order (n,) int32 with `keys[order] == sorted`, ties in input order.
        """
        ...

    def unique_keys(self, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sort keys, drop repeats, and say where each key went.

        Args:
            keys: (n,) int64, none negative, any order.

        Returns:
            unique (m,) int64 ascending; inverse (n,) int64 with `unique[inverse] == keys`; first (m,) int64,
            the smallest position of each unique key in `keys`.
        """
        ...

    def partition_keys(
        self, keys: Tensor, stride: Triple, first: Triple
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The coarse level and the whole map where each fine cell lies in exactly one coarse cell.

        fine = stride * coarse + first + offset, with offset in [0, stride) an axis; offsets in C order.

        Args:
            keys: (n,) int64, ascending, unique.
            stride: (x, y, z), k = their product.
            first: (x, y, z), at most 256 cells either way.

        Returns:
            coarse keys (m,) int64, ascending, unique; rows_in, rows_out (n,) int32 grouped by offset,
            ascending in both within a group; starts (k + 1,) int64.
        """
        ...

    def reached_cells(
        self,
        keys: Tensor,
        size: Triple,
        stride: Triple,
        dilation: Triple,
        first: Triple,
        expand: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The level that a kernel of `size` writes, and the whole map to it.

        An axis: fine = stride * coarse + first + dilation * o; offsets in C order.

        Args:
            keys: (n,) int64, ascending, unique: the fine level, or the coarse one if `expand`.
            size: (x, y, z), k = their product; o runs from 0 to size - 1.
            stride: (x, y, z).
            dilation: (x, y, z).
            first: (x, y, z); every first + dilation * o is at most 256 cells either way.
            expand: the fine cells that coarse ones reach are made, all of them in the range of a key; else
                the coarse cells that fine ones touch.

        Returns:
            keys (m,) int64 of the made level, ascending, unique; rows of the fine and of the coarse level
            (n_pairs,) int32 grouped by offset, ascending in both within a group; starts (k + 1,) int64.

        Raises:
            RangeError: more pairs than `key_layout.MOST_PAIRS`.
        """
        ...

    def match_keys(
        self, keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All (i, j, k) with `keys[i] == queries[j] + deltas[k]`: a merge of sorted lists.

        Args:
            keys: (n_in,) int64, ascending, unique.
            queries: (n_out,) int64, ascending, unique.
            deltas: (k,) int64, any order; runs of equal steps that ascend are cheapest. At most
                `key_layout.MOST_OFFSETS`.
            mirrored: `queries` are `keys`, and `deltas` are the first half of a symmetric kernel, or of a
                symmetric part of one: the centre and the second half, which is the first with rows swapped,
                are added, so that k becomes 2 k + 1.

        Returns:
            rows_in, rows_out (n_pairs,) int32 grouped by k, ascending in rows_out (and so in rows_in) within
            a group; starts (k + 1,) int64.

        Raises:
            RangeError: more deltas than `key_layout.MOST_OFFSETS`, before any work; or more pairs than
                `key_layout.MOST_PAIRS`, before anything is allocated for them.

        Source: PointAcc (MICRO 2021), section 4: mapping operations as ranking; the pointer that a column of
        offsets shares is Spira's z-delta search (MLSys 2026), here shared by a slab of columns.
        """
        ...

    def renumber_pairs(
        self,
        rows_in: Tensor,
        rows_out: Tensor,
        starts: Tensor,
        order_in: Tensor | None,
        order_out: Tensor | None,
        n_out: int,
    ) -> tuple[Tensor, Tensor]:
        """Rename the rows of a map, and let every list ascend in the output row again.

        Args:
            rows_in: (n_pairs,) int32.
            rows_out: (n_pairs,) int32, any order.
            starts: (k + 1,) int64.
            order_in: (n_in,) int32, the new name of each input row, or None where names stay.
            order_out: (n_out,) int32, the same for outputs.
            n_out: output rows.

        Returns:
            rows_in, rows_out (n_pairs,) int32; pairs of one offset and output keep their order.
        """
        ...

    def keep_outputs(
        self, rows_in: Tensor, rows_out: Tensor, starts: Tensor, mask: Tensor, whole: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs whose output is kept: rows_in, rows_out, starts, as they are given.

        Args:
            rows_in: (n_pairs,) int32.
            rows_out: (n_pairs,) int32.
            starts: (k + 1,) int64.
            mask: (n_out,) bool.
            whole: an offset in [0, k) whose pairs all stay, or None.
        """
        ...

    def group_rows(self, rows: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Stable counting sort of `rows` (m,) int32 or int64 with values in [0, n).

        Returns:
            order (m,) int32, positions in `rows` in ascending row, ties in input order; starts (n + 1,)
            int64.
        """
        ...

    def pairs_to_table(self, rows_in: Tensor, rows_out: Tensor, starts: Tensor, n_out: int) -> Tensor:
        """Kernel map as a table (k, n_out) int32: the input row, or NO_NEIGHBOUR (-1)."""
        ...

    def match_table(self, keys: Tensor, queries: Tensor, deltas: Tensor, mirrored: bool = False) -> Tensor:
        """What `match_keys` finds, as a table: where in `keys` each `queries[j] + deltas[k]` is.

        Args:
            keys: (n_in,) int64, ascending, unique.
            queries: (n_out,) int64, ascending, unique.
            deltas: (k,) int64, see `match_keys`; best on the host, which reads them.
            mirrored: as in `match_keys`.

        Returns:
            (k, n_out) int32, -1 where no key is; 2 k + 1 rows if `mirrored`.

        Raises:
            RangeError: more deltas than `key_layout.MOST_OFFSETS`, before any work.
        """
        ...

    def match_tables(self, searches: Sequence[Search]) -> list[Tensor]:
        """Several maps at once: the tables that `searches` ask for, in rows.

        A table holds at [k, order_out[j]] the row order_in[i] of keys[i] == stride * queries[j] + deltas[k].

        Args:
            searches: on one device; those of a network, or one.

        Returns:
            (k, n_out) int32 of each, -1 where no key is; or the table that was given to write to.

        Raises:
            RangeError: more deltas than `key_layout.MOST_OFFSETS`; or, on a GPU, a way that cannot make the
                map of a search.
        """
        ...

    def pack_and_match(
        self, coords: Tensor, deltas: tuple[int, ...]
    ) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], Tensor | None]:
        """`pack_rows`, and the map of a cloud to itself; the host waits once where there is a device.

        Args:
            coords: (n, 4) int32, columns (batch, x, y, z).
            deltas: differences of keys, one an offset.

        Returns:
            keys, lowest and highest of each column, as `pack_rows` gives them; and the table (k, n) int32
            that `match_table` makes of these keys and themselves, None where they do not ascend.

        Raises:
            RangeError: more deltas than `key_layout.MOST_OFFSETS`.
        """
        ...

    def partition_table(
        self, keys: Tensor, stride: Triple, first: Triple, bounds: Bounds | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `partition_keys` makes, with a table for its lists.

        Args:
            keys: (n,) int64, ascending, unique.
            stride: (x, y, z), k = their product.
            first: (x, y, z), at most 256 cells either way.
            bounds: of the coarse cells, which may help to find them; None: not known.

        Returns:
            coarse keys (m,) int64, ascending, unique; table (k, m) int32 of positions in `keys`, or -1.
        """
        ...

    def reached_level(
        self,
        keys: Tensor,
        size: Triple,
        stride: Triple,
        dilation: Triple,
        first: Triple,
        expand: bool = False,
        bounds: Bounds | None = None,
    ) -> Tensor:
        """The level that `reached_cells` makes, without the map.

        Args:
            keys: (n,) int64, ascending, unique: the fine level, or the coarse one if `expand`.
            size: as in `reached_cells`.
            stride: (x, y, z).
            dilation: (x, y, z).
            first: as in `reached_cells`.
            expand: as in `reached_cells`.
            bounds: of the level that is made, which may help to find it; None: not known.

        Returns:
            keys (m,) int64, ascending, unique.
        """
        ...

    def reached_levels(self, keys: Tensor, steps: Sequence[LevelStep]) -> list[tuple[Tensor, Tensor]]:
        """A chain of levels: each what `reached_level` makes of the one before, within its bounds.

        Args:
            keys: (n,) int64, ascending, unique: the level that the first step starts from.
            steps: from fine to coarse.

        Returns:
            of each step: keys (m,) int64, ascending, unique; and coordinates (m, 4) int32.
        """
        ...

    def pack_and_reach(
        self, coords: Tensor, steps: Sequence[LevelStep], deltas: tuple[int, ...] | None = None
    ) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], list[tuple[Tensor, Tensor]] | None, Tensor | None]:
        """`pack_rows`, and a chain of levels of the cloud; the host waits once where there is a device.

        Args:
            coords: (n, 4) int32, columns (batch, x, y, z).
            steps: as of `reached_levels`; bounds may be much wider than the levels.
            deltas: differences of keys, one an offset, to search the map from the cloud to the first level;
                or None.

        Returns:
            keys, lowest and highest of each column, as `pack_rows` gives them; what `reached_levels` makes of
            the keys, None where they do not ascend or leave the range of a key; and the table (k, m) int32
            of keys == stride * first level + deltas[k], as `match_tables` makes it, None where there is no
            such level or nobody asked for it.
        """
        ...

    def renumber_table(self, table: Tensor, order_in: Tensor | None, order_out: Tensor | None) -> Tensor:
        """Rename the rows of a map: out[k, order_out[j]] = order_in[table[k, j]].

        Args:
            table: (k, n_out) int32, -1 where empty.
            order_in: (n_in,) int32, the new name of each input row, or None where names stay.
            order_out: (n_out,) int32, each row once, the new names of the outputs; or None.

        Returns:
            (k, n_out) int32, -1 where empty.
        """
        ...

    def transpose_table(self, table: Tensor, n_in: int) -> Tensor:
        """Swap inputs and outputs: out[k, table[k, j]] = j, -1 elsewhere.

        Args:
            table: (k, n_out) int32, -1 where empty; no input twice at an offset.
            n_in: input rows.

        Returns:
            (k, n_in) int32.
        """
        ...

    def table_to_pairs(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernel map as lists: the inverse of `pairs_to_table`.

        Args:
            table: (k, n_out) int32, -1 where empty.

        Returns:
            rows_in, rows_out (n_pairs,) int32 grouped by offset, ascending in rows_out within a group; starts
            (k + 1,) int64.
        """
        ...

    def mask_table_outputs(self, table: Tensor, mask: Tensor, whole: int | None = None) -> Tensor:
        """The table with -1 in the columns of outputs that are not kept.

        Args:
            table: (k, n_out) int32.
            mask: (n_out,) bool.
            whole: a row in [0, k) that stays as it is, or None.

        Returns:
            (k, n_out) int32.
        """
        ...

    def tile_spans(self, rows_out: Tensor, starts: Tensor, n_out: int, tile: int) -> Tensor:
        """Where the pairs of each tile of `tile` output rows begin, in the list of each offset.

        Args:
            rows_out: (n_pairs,) int32, ascending within an offset.
            starts: (k + 1,) int64.
            n_out: output rows.
            tile: at least 1.

        Returns:
            (ceil(n_out / tile) + 1, k) int64; entry (t, k) is the position of the first pair of offset k
            whose output row is at least t * tile, so tile t owns [spans[t, k], spans[t + 1, k]). The last
            row is starts[1:].
        """
        ...

    def row_masks(self, table: Tensor, splits: int) -> Tensor:
        """Bit j of mask (s, m) says that output m has a neighbour at offset `s * ceil(k / splits) + j`.

        Args:
            table: (k, n_out) int32.
            splits: number of chunks of offsets; a chunk holds at most 63.

        Returns:
            (splits, n_out) int64.
        """
        ...

    def gray_rank(self, masks: Tensor) -> Tensor:
        """Position of each mask in the Gray sequence: b = g ^ g>>1 ^ g>>2 ^ ... ; int64 in, int64 out."""
        ...

    def k_nearest(
        self,
        points: Tensor,
        starts: Tensor,
        queries: Tensor,
        query_starts: Tensor,
        k: int,
        radius: float,
    ) -> tuple[Tensor, Tensor]:
        """The k nearest points of each query, among the points of its own cloud.

        The squared distance is dx * dx + dy * dy + dz * dz, added in this order, in float64 without fused
        operations; neighbours are ranked by it, equal ones by row.

        Args:
            points: (n, 3) float32, metres, finite, cloud after cloud.
            starts: (clouds + 1,) int64, the first point of each cloud.
            queries: (m, 3) float32, metres, finite, cloud after cloud.
            query_starts: (clouds + 1,) int64, as many clouds, at most 2047.
            k: at least 1.
            radius: metres, positive; only points nearer than that count. inf: all.

        Returns:
            rows of `points` (m, k) int32, and squared distances (m, k) float64 in square metres; NO_NEIGHBOUR
            (-1) and inf where there are fewer.

        Source: PointAcc (MICRO 2021), section 4: kNN as ranking of distances.
        """
        ...

    def first_in_ball(
        self,
        points: Tensor,
        starts: Tensor,
        queries: Tensor,
        query_starts: Tensor,
        limit: int,
        radius: float,
    ) -> tuple[Tensor, Tensor]:
        """The first `limit` points, by row, that are nearer to a query than `radius`.

        Arguments, distances and results as of `k_nearest`, but ranked by row alone.

        Source: PointNet++ (NeurIPS 2017), section 3.2: the ball query, as its CUDA code takes points.
        """
        ...

    def farthest_points(self, points: Tensor, starts: Tensor, first: Tensor, counts: Tensor) -> Tensor:
        """Points of each cloud, of which each is the farthest from those before it.

        Distances as of `k_nearest`; of equally far ones the first row is taken, and none twice.

        Args:
            points: (n, 3) float32, metres, finite, cloud after cloud.
            starts: (clouds + 1,) int64.
            first: (clouds,) int64, the row to begin with; without meaning where nothing is to be chosen.
            counts: (clouds,) int64, how many to choose, from 0 to the points of the cloud.

        Returns:
            rows of `points` (sum of counts,) int32, cloud after cloud, in the order of choice.

        Source: PointNet++ (NeurIPS 2017), section 3.2: iterative farthest point sampling.
        """
        ...

    def mean_magnitude(self, feats: Tensor) -> Tensor:
        """Mean of |feats| over the channels of each row.

        Args:
            feats: (n, c) float.

        Returns:
            (n,) float32, or float64 for float64; a NaN makes NaN, and so does a row without channels.

        Source: Liu et al., NeurIPS 2022 (arXiv 2209.14201): the importance of a voxel.
        """
        ...

    def top_rows(self, scores: Tensor, order: Tensor, starts: Tensor, counts: Tensor) -> Tensor:
        """Mark the rows of the highest scores, group by group; of equal ones the lower rows.

        Args:
            scores: (n,) float32 or float64, none below zero; a NaN is higher than all numbers.
            order: (n,) int32, the rows of group after group, ascending within a group.
            starts: (groups + 1,) int64; group g owns order[starts[g]:starts[g + 1]].
            counts: (groups,) int64, how many rows of each group to mark, at most all.

        Returns:
            (n,) bool.
        """
        ...

    def wide_matmul(self, a: Tensor, b: Tensor) -> Tensor:
        """Return a @ b, added and kept in float32 (float64 for float64).

        Args:
            a: (m, c) float, any strides.
            b: (c, n), dtype of `a`, any strides.

        Returns:
            (m, n) float32, or float64 for float64.
        """
        ...

    def gather_layout(self, rows_in: Tensor, places: Tensor, n_in: int, n_places: int) -> list[Tensor]:
        """What `gather_gemm` wants to know of a map and its buffer, to be kept with the map.

        Args:
            rows_in: (n_pairs,) int32, the input row of each pair.
            places: (n_pairs,) int32, the row of the buffer of each pair, none twice; -1 where it has none.
            n_in: input rows.
            n_places: rows of the buffer; one that is no pair's is padding.

        Returns:
            Tensors that only this backend reads.
        """
        ...

    def gather_gemm(
        self, feats: Tensor, weight: Tensor, runs: list[tuple[tuple[int, ...], int]], layout: list[Tensor]
    ) -> Tensor:
        """Gather all rows into one buffer, and multiply its parts by the weights of their offsets.

        Args:
            feats: (n_in, c_in) float.
            weight: (k, c_in, c_out), dtype of `feats`, any strides.
            runs: offsets that are one batched product, and the rows of each of them; they lie in the buffer
                one after the other, and fill it.
            layout: `gather_layout` of the map.

        Returns:
            (n_places, c_out) float32, or float64 for float64; nothing is said of a row of padding.

        Source: TorchSparse (MLSys 2022), section 4.3: one gather before all products, each input row read
        once.
        """
        ...

    def segment_sum(self, values: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        """out[s] = sum of values[order[i]] for i in [starts[s], starts[s + 1]), added in that order.

        Args:
            values: (n, c) float; float16 and bfloat16 are added in float32.
            order: (m,) int32.
            starts: (segments + 1,) int64.

        Returns:
            (segments, c), dtype of `values`; an empty segment is zero.
        """
        ...

    def segment_weighted_sum(self, values: Tensor, order: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
        """out[s] = sum of weights[i] * values[order[i]] for i in [starts[s], starts[s + 1]), in that order.

        Args:
            values: (n, c) float; float16 and bfloat16 are added in float32.
            order: (m,) int32.
            weights: (m,) float; rounded to the type that accumulates.
            starts: (segments + 1,) int64.

        Returns:
            (segments, c), dtype of `values`; an empty segment is zero.
        """
        ...

    def segment_max(self, values: Tensor, order: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Largest value a segment and channel, and the row it came from.

        Returns:
            out (segments, c), dtype of `values`, zero where a segment is empty; arg (segments, c) int32 row
            of `values`, the first one in a tie, -1 where empty. A NaN wins.
        """
        ...

    def segment_max_grad(self, grad_out: Tensor, arg: Tensor, order: Tensor, starts: Tensor) -> Tensor:
        """Gradient of `segment_max` with respect to `values`.

        Args:
            grad_out: (segments, c) float.
            arg: (segments, c) int32, from `segment_max`.
            order: (m,) int32 segments, grouped by row of `values`.
            starts: (n + 1,) int64, the groups of `order`.

        Returns:
            (n, c), dtype of `grad_out`.
        """
        ...

    def output_stationary(
        self,
        feats: Tensor,
        weight: Tensor,
        rows_in: Tensor,
        rows_out: Tensor,
        starts: Tensor,
        n_out: int,
        tile: int,
        panel: int = 0,
        *,
        spans: Tensor | None = None,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
        mask: Tensor | None = None,
        through: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """out[j] = sum over pairs (i, j) of offset k of feats[i] @ weight[k], tile by tile of output rows.

        Bias, residual and ReLU are applied to the sum, in this order, before it is rounded.

        With `mask`, row j is that where mask[j], and act(through[j] * scale + shift + residual[j]) elsewhere.

        Args:
            feats: (n_in, c_in) float32, float64, float16 or bfloat16.
            weight: (k, c_in, c_out), dtype of `feats`, any strides.
            rows_in: (n_pairs,) int32.
            rows_out: (n_pairs,) int32, ascending and unique within an offset.
            starts: (k + 1,) int64.
            n_out: output rows.
            tile: output rows a tile; one thread owns a tile, so the bits do not depend on the thread count.
            panel: vectors of output channels computed together, 1 to 4; 0 for the backend's rule.
            spans: `tile_spans(rows_out, starts, n_out, tile)`, found here if None.
            bias: (c_out,), dtype of `feats`.
            residual: (n_out, c_out), dtype of `feats`.
            relu: whether negative sums become zero; a NaN stays.
            mask: (n_out,) bool, or None for all rows. Pairs of rows where it is False change nothing.
            through: (n_out, c_out), dtype of `feats`, where `mask` is given.
            scale: (c_out,) float32, or float64 for float64; 1 if None.
            shift: (c_out,), as `scale`; 0 if None.

        Returns:
            (n_out, c_out), dtype of `feats`; added in float32 (float64 for float64).
        """
        ...

    def output_stationary_grad_weight(
        self,
        feats: Tensor,
        grad_out: Tensor,
        rows_in: Tensor,
        rows_out: Tensor,
        starts: Tensor,
        tile: int,
        panel: int = 0,
        partials: int = 0,
        *,
        spans: Tensor | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """grad_weight[k] = sum over pairs (i, j) of offset k of outer(feats[i], grad_out[j]).

        Args:
            feats: (n_in, c_in).
            grad_out: (n_out, c_out), dtype of `feats`.
            rows_in: (n_pairs,) int32.
            rows_out: (n_pairs,) int32, ascending within an offset.
            starts: (k + 1,) int64.
            tile: output rows whose pairs are added before those of the next rows.
            panel: vectors of output channels computed together, 1 to 4; 0 for the backend's rule.
            partials: partial sums, added in order; 0 for a rule that reads the sizes only. The bits depend on
                `tile` and `partials`, never on the thread count.
            spans: `tile_spans(rows_out, starts, n_out, tile)`, found here if None.
            dtype: of the result, a float, to which the sums are rounded; that of `feats` if None.

        Returns:
            (k, c_in, c_out), of `dtype`; added in float32 (float64 for float64).
        """
        ...

    def grad_weight_layout(self, table: Tensor) -> list[Tensor]:
        """What `implicit_gemm_grad_weight` wants to know of a map, to be kept with the map.

        Args:
            table: (k, n_out) int32, -1 where empty.

        Returns:
            Tensors that only this backend reads, on the device of `table`; no number travels to the host.
        """
        ...

    def implicit_gemm_grad_weight(
        self,
        feats: Tensor,
        grad_out: Tensor,
        table: Tensor,
        layout: list[Tensor] | None,
        *,
        tile_in: int = 0,
        tile_out: int = 0,
        tile_rows: int = 0,
        partials: int = 0,
        precision: str = "ieee",
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """grad_weight[k] = sum over pairs (i, j) of offset k of outer(feats[i], grad_out[j]).

        The bits depend on the sizes and the map, never on the run.

        Args:
            feats: (n_in, c_in) float32, float16 or bfloat16.
            grad_out: (n_out, c_out), dtype of `feats`.
            table: (k, n_out) int32, i where (i, j) is a pair, -1 elsewhere.
            layout: `grad_weight_layout(table)`; or None: several offsets share a tile and the table is read
                as it is, which spares the layout of a map that few layers use. Then a row of `grad_out` that
                is not finite may make NaN at offsets where it has no pair.
            tile_in: input channels of a tile, or offsets times input channels without a layout; a power of 2
                from 16. 0 here and below for the backend's rule, which reads the sizes only.
            tile_out: output channels of a tile, a power of 2 from 16.
            tile_rows: pairs that are multiplied together, a power of 2 from 16.
            partials: shares of the pairs, each with sums of its own, which are added in order.
            precision: of products of float32: "ieee", or "tf32" where operands may be rounded to 11 bits.
            dtype: of the result, a float, to which the sums are rounded; that of `feats` if None.

        Returns:
            (k, c_in, c_out), of `dtype`; added in float32.
        """
        ...

    def gemm_layout(self, table: Tensor, splits: int, tile: int) -> list[Tensor]:
        """Lay out a kernel map for `implicit_gemm` of the same backend.

        Args:
            table: (k, n_out) int32, the input row, or NO_NEIGHBOUR (-1).
            splits: chunks of ceil(k / splits) offsets whose rows are sorted apart, 1 to max(k, 1); each makes
                one partial sum. 0 for one chunk of rows as they are, which costs less than sorting them.
            tile: output rows a tile, a power of two from 16.

        Returns:
            Tensors that only this backend reads; contiguous, on the device of `table`.

        Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4.2.
        """
        ...

    def implicit_gemm(
        self,
        feats: Tensor,
        weight: Tensor,
        layout: list[Tensor],
        n_out: int,
        tile_out: int,
        tile_in: int,
        warps: int,
        stages: int,
        parts: int,
        precision: str,
        mirrored: bool = False,
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
        mask: Tensor | None = None,
        through: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """out[j] = sum over offsets o of feats[table[o, j]] @ weight[o], where the table has a row.

        Bias, residual, ReLU, and rows that pass as of `output_stationary`. An input row that no output reads
        changes nothing; a weight that is not finite may reach any row.

        Args:
            feats: (n_in, c_in) float32, float16 or bfloat16; float64 where a backend has it.
            weight: (k, c_in, c_out), dtype of `feats`, any strides.
            layout: from `gemm_layout`, of a table with k offsets and n_out outputs.
            n_out: output rows.
            tile_out: output channels a program owns, a power of two from 16.
            tile_in: products that one step adds to a sum, a power of two from 16.
            warps: warps a program, 4 or 8.
            stages: how far loads run ahead of products; changes no bits.
            parts: into how many the loop over offsets and channels is cut; each makes one partial sum, added
                in order.
            precision: of products of float32: "ieee" or "tf32".
            mirrored: weight[k - 1 - o] stands at offset o: the input gradient of a symmetric map.
            bias: (c_out,), dtype of `feats`.
            residual: (n_out, c_out), dtype of `feats`.
            relu: whether negative sums become zero; a NaN stays.
            mask: (n_out,) bool, or None for all rows.
            through: (n_out, c_out), dtype of `feats`, where `mask` is given.
            scale: (c_out,) float32, or float64 for float64; 1 if None.
            shift: (c_out,), as `scale`; 0 if None.

        Returns:
            (n_out, c_out), dtype of `feats`; added in float32 (float64 for float64).

        Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4; FlexGEMM
        (JeffreyXiang/FlexGEMM@6dd94a8).
        """
        ...

    def fetch_layout(self, table: Tensor) -> list[Tensor]:
        """Lay out a kernel map for `fetch_on_demand` of the same backend: the pairs of each output row.

        Args:
            table: (k, n_out) int32, the input row, or NO_NEIGHBOUR (-1).

        Returns:
            Tensors that only this backend reads; contiguous, on the device of `table`. Nobody waits.
        """
        ...

    def fetch_on_demand(
        self,
        feats: Tensor,
        weight: Tensor,
        layout: list[Tensor],
        n_out: int,
        lanes: int = 0,
        threads: int = 0,
        mirrored: bool = False,
        *,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        relu: bool = False,
        mask: Tensor | None = None,
        through: Tensor | None = None,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
    ) -> Tensor:
        """`implicit_gemm` for few channels and few neighbours: a row follows the list of its own pairs.

        A row adds its list in ascending order of offsets, shares of the input channels apart, which meet at
        the end in one order. Bits depend on `lanes`, never on `threads`, the run or the place of a row.

        Args:
            feats: (n_in, c_in) float32, float16 or bfloat16.
            weight: (k, c_in, c_out), dtype of `feats`, any strides; of a size that `fetch_form.fetch_forms`
                has a way for.
            layout: from `fetch_layout`, of a table with k offsets and n_out outputs.
            n_out: output rows.
            lanes: a way of `fetch_form.fetch_forms`; 0 here and below for the backend's rule.
            threads: of a block, 128 or 256.
            mirrored: weight[k - 1 - o] stands at offset o: the input gradient of a symmetric map.
            bias: (c_out,), dtype of `feats`.
            residual: (n_out, c_out), dtype of `feats`.
            relu: whether negative sums become zero; a NaN stays.
            mask: (n_out,) bool, or None for all rows.
            through: (n_out, c_out), dtype of `feats`, where `mask` is given.
            scale: (c_out,) float32; 1 if None.
            shift: (c_out,) float32; 0 if None.

        Returns:
            (n_out, c_out), dtype of `feats`; added in float32, products of float32 exact.

        Source: PCEngine (MLSys 2023); TorchSparse++ (MICRO 2023, arXiv 2311.12862). Both scatter with
        atomics, an offset after the other; lists by output row are ours.
        """
        ...

    def batch_norm(
        self,
        feats: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        relu: bool,
        eps: float,
        running: Running | None,
        real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Out = act((feats - mean) / sqrt(var + eps) * weight + bias + residual), rounded once.

        Args:
            feats: (n, c) float, n at least 1.
            weight: (c,) float32, or float64 for float64; 1 if None.
            bias: (c,), as `weight`; 0 if None.
            residual: (n, c), dtype of `feats`, or None.
            relu: whether negative values become zero; a NaN stays.
            eps: added to the variance.
            running: contiguous, of one dtype; moved towards these moments, for which n must be at least 2.
                None: none.
            real: () int64, on the device of `feats`, 1 to n: only so many first rows count, in place of n;
                those behind them become zero, whatever they hold. None: all do.

        Returns:
            (n, c), dtype of `feats`; mean and biased variance, (2, c) float32, or float64 for float64.
        """
        ...

    def norm_by_moments(
        self,
        feats: Tensor,
        mean: Tensor,
        var: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        residual: Tensor | None,
        relu: bool,
        eps: float,
    ) -> Tensor:
        """`batch_norm` with moments that are known.

        Args:
            feats: (n, c) float.
            mean: (c,) float32, or float64 for float64.
            var: (c,), as `mean`.
            weight: (c,), as `mean`; 1 if None.
            bias: (c,), as `mean`; 0 if None.
            residual: (n, c), dtype of `feats`, or None.
            relu: whether negative values become zero; a NaN stays.
            eps: added to the variance.

        Returns:
            (n, c), dtype of `feats`.
        """
        ...

    def scale_shift(
        self, feats: Tensor, scale: Tensor, shift: Tensor, residual: Tensor | None, relu: bool
    ) -> Tensor:
        """Out = act(feats * scale + shift + residual), rounded once.

        Args:
            feats: (n, c) float.
            scale: (c,) float32, or float64 for float64.
            shift: (c,), as `scale`.
            residual: (n, c), dtype of `feats`, or None.
            relu: whether negative values become zero; a NaN stays.

        Returns:
            (n, c), dtype of `feats`.
        """
        ...

    def scale_shift_sums(
        self, grad_out: Tensor, feats: Tensor, out: Tensor | None, mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums down the rows that the gradients of scale and shift, or of moments, need.

        Args:
            grad_out: (n, c), dtype of `feats`.
            feats: (n, c) float.
            out: (n, c); where it is not positive `grad_out` counts as zero. None: nowhere.
            mean: (c,).

        Returns:
            sum of grad_out, sum of grad_out * (feats - mean): (c,) float32, or float64 for float64.
        """
        ...

    def batch_norm_grad(
        self,
        grad_out: Tensor,
        feats: Tensor,
        weight: Tensor | None,
        out: Tensor | None,
        moments: Tensor,
        eps: float,
        with_gated: bool,
        real: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Gradients of `batch_norm`.

        With s = 1 / sqrt(var + eps), grad_bias and p the two sums of `scale_shift_sums`: grad_weight = p * s,
        and that of the rows is `scale_shift_grad` with scale_grad = weight * s,
        scale_feats = -scale_grad * s^2 * p / n, shift = -scale_grad * grad_bias / n - scale_feats * mean.

        Args:
            grad_out: (n, c), dtype of `feats`.
            feats: (n, c) float, n at least 1.
            weight: (c,), as `moments`; 1 if None.
            out: (n, c) or None, see `scale_shift_sums`.
            moments: (2, c), of `batch_norm`.
            eps: added to the variance.
            with_gated: whether the second result is wanted.
            real: as `batch_norm` had it; rows behind the real ones are zero in both results.

        Returns:
            grad_feats (n, c), dtype of `feats`; `grad_out` with its zeros, or None; grad_weight and
            grad_bias, (c,) float32, or float64 for float64.
        """
        ...

    def scale_shift_grad(
        self,
        grad_out: Tensor,
        feats: Tensor,
        out: Tensor | None,
        scale_grad: Tensor,
        scale_feats: Tensor,
        shift: Tensor,
        with_gated: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """grad_out * scale_grad + feats * scale_feats + shift; grad_out is zero where `out` is not positive.

        Args:
            grad_out: (n, c), dtype of `feats`.
            feats: (n, c) float.
            out: (n, c) or None, see `scale_shift_sums`.
            scale_grad: (c,).
            scale_feats: (c,).
            shift: (c,).
            with_gated: whether the second result is wanted.

        Returns:
            The sum (n, c), dtype of `feats`; `grad_out` with its zeros, or None.
        """
        ...

    def two_four_matvec(
        self, x: Tensor, values: Tensor, positions: Tensor, bias: Tensor | None, relu: bool
    ) -> Tensor:
        """out[b, r] = act(bias[r] + sum over j of values[r, j] * x[b, 4 * (j // 2) + position of (r, j)]).

        The product with a 2:4 matrix in the form of `packed.two_four`: of each four inputs two count. Only
        they enter the sum, so an inf or NaN elsewhere changes nothing; a stored 0 does count, and 0 * inf is
        NaN. A sum has its own order: its bits depend neither on threads nor on the rest of the batch.

        Args:
            x: (n_items, n_in) float32, n_in a multiple of 4.
            values: (n_out, n_in / 2) float32.
            positions: (n_out, ceil(n_in / 8)) uint8; bits 2 i and 2 i + 1 of byte k belong to j = 4 k + i.
            bias: (n_out,) float32, or None.
            relu: whether negative sums become zero; a NaN stays.

        Returns:
            (n_items, n_out) float32.
        """
        ...

    def eie_layout(
        self, starts: Tensor, rows: Tensor, codes: Tensor, codebook: Tensor, n_out: int
    ) -> list[Tensor]:
        """Lay out a matrix of shared weights for `eie_linear` of the same backend.

        Args:
            starts: (n_in + 1,) int64, first weight of each column.
            rows: (n_weights,) int32 below `n_out`, ascending within a column.
            codes: (n_weights,) uint8, from 1 to len(codebook) - 1.
            codebook: (2^code_bits,) float32 with code_bits up to 8; the first is 0.
            n_out: rows of the matrix.

        Returns:
            Tensors that only this backend reads; contiguous, on the device of `codes`.
        """
        ...

    def eie_linear(
        self, x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
    ) -> Tensor:
        """act(x @ W.T + bias) with the matrix of a layout; columns of activations that are 0 are not read.

        Only stored weights enter a sum, so an infinite activation reaches the rows that have a weight for it.
        The order of additions depends on the layout and on which activations are 0, not on the threads.

        Args:
            x: (n_items, n_in) float32.
            layout: from `eie_layout`, of a matrix with n_in columns.
            bias: (n_out,) float32, or None.
            n_out: rows of the matrix.
            relu: whether negative sums become 0; a NaN stays.

        Returns:
            (n_items, n_out) float32.

        Source: EIE (ISCA 2016), section III: activations that are 0 are skipped, weights looked up.
        """
        ...

    def eie_row_layout(
        self, starts: Tensor, columns: Tensor, codes: Tensor, codebook: Tensor, n_in: int
    ) -> list[Tensor]:
        """Lay out a matrix of shared weights by rows for `eie_row_linear` of the same backend.

        Args:
            starts: (n_out + 1,) int64, first weight of each row.
            columns: (n_weights,) int32 below `n_in`, ascending within a row.
            codes: (n_weights,) uint8, from 1 to len(codebook) - 1.
            codebook: (2^code_bits,) float32 with code_bits up to 8; the first is 0.
            n_in: columns of the matrix.

        Returns:
            Tensors that only this backend reads; contiguous, on the device of `codes`.
        """
        ...

    def eie_row_linear(
        self, x: Tensor, layout: list[Tensor], bias: Tensor | None, n_out: int, relu: bool = False
    ) -> Tensor:
        """`eie_linear` for activations that are seldom 0: every weight is read.

        Only stored weights enter a sum, so an infinite activation reaches the rows that have a weight for it.
        The order of additions depends on the layout, not on the activations or the threads.

        Args:
            x: (n_items, n_in) float32.
            layout: from `eie_row_layout`, of a matrix with n_in columns.
            bias: (n_out,) float32, or None.
            n_out: rows of the matrix.
            relu: whether negative sums become 0; a NaN stays.

        Returns:
            (n_items, n_out) float32.
        """
        ...

    def eie_chip_linear(
        self,
        x: Tensor,
        codes: Tensor,
        skips: Tensor,
        pointers: Tensor,
        batch_starts: Tensor,
        codebook: Tensor,
        bias: Tensor | None,
        n_out: int,
        relu: bool = False,
    ) -> Tensor:
        """The same from the chip's own format, entry by entry: see `packed.eie.EIEMatrix` for its tensors.

        Args:
            x: (n_items, n_in) float32.
            codes: (n_entries,) uint8, 0 for a pad.
            skips: (n_entries,) uint8.
            pointers: (n_pe, n_in + n_batches) int32.
            batch_starts: (n_batches + 1,) int64.
            codebook: (2^code_bits,) float32.
            bias: (n_out,) float32, or None.
            n_out: rows of the matrix.
            relu: whether negative sums become 0; a NaN stays.

        Returns:
            (n_items, n_out) float32; a row is summed in the order of columns.
        """
        ...
