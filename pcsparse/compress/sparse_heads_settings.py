"""How the dense layers of a head become sparse: what a person chooses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import nn

from pcsparse.compress.shared_weights import Initial
from pcsparse.errors import RangeError
from pcsparse.packed.eie import EIEFormat

Evaluate = Callable[[nn.Module], float]
"""A figure of merit of a model. It finds the model in evaluation mode, and runs without gradients."""
Fit = Callable[[nn.Module], object]
"""Trains a model in place. It finds each module in the mode that it had, and makes its own optimiser: the
parameters of masked and of shared layers are others than before."""
Training = Literal["mask", "sr-ste"]


@dataclass(frozen=True)
class EIESettings:
    """Pruning by magnitude, shared weights, EIE's format.

    Attributes:
        density: share of the weights of each layer to keep, above 0, at most 1.
        densities: of single layers, by name, in place of `density`.
        widths: of the format. Four processing elements, where the chip has 64: each takes two bytes of
            pointers a column, and small layers have few rows for each.
        initial: of the centroids, see `share_weights`.

    Raises:
        RangeError: a density outside (0, 1], or another way to begin.

    Source: Deep Compression (Han et al., ICLR 2016), sections 2 and 3.
    """

    density: float = 0.1
    densities: Mapping[str, float] = field(default_factory=dict)
    widths: EIEFormat = field(default_factory=lambda: EIEFormat(n_pe=4))
    initial: Initial = "linear"

    def __post_init__(self) -> None:
        """Refuse what is no share, and what would keep nothing."""
        for name, density in {"density": self.density, **self.densities}.items():
            if not 0.0 < density <= 1.0:
                raise RangeError(f"{name}: a density must be above 0 and at most 1, got {density}")
        if self.initial not in get_args(Initial):
            raise RangeError(f"initial must be one of {', '.join(get_args(Initial))}, got {self.initial!r}")

    def density_of(self, name: str) -> float:
        """The share of weights that a layer keeps."""
        return self.densities.get(name, self.density)


@dataclass(frozen=True)
class TwoFourSettings:
    """Two of each four weights along the input channels.

    Attributes:
        training: how `fit` trains: "mask" keeps the weights that are largest at the start; "sr-ste" chooses
            anew at every step (`two_four.SRSTE`).
        decay: of the weights that are dropped at the moment, for "sr-ste".
        permute: first order the channels between the linear layers of each `nn.Sequential`, so that the
            largest weights are kept (`channel_order.permute_head`). It must be called as a whole: code that
            calls its layers one by one, and uses what lies between, would see other channels.
            `channel_order_graph.permute_network` orders those of a whole network, before this is called.
        rounds: of that search, for each layer.

    Raises:
        RangeError: another training; a decay or rounds below 0.

    Source: arXiv 2104.08378, section 4; arXiv 2102.04010, section 3.3.
    """

    training: Training = "mask"
    decay: float = 2e-4
    permute: bool = False
    rounds: int = 100

    def __post_init__(self) -> None:
        """Refuse before training what would be refused in its midst."""
        if self.training not in ("mask", "sr-ste"):
            raise RangeError(f"training must be 'mask' or 'sr-ste', got {self.training!r}")
        if not 0 <= self.decay < float("inf"):
            raise RangeError(f"decay must be at least 0, got {self.decay}; the paper takes 2e-4")
        if self.rounds < 0:
            raise RangeError(f"rounds must be at least 0, got {self.rounds}")
