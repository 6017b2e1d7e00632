"""Pair lists that need no coordinates: any number of pairs an offset, inputs read more than once."""

import torch
from torch import Tensor

# pairs an offset
COUNTS: dict[str, list[int]] = {
    "no-offsets": [],
    "no-pairs": [0, 0, 0],
    "holes": [0, 5, 0, 0, 17, 1, 0],
    "full": [130, 130, 130],
    "one-pair": [1],
    "steps": list(range(1, 28)),
}
N_IN, N_OUT = 61, 130


def pairs(
    counts: list[int], rng: torch.Generator, n_in: int = N_IN, n_out: int = N_OUT
) -> tuple[Tensor, ...]:
    """rows_in, rows_out, starts: outputs ascend and are unique within an offset, inputs are random."""
    rows_in = [torch.randint(max(n_in, 1), (count,), generator=rng, dtype=torch.int32) for count in counts]
    rows_out = [torch.randperm(n_out, generator=rng)[:count].sort().values.int() for count in counts]
    nothing = torch.zeros(0, dtype=torch.int32)
    return (
        torch.cat([nothing, *rows_in]),
        torch.cat([nothing, *rows_out]),
        torch.tensor([0, *counts]).cumsum(0),
    )
