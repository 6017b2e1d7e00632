"""Gather-GEMM-scatter with adaptive grouping: rows are gathered once, multiplied in groups, added once.

The scatter is output-stationary: each output row adds its products in the order of the offsets, without
atomics.

Source: TorchSparse (MLSys 2022, arXiv 2204.10319), sections 4.2 and 4.3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import PLAIN, Dataflow, Epilogue
from pcsparse.engine.grouping import Group, adaptive_groups
from pcsparse.engine.problem import ConvProblem
from pcsparse.kernels.select import backend_of


@dataclass(frozen=True)
class GatherScatterConfig:
    """The two knobs of adaptive grouping.

    Attributes:
        epsilon: tolerated share of redundant rows in a group, in [0, 1].
        batch_below: rows below which a group is one batched GEMM (S in the paper).
    """

    epsilon: float = 0.2
    batch_below: int = 2048


@final
class GatherScatter(Dataflow[GatherScatterConfig]):
    """Gather and GEMM are torch's, the scatter is `segment_sum`."""

    name = "gather_scatter"
    config_class = GatherScatterConfig

    def refuses(self, problem: ConvProblem) -> str | None:
        """Only a CPU runs it."""
        cpu = problem.device in ("cpu", "meta")
        return None if cpu else f"it lays out its buffers for a CPU, not {problem.device}"

    def configs(self, problem: ConvProblem) -> Iterator[GatherScatterConfig]:
        """A grid over epsilon and S around the default."""
        yield GatherScatterConfig()
        yield from (GatherScatterConfig(e, s) for e in (0.0, 0.1, 0.3, 0.5) for s in (0, 1024, 4096, 16384))

    def forward(
        self,
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        config: GatherScatterConfig,
        epilogue: Epilogue = PLAIN,
    ) -> Tensor:
        """See the base class."""
        return gather_gemm_scatter(feats, weight, kmap, self._groups(kmap, config), epilogue)

    def grad_weight(
        self, feats: Tensor, grad_out: Tensor, kmap: KernelMap, config: GatherScatterConfig
    ) -> Tensor:
        """See the base class."""
        dtype, wide = feats.dtype, _accumulator(feats.dtype)
        grad = torch.zeros(kmap.volume, feats.shape[1], grad_out.shape[1], dtype=wide)
        feats, grad_out = feats.to(wide), grad_out.to(wide)
        bounds = kmap.pairs.starts.tolist()
        for k in range(kmap.volume):
            part = slice(bounds[k], bounds[k + 1])
            if kmap.symmetric and k == kmap.volume // 2:
                grad[k] = feats.T @ grad_out
            elif part.start < part.stop:
                gathered = feats[kmap.pairs.rows_in[part].long()]
                grad[k] = gathered.T @ grad_out[kmap.pairs.rows_out[part].long()]
        return grad.to(dtype)

    @staticmethod
    def _groups(kmap: KernelMap, config: GatherScatterConfig) -> tuple[Group, ...]:
        counts = kmap.pairs.starts.diff().tolist()
        return adaptive_groups(
            counts, epsilon=config.epsilon, batch_below=config.batch_below, symmetric=kmap.symmetric
        )


def gather_gemm_scatter(
    feats: Tensor, weight: Tensor, kmap: KernelMap, groups: Sequence[Group], epilogue: Epilogue = PLAIN
) -> Tensor:
    """Convolve with a given grouping, which names every offset with pairs once, less a symmetric centre.

    Args:
        feats: (n_in, c_in) float.
        weight: (k, c_in, c_out).
        kmap: the map.
        groups: from `adaptive_groups` or by hand.
        epilogue: what is done to the sums before they are rounded.

    Returns:
        (n_out, c_out), dtype of `feats`.
    """
    dtype, wide = feats.dtype, _accumulator(feats.dtype)
    feats, weight = feats.to(wide), weight.to(wide)
    source, position = _layout(kmap, groups)
    gathered = feats.index_select(0, source)
    products = gathered.new_empty(gathered.shape[0], weight.shape[2])
    bounds = kmap.pairs.starts.tolist()
    begin = 0
    for group in groups:
        if group.batched:
            end = begin + len(group.offsets) * group.rows
            shape = (len(group.offsets), group.rows, -1)
            batch = products[begin:end].view(shape)
            torch.bmm(gathered[begin:end].view(shape), weight[list(group.offsets)], out=batch)
            begin = end
            continue
        for offset in group.offsets:
            end = begin + bounds[offset + 1] - bounds[offset]
            torch.mm(gathered[begin:end], weight[offset], out=products[begin:end])
            begin = end
    order, starts = kmap.by_output()
    places = position[order.long()]
    if kmap.symmetric:
        # the centre's products were never made; it has one pair an output row
        places, starts = places[places >= 0], starts - torch.arange(kmap.n_out + 1)
    out = backend_of(products).segment_sum(products, places, starts)
    if kmap.symmetric:
        out += feats @ weight[kmap.volume // 2]
    return epilogue.apply(out).to(dtype)


def _layout(kmap: KernelMap, groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
    """Input row of each buffer row, and buffer row of each pair, -1 where it has none."""
    pairs = kmap.pairs
    bounds = pairs.starts.tolist()
    starts_of: dict[int, int] = {}
    total = 0
    for group in groups:
        for offset in group.offsets:
            starts_of[offset] = total
            total += group.rows if group.batched else bounds[offset + 1] - bounds[offset]
    # a padding row gathers row 0; nobody reads its product
    source = torch.zeros(total, dtype=torch.int64)
    position = torch.full((kmap.n_pairs,), -1, dtype=torch.int32)
    for offset, first in starts_of.items():
        begin, end = bounds[offset], bounds[offset + 1]
        source[first : first + end - begin] = pairs.rows_in[begin:end]
        position[begin:end] = torch.arange(first, first + end - begin, dtype=torch.int32)
    return source, position


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
