"""Output-stationary dataflow: tiles of output rows stay in the cache while their pairs stream past.

No gather buffer and no scatter; the result has the same bits at any number of threads.
"""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import Dataflow
from pcsparse.engine.problem import ConvProblem
from pcsparse.kernels.select import backend_of


@dataclass(frozen=True)
class OutputStationaryConfig:
    """Sizes that shape the order of addition, and so the bits.

    Attributes:
        tile: output rows a tile in forward and grad_feats; small levels take smaller tiles, see `_rows`.
        chunk: pairs a partial sum in grad_weight.
    """

    tile: int = 1024
    chunk: int = 8192


@final
class OutputStationary(Dataflow[OutputStationaryConfig]):
    """Contract and kernels: `kernels.protocol.Backend.output_stationary`."""

    name = "output_stationary"
    config_class = OutputStationaryConfig

    def refuses(self, problem: ConvProblem) -> str | None:
        """Only a CPU runs it."""
        return None if problem.device in ("cpu", "meta") else f"it has no kernel on {problem.device}"

    def configs(self, problem: ConvProblem) -> tuple[OutputStationaryConfig, ...]:
        """Tiles of 256 to 4096 rows; few channels first try long ones, so that a tile fills the L2 cache."""
        tiles = (2048, 1024, 512, 256, 4096) if problem.c_out <= 32 else (1024, 512, 2048, 256, 4096)
        return tuple(OutputStationaryConfig(tile) for tile in tiles)

    def forward(
        self, feats: Tensor, weight: Tensor, kmap: KernelMap, config: OutputStationaryConfig
    ) -> Tensor:
        """See the base class."""
        pairs = kmap.pairs
        return backend_of(feats, weight).output_stationary(
            feats,
            weight,
            pairs.rows_in,
            pairs.rows_out,
            pairs.starts,
            kmap.n_out,
            _rows(kmap.n_out, config.tile),
        )

    def grad_weight(
        self, feats: Tensor, grad_out: Tensor, kmap: KernelMap, config: OutputStationaryConfig
    ) -> Tensor:
        """See the base class."""
        pairs = kmap.pairs
        return backend_of(feats, grad_out).output_stationary_grad_weight(
            feats, grad_out, pairs.rows_in, pairs.rows_out, pairs.starts, config.chunk
        )


# a small level must still keep many threads busy, and a tile under 256 rows repays its weights no longer
_SMALLEST_TILE, _TILES_WANTED = 256, 16


def _rows(n_out: int, tile: int) -> int:
    """Rows a tile: from the problem alone, never from the machine."""
    enough = 1 << max(0, (n_out // _TILES_WANTED - 1).bit_length())
    return min(tile, max(_SMALLEST_TILE, enough))
