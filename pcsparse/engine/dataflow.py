"""Dataflow: one way to run a convolution, in three passes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.problem import ConvProblem

Config = TypeVar("Config")


@dataclass(frozen=True, eq=False)
class Passing:
    """Rows that a convolution does not compute, and what stands there: feats * scale + shift.

    Attributes:
        mask: (n_out,) bool; False where a row passes.
        feats: (n_out, c_out).
        scale: (c_out,) at least float32, 1 if None.
        shift: (c_out,) at least float32, 0 if None.
    """

    mask: Tensor
    feats: Tensor
    scale: Tensor | None = None
    shift: Tensor | None = None

    def around(self, sums: Tensor) -> Tensor:
        """The sums where rows do not pass, (n_out, c_out)."""
        passed = self.feats.to(sums.dtype)
        if self.scale is not None:
            passed = passed * self.scale.to(sums.dtype)
        if self.shift is not None:
            passed = passed + self.shift.to(sums.dtype)
        return torch.where(self.mask[:, None], sums, passed)


@dataclass(frozen=True, eq=False)
class Epilogue:
    """What is done to the sums of a convolution before they are rounded, in this order.

    Attributes:
        bias: (c_out,) to add, or None.
        passing: rows that are not sums, or None.
        residual: (n_out, c_out) to add, or None.
        relu: whether negative values become zero.
    """

    bias: Tensor | None = None
    residual: Tensor | None = None
    relu: bool = False
    passing: Passing | None = None

    def apply(self, sums: Tensor) -> Tensor:
        """For dataflows without a place of their own for it; changes `sums` (n_out, c_out) in place."""
        if self.bias is not None:
            sums += self.bias.to(sums.dtype)
        if self.passing is not None:
            sums = self.passing.around(sums)
        if self.residual is not None:
            sums += self.residual.to(sums.dtype)
        return sums.clamp_(min=0) if self.relu else sums


PLAIN = Epilogue()
"""Nothing is done."""


class Dataflow(ABC, Generic[Config]):
    """Abstract; each implementation is final and has one frozen config class.

    All three passes add in float32 (float64 for float64) and return the dtype of their inputs;
    `grad_weight` another one where it is asked to.

    Attributes:
        devices: types of the devices that it has kernels for.
    """

    name: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]
    config_class: ClassVar[type]

    @abstractmethod
    def refuses(self, problem: ConvProblem) -> str | None:
        """Why this dataflow cannot run `problem`, or None."""

    @abstractmethod
    def configs(self, problem: ConvProblem) -> Iterator[Config]:
        """Candidates worth timing; the first one is what the rule takes, and it does not depend on rows."""

    def configs_grad_weight(self, problem: ConvProblem) -> Iterator[Config]:
        """As `configs`, for the pass that sums over the pairs."""
        return self.configs(problem)

    @abstractmethod
    def forward(
        self, feats: Tensor, weight: Tensor, kmap: KernelMap, config: Config, epilogue: Epilogue = PLAIN
    ) -> Tensor:
        """(n_in, c_in), (k, c_in, c_out) -> (n_out, c_out)."""

    def grad_feats(self, grad_out: Tensor, weight: Tensor, kmap: KernelMap, config: Config) -> Tensor:
        """(n_out, c_out), (k, c_in, c_out) -> (n_in, c_in): the forward pass of the transposed map."""
        return self.forward(grad_out, weight.transpose(1, 2), kmap.transposed(), config)

    @abstractmethod
    def grad_weight(
        self,
        feats: Tensor,
        grad_out: Tensor,
        kmap: KernelMap,
        config: Config,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """(n_in, c_in), (n_out, c_out) -> (k, c_in, c_out) of `dtype`, that of `feats` if None.

        Sums over all pairs may be beyond the range of 16 bits where neither features nor gradients are.
        """
