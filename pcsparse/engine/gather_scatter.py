"""Gather-GEMM-scatter with adaptive grouping: rows are gathered once, multiplied in groups, added once.

The scatter is output-stationary: each output row adds its products in the order of the offsets, without
atomics. How many pairs an offset has decides the groups, so the host waits for a GPU once a map.

Source: TorchSparse (MLSys 2022, arXiv 2204.10319), sections 4.2 and 4.3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import PLAIN, Dataflow, Epilogue
from pcsparse.engine.gather_layout import layout_of
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
    """Gather and GEMM are `gather_gemm`, the scatter is `segment_sum`."""

    name = "gather_scatter"
    devices = ("cpu", "cuda", "meta")
    config_class = GatherScatterConfig

    def refuses(self, problem: ConvProblem) -> str | None:
        """Nothing that a backend exists for."""
        return None if problem.device in self.devices else f"it has no kernel on {problem.device}"

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
        self,
        feats: Tensor,
        grad_out: Tensor,
        kmap: KernelMap,
        config: GatherScatterConfig,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """See the base class."""
        backend, pairs = backend_of(feats, grad_out), kmap.pairs
        wide = torch.float64 if feats.dtype == torch.float64 else torch.float32
        grad = feats.new_zeros(kmap.volume, feats.shape[1], grad_out.shape[1], dtype=wide)
        begin = 0
        for k, count in enumerate(kmap.offset_counts()):
            end = begin + count
            if kmap.symmetric and k == kmap.volume // 2:
                grad[k] = backend.wide_matmul(feats.T, grad_out)
            elif count:
                gathered = feats.index_select(0, pairs.rows_in[begin:end])
                grad[k] = backend.wide_matmul(gathered.T, grad_out.index_select(0, pairs.rows_out[begin:end]))
            begin = end
        return grad.to(dtype or feats.dtype)

    @staticmethod
    def _groups(kmap: KernelMap, config: GatherScatterConfig) -> tuple[Group, ...]:
        counts = kmap.offset_counts()
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
    backend, layout = backend_of(feats, weight), layout_of(kmap, tuple(groups))
    products = backend.gather_gemm(feats, weight, layout.runs, layout.gather)
    out = backend.segment_sum(products, layout.places, layout.starts)
    if kmap.symmetric:
        out += backend.wide_matmul(feats, weight[kmap.volume // 2])
    return epilogue.apply(out).to(feats.dtype)
