"""Levels of cells: at which one the search for neighbours begins."""

import pytest
import torch

from pcsparse.kernels.cpu.cell_levels import crowded_level


def shared(coords, level):
    """Points that share their cell with others, one for each other."""
    cells = coords.clone()
    cells[:, 1:] >>= level
    counts = torch.unique(cells, dim=0, return_counts=True)[1]
    return int((counts * (counts - 1)).sum())


@pytest.mark.parametrize("size", [1, 5, 700, 1 << 16])
@pytest.mark.parametrize("wanted", [0.0, 0.6, 4.8, 500.0])
def test_the_search_begins_at_the_coarsest_level_that_is_not_too_crowded(size, wanted):
    rng = torch.Generator().manual_seed(size)
    clouds, cells = (
        torch.randint(0, n, shape, generator=rng) for n, shape in ((2, (150, 1)), (size, (150, 3)))
    )
    # twins do not count
    coords = torch.cat([clouds, cells], dim=1).int().repeat(2, 1)
    level = crowded_level(coords, wanted)
    limit = 300 * wanted + shared(coords, 0)
    top = int(coords[:, 1:].max()).bit_length()
    assert 0 <= level <= top
    assert level == 0 or shared(coords, level) <= limit
    assert level == top or shared(coords, level + 1) > limit
