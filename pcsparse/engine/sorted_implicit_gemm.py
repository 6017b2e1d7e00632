"""Sorted implicit GEMM: tiles of alike output rows gather and multiply without a buffer, on tensor cores.

Source: TorchSparse++ (MICRO 2023, arXiv 2311.12862), section 4; JeffreyXiang/FlexGEMM@6dd94a8.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.dataflow import PLAIN, Dataflow, Epilogue
from pcsparse.engine.gemm_sizes import SortedImplicitGemmConfig, candidates, completed, sizes_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.kernels.select import backend_of


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
        plain = _PLAIN[product_precision(problem.dtype)]
        yield plain
        yield from candidates(plain, problem)

    def configs_grad_weight(self, problem: ConvProblem) -> Iterator[SortedImplicitGemmConfig]:
        """The kernel's rule, then tiles and numbers of partial sums."""
        plain = _PLAIN[product_precision(problem.dtype)]
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
        if config.precision == "torch":
            config = replace(config, precision=_allowed())
        sizes = k, c_in, c_out, kmap.n_out, feats.element_size(), kmap.symmetric
        # the rule itself is asked for without a comparison of configs: it runs nearly every call
        plain = _PLAIN[config.precision] is config
        chosen = sizes_for(*sizes, config.precision) if plain else completed(config, *sizes)
        passing = epilogue.passing
        endings: dict[str, Any] = {}
        if epilogue is not PLAIN:
            endings = {"bias": epilogue.bias, "residual": epilogue.residual, "relu": epilogue.relu}
        if passing is not None:
            endings |= {"mask": passing.mask, "through": passing.feats}
            endings |= {"scale": passing.scale, "shift": passing.shift}
        return backend_of(feats, weight).implicit_gemm(
            feats,
            weight,
            kmap.layout(*chosen.layout),
            kmap.n_out,
            chosen.tile_out,
            chosen.tile_in,
            chosen.warps,
            chosen.stages,
            chosen.parts,
            chosen.precision,
            mirrored,
            **endings,
        )

    def grad_weight(
        self,
        feats: Tensor,
        grad_out: Tensor,
        kmap: KernelMap,
        config: SortedImplicitGemmConfig,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """See the base class."""
        return backend_of(feats, grad_out).implicit_gemm_grad_weight(
            feats,
            grad_out,
            kmap.table,
            # the table as it is took longer on an H200, 67 us for 54 even with 4 channels
            kmap.grad_weight_layout(),
            tile_in=config.tile_in,
            tile_out=config.tile_out,
            tile_rows=config.tile,
            partials=config.parts,
            precision=_allowed() if config.precision == "torch" else config.precision,
            dtype=dtype,
        )


_PLAIN = {precision: SortedImplicitGemmConfig(precision=precision) for precision in ("ieee", "tf32", "torch")}
"""The rule's numbers in all places."""


def product_precision(dtype: torch.dtype) -> str:
    """What torch is allowed to do with products of float32: its own switch for that."""
    if dtype != torch.float32:
        return "ieee"
    # dynamo does not know how to read the switch, and a graph may outlive its position
    return "torch" if torch.compiler.is_compiling() else _allowed()


def _allowed() -> str:
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"
