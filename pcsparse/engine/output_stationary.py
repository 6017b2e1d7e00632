"""Output-stationary dataflow: tiles of output rows stay in the cache while their pairs stream past.

No gather buffer and no scatter; the result has the same bits at any number of threads.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import PLAIN, Dataflow, Epilogue
from pcsparse.engine.problem import ConvProblem
from pcsparse.errors import RangeError
from pcsparse.kernels.select import backend_of


@dataclass(frozen=True)
class OutputStationaryConfig:
    """Sizes that shape the order of addition, and so the bits.

    Attributes:
        tile: output rows a tile; small levels take smaller tiles, see `_rows`.
        panel: vectors of output channels computed together, 1 to 4; 0 for the kernel's rule.
        partials: partial sums in grad_weight; 0 for the kernel's rule.

    Raises:
        RangeError: a number that no kernel can run with.
    """

    tile: int = 1024
    panel: int = 0
    partials: int = 0

    def __post_init__(self) -> None:
        """Check what a file or a caller gave."""
        if self.tile < 1 or not 0 <= self.panel <= 4 or self.partials < 0:
            raise RangeError(f"tile must be at least 1, panel 0 to 4 and partials at least 0, got {self}")


@final
class OutputStationary(Dataflow[OutputStationaryConfig]):
    """Contract and kernels: `kernels.protocol.Backend.output_stationary`."""

    name = "output_stationary"
    devices = ("cpu", "meta")
    config_class = OutputStationaryConfig

    def refuses(self, problem: ConvProblem) -> str | None:
        """Only a CPU runs it, on maps whose outputs occur once at an offset."""
        if problem.device not in self.devices:
            return f"it has no kernel on {problem.device}"
        return None if problem.distinct else "an offset of the map leads several inputs to one output"

    def configs(self, problem: ConvProblem) -> Iterator[OutputStationaryConfig]:
        """Tiles whose sums fill half of a usual L2 cache first, then others, and narrower panels."""
        best = _tile_for(problem.c_out)
        yield OutputStationaryConfig(best)
        yield from (OutputStationaryConfig(tile) for tile in (256, 512, 1024, 2048, 4096) if tile != best)
        yield from (OutputStationaryConfig(best, panel) for panel in (1, 2, 3, 4))

    def configs_grad_weight(self, problem: ConvProblem) -> Iterator[OutputStationaryConfig]:
        """Tiles, numbers of partial sums and panels around the rule's."""
        yield from (OutputStationaryConfig(tile) for tile in (1024, 256, 512, 2048, 4096))
        yield from (OutputStationaryConfig(1024, 0, partials) for partials in (1, 2, 4, 8, 16))
        yield from (OutputStationaryConfig(1024, panel) for panel in (1, 2, 3, 4))

    def forward(
        self,
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        config: OutputStationaryConfig,
        epilogue: Epilogue = PLAIN,
    ) -> Tensor:
        """See the base class."""
        pairs, tile, passing = kmap.pairs, _rows(kmap.n_out, config.tile), epilogue.passing
        return backend_of(feats, weight).output_stationary(
            feats,
            weight,
            pairs.rows_in,
            pairs.rows_out,
            pairs.starts,
            kmap.n_out,
            tile,
            config.panel,
            spans=kmap.tile_spans(tile),
            bias=epilogue.bias,
            residual=epilogue.residual,
            relu=epilogue.relu,
            mask=None if passing is None else passing.mask,
            through=None if passing is None else passing.feats,
            scale=None if passing is None else passing.scale,
            shift=None if passing is None else passing.shift,
        )

    def grad_weight(
        self,
        feats: Tensor,
        grad_out: Tensor,
        kmap: KernelMap,
        config: OutputStationaryConfig,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """See the base class."""
        pairs, tile = kmap.pairs, _rows(kmap.n_out, config.tile)
        return backend_of(feats, grad_out).output_stationary_grad_weight(
            feats,
            grad_out,
            pairs.rows_in,
            pairs.rows_out,
            pairs.starts,
            tile,
            config.panel,
            config.partials,
            spans=kmap.tile_spans(tile),
            dtype=dtype,
        )


# sums of a tile, float32, beside a panel of weights and the rows that stream past in an L2 cache of 1 MiB
_BYTES_OF_SUMS = 1 << 19


def _tile_for(c_out: int) -> int:
    """The largest power of two of rows in [256, 2048] whose sums fit."""
    rows = max(1, _BYTES_OF_SUMS // (4 * c_out))
    return min(2048, max(256, 1 << (rows.bit_length() - 1)))


# a small level must still keep many threads busy, and a tile under 256 rows repays its weights no longer
_SMALLEST_TILE, _TILES_WANTED = 256, 16


def _rows(n_out: int, tile: int) -> int:
    """Rows a tile: from the problem alone, never from the machine."""
    enough = 1 << max(0, (n_out // _TILES_WANTED - 1).bit_length())
    return min(tile, max(_SMALLEST_TILE, enough))
