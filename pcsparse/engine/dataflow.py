"""Dataflow: one way to run a convolution, in three passes."""

from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.engine.problem import ConvProblem

Config = TypeVar("Config")


class Dataflow(ABC, Generic[Config]):
    """Abstract; each implementation is final and has one frozen config class.

    All three passes add in float32 (float64 for float64) and return the dtype of their inputs.
    """

    name: ClassVar[str]
    config_class: ClassVar[type]

    @abstractmethod
    def refuses(self, problem: ConvProblem) -> str | None:
        """Why this dataflow cannot run `problem`, or None."""

    @abstractmethod
    def configs(self, problem: ConvProblem) -> tuple[Config, ...]:
        """Candidates worth timing; the first one is what the rule takes."""

    @abstractmethod
    def forward(self, feats: Tensor, weight: Tensor, kmap: KernelMap, config: Config) -> Tensor:
        """(n_in, c_in), (k, c_in, c_out) -> (n_out, c_out)."""

    def grad_feats(self, grad_out: Tensor, weight: Tensor, kmap: KernelMap, config: Config) -> Tensor:
        """(n_out, c_out), (k, c_in, c_out) -> (n_in, c_in): the forward pass of the transposed map."""
        return self.forward(grad_out, weight.transpose(1, 2), kmap.transposed(), config)

    @abstractmethod
    def grad_weight(self, feats: Tensor, grad_out: Tensor, kmap: KernelMap, config: Config) -> Tensor:
        """(n_in, c_in), (n_out, c_out) -> (k, c_in, c_out)."""
