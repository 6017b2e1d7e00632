"""Fetch-on-demand: each output row follows the list of its own pairs, for layers of few channels on a GPU.

No GPU has run it yet, so the rule sends no layer to it: it runs where it is named, or where a tuner took it.

Source: PCEngine (MLSys 2023) and TorchSparse++ (MICRO 2023, arXiv 2311.12862), there with atomics.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import PLAIN, Dataflow, Epilogue
from pcsparse.engine.gemm_sizes import SortedImplicitGemmConfig
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.sorted_implicit_gemm import SortedImplicitGemm
from pcsparse.errors import RangeError
from pcsparse.kernels.fetch_form import MOST_SHARED, FetchForm, fetch_forms
from pcsparse.kernels.select import backend_of

# bytes of weights that a pair reads from shared memory. An H200 reads 30 TB/s of them, 12 us for the 346,000
# pairs of a sweep; the implicit GEMM took 13 us with 16 channels and 16 us with 32 in float16, tensor cores
# and all (docs/benchmarks.md): twice as much cannot win
_MOST_BYTES_A_PAIR = 1024


@dataclass(frozen=True)
class FetchOnDemandConfig:
    """How threads share the work; 0 for the rule's number, which comes from the channels.

    `lanes` shapes the order of addition, and so the bits.

    Attributes:
        lanes: of the eight threads of a row, how many lie side by side over output channels: 1, 2, 4 or 8.
        threads: of a block, 128 or 256.

    Raises:
        RangeError: a number that no kernel can run with.
    """

    lanes: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        """Check what a file or a caller gave."""
        if self.lanes not in (0, 1, 2, 4, 8) or self.threads not in (0, 128, 256):
            raise RangeError(f"lanes must be 1, 2, 4 or 8, threads 128 or 256, or 0 for the rule, got {self}")


@final
class FetchOnDemand(Dataflow[FetchOnDemandConfig]):
    """Contract and kernels: `kernels.protocol.Backend.fetch_on_demand`; `grad_weight` is implicit GEMM's."""

    name = "fetch_on_demand"
    devices = ("cuda",)
    config_class = FetchOnDemandConfig

    def refuses(self, problem: ConvProblem) -> str | None:
        """Only a GPU runs it, not in float64, on distinct maps, with few weights a pair that fit in all."""
        if problem.device not in self.devices:
            return f"it is for GPUs and has no kernel on {problem.device}"
        if problem.dtype == torch.float64:
            return "it adds in float32, and the features are float64"
        if not problem.distinct:
            return "an offset of the map leads several inputs to one output"
        # the input gradient has the channels the other way round
        ways = _forms(problem), _forms(problem.transposed())
        most = max((way[0].bytes_a_pair for way in ways if way), default=0)
        channels = f"{problem.c_in} to {problem.c_out} {str(problem.dtype).removeprefix('torch.')} channels"
        if most > _MOST_BYTES_A_PAIR:
            return (
                f"with {channels} a pair reads {most} bytes of weights from shared memory, and beyond "
                f"{_MOST_BYTES_A_PAIR} that takes longer than tensor cores do"
            )
        if not all(ways):
            return (
                f"weights of {problem.k} offsets, {channels}, do not fit {MOST_SHARED} bytes of shared memory"
            )
        return None

    def configs(self, problem: ConvProblem) -> Iterator[FetchOnDemandConfig]:
        """The rule first, then smaller blocks, and the other ways to share a row."""
        yield FetchOnDemandConfig()
        yield FetchOnDemandConfig(threads=128)
        yield from (FetchOnDemandConfig(form.lanes) for form in _forms(problem)[1:])

    def configs_grad_weight(self, problem: ConvProblem) -> Iterator[FetchOnDemandConfig]:
        """One, that of the implicit GEMM's rule."""
        yield FetchOnDemandConfig()

    def forward(
        self,
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        config: FetchOnDemandConfig,
        epilogue: Epilogue = PLAIN,
    ) -> Tensor:
        """See the base class."""
        return self._run(feats, weight, kmap, config, epilogue, mirrored=False)

    def grad_feats(
        self, grad_out: Tensor, weight: Tensor, kmap: KernelMap, config: FetchOnDemandConfig
    ) -> Tensor:
        """See the base class; a symmetric map is its own transpose, with the offsets mirrored."""
        back = kmap if kmap.symmetric else kmap.transposed()
        return self._run(grad_out, weight.transpose(1, 2), back, config, PLAIN, mirrored=kmap.symmetric)

    @staticmethod
    def _run(
        feats: Tensor,
        weight: Tensor,
        kmap: KernelMap,
        config: FetchOnDemandConfig,
        epilogue: Epilogue,
        *,
        mirrored: bool,
    ) -> Tensor:
        passing = epilogue.passing
        return backend_of(feats, weight).fetch_on_demand(
            feats,
            weight,
            kmap.fetch_layout(),
            kmap.n_out,
            config.lanes,
            config.threads,
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
        self,
        feats: Tensor,
        grad_out: Tensor,
        kmap: KernelMap,
        config: FetchOnDemandConfig,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """See the base class."""
        return _GRADIENTS.grad_weight(feats, grad_out, kmap, _PLAIN, dtype)


_GRADIENTS, _PLAIN = SortedImplicitGemm(), SortedImplicitGemmConfig()


def _forms(problem: ConvProblem) -> tuple[FetchForm, ...]:
    return fetch_forms(problem.k, problem.c_in, problem.c_out, problem.dtype.itemsize)
