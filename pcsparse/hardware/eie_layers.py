"""The nine layers of EIE's evaluation: sizes, densities and published times, and random stand-ins for them.

The trained weights are not used: a stand-in has weights at independent random positions with the published
density and exactly the published share of non-zero activations. Values are small integers, so that a product
is exact.

Source: Han et al., EIE (ISCA 2016), tables III and IV (64 PEs, 800 MHz).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# rows drawn at once: a float32 a position would take 400 MB for VGG-6
_ROWS = 512


@dataclass(frozen=True)
class EIELayer:
    """One benchmark layer.

    Attributes:
        name: the paper's.
        n_in: columns.
        n_out: rows.
        weight_density: share of weights that are not zero.
        activation_density: share of activations that are not zero.
        theory_us: published time without load imbalance, microseconds.
        actual_us: published time, microseconds.
        ratio: least and most of actual over theoretical time that a model of the chip may have.
        astray: why the published theoretical time does not follow from the published densities; "" if it
            does.
    """

    name: str
    n_in: int
    n_out: int
    weight_density: float
    activation_density: float
    theory_us: float
    actual_us: float
    ratio: tuple[float, float] = (1.03, 1.25)
    astray: str = ""

    @property
    def n_active(self) -> int:
        """Activations that are not zero."""
        return round(self.n_in * self.activation_density)

    def scaled(self, share: float) -> "EIELayer":
        """A layer with fewer columns; the times shrink with them."""
        n_in = max(1, round(self.n_in * share))
        part = n_in / self.n_in
        return replace(self, n_in=n_in, theory_us=part * self.theory_us, actual_us=part * self.actual_us)


EIE_LAYERS = (
    EIELayer("Alex-6", 9216, 4096, 0.09, 0.351, 28.1, 30.3),
    EIELayer("Alex-7", 4096, 4096, 0.09, 0.353, 11.7, 12.2),
    EIELayer(
        "Alex-8", 4096, 1000, 0.25, 0.375, 8.9, 9.9,
        astray="8.9 us need 19 % more entries than weights. A slice of 16 rows has no room for a pad, and a "
        "density that rounds to 25 % gives 7.6 us at most",
    ),
    EIELayer(
        "VGG-6", 25088, 4096, 0.04, 0.183, 28.1, 34.4,
        astray="a density that rounds to 4 % gives 24.8 us at most; runs of zeros must be longer in trained "
        "weights than in random ones, which makes pads",
    ),
    EIELayer("VGG-7", 4096, 4096, 0.04, 0.375, 7.9, 8.7),
    EIELayer("VGG-8", 4096, 1000, 0.23, 0.411, 7.3, 8.4),
    # 600 rows on 64 PEs: an entry a column and PE, and a third of the slices empty
    EIELayer("NT-We", 4096, 600, 0.10, 1.0, 5.2, 8.0, ratio=(1.4, 1.7)),
    EIELayer("NT-Wd", 600, 8791, 0.11, 1.0, 13.0, 13.9),
    EIELayer("NT-LSTM", 1201, 2400, 0.10, 1.0, 6.5, 7.5),
)  # fmt: skip


def stand_in_codebook() -> Tensor:
    """(16,) float32: 0 for code 0, and the integers from -7 to 8 but 0 for the others."""
    return torch.tensor([0.0, *range(-7, 0), *range(1, 9)], device="cpu")


def draw_codes(layer: EIELayer, seed: int) -> Tensor:
    """Weights: independent Bernoulli positions, codes 1 to 15 alike; (n_out, n_in) uint8."""
    rng = torch.Generator().manual_seed(seed)
    codes = torch.zeros(layer.n_out, layer.n_in, dtype=torch.uint8, device="cpu")
    for part in codes.split(_ROWS):
        kept = torch.rand(part.shape, generator=rng, device="cpu") < layer.weight_density
        part[kept] = torch.randint(1, 16, (int(kept.sum()),), generator=rng, dtype=torch.uint8, device="cpu")
    return codes


def draw_activations(layer: EIELayer, seed: int) -> Tensor:
    """Activations: exactly `n_active` positions of 1 to 127, zeros elsewhere; (n_in,) float32."""
    rng = torch.Generator().manual_seed(seed)
    acts = torch.zeros(layer.n_in, device="cpu")
    where = torch.randperm(layer.n_in, generator=rng, device="cpu")[: layer.n_active]
    acts[where] = torch.randint(1, 128, (layer.n_active,), generator=rng, device="cpu").float()
    return acts


def exact_product(codes: Tensor, codebook: Tensor, activations: Tensor) -> Tensor:
    """The dense product in float64, a few rows at a time; (n_out,)."""
    active = activations.nonzero()[:, 0]
    x = activations[active].double()
    book = codebook.double()
    parts = [book[rows[:, active].int()] @ x for rows in codes.split(_ROWS)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device="cpu")
