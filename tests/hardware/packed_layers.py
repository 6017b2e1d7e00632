"""Small random layers for EIE: integer values, so that products are exact."""

import torch
from torch import Tensor

from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie

BOOK = torch.tensor([0.0, *range(-7, 0), *range(1, 9)])


def random_layer(
    rng: torch.Generator, n_out: int, n_in: int, density: float, active: float, widths: EIEFormat
) -> tuple[EIEMatrix, Tensor]:
    """A packed matrix and a vector."""
    codes = torch.randint(1, 16, (n_out, n_in), generator=rng)
    codes = (codes * (torch.rand(n_out, n_in, generator=rng) < density)).to(torch.uint8)
    acts = torch.randint(1, 100, (n_in,), generator=rng) * (torch.rand(n_in, generator=rng) < active)
    return pack_eie(codes, BOOK, widths), acts.float()


def dense_product(matrix: EIEMatrix, acts: Tensor) -> Tensor:
    return matrix.to_dense().double() @ acts.double()
