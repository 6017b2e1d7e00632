"""How often the host waits for a GPU that works on rows: once where it needs a size, or else not at all."""

import pytest
import torch

from pcsparse.coords.neighbors import Neighbours
from pcsparse.kernels.select import backend_of
from pcsparse.ops.group import gather_rows, group_neighbours
from pcsparse.ops.interpolate import interpolate
from tests.host_waits import host_waits
from tests.kernels.random_maps import pairs

RNG = torch.Generator().manual_seed(3)
N, C = 20, 5
LISTS = pairs([4, 0, 7], RNG, N, N)
ROWS, ONE = torch.randn(N, C, generator=RNG), torch.ones(C)
STARTS, ORDER = torch.tensor([0, 3, 3, 9]), torch.arange(9, dtype=torch.int32)
CALLS = {  # waits, arguments
    "group_rows": (0, ORDER, N),
    "pairs_to_table": (0, *LISTS, N),
    "renumber_pairs": (0, *LISTS, ORDER.new_tensor(range(N)), None, N),
    "keep_outputs": (1, *LISTS, torch.arange(N) % 2 == 0, 1),
    "tile_spans": (0, *LISTS[1:], N, 4),
    "row_masks": (0, torch.zeros(3, N, dtype=torch.int32), 1),
    "gray_rank": (0, torch.arange(4)),
    "fetch_layout": (0, torch.zeros(3, N, dtype=torch.int32)),
    "mean_magnitude": (0, ROWS),
    "top_rows": (0, ROWS[:, 0].abs(), ORDER, STARTS, torch.tensor([1, 0, 2])),
    "segment_sum": (0, ROWS, ORDER, STARTS),
    "segment_weighted_sum": (0, ROWS, ORDER, torch.ones(9), STARTS),
    "segment_max": (0, ROWS, ORDER, STARTS),
    "segment_max_grad": (0, ROWS, torch.zeros(N, C, dtype=torch.int32), ORDER, STARTS),
    "batch_norm": (0, ROWS, ONE, None, ROWS, True, 0.1, None),
    "norm_by_moments": (0, ROWS, ONE, ONE, ONE, None, ROWS, True, 0.1),
    "batch_norm_grad": (0, ROWS, ROWS, ONE, ROWS, torch.ones(2, C), 0.1, True),
    "scale_shift": (0, ROWS, ONE, ONE, ROWS, True),
    "scale_shift_sums": (0, ROWS, ROWS, ROWS, ONE),
    "scale_shift_grad": (0, ROWS, ROWS, ROWS, ONE, ONE, ONE, True),
}
NEAR = torch.tensor([[0, 3], [5, -1], [2, 2]], dtype=torch.int32)
OPERATORS = {
    "gather_rows": lambda feats, near: gather_rows(feats, near),
    "group_neighbours": lambda feats, near: group_neighbours(feats[:, :3], feats[:3, :3], feats, near),
    "interpolate": lambda feats, near: interpolate(feats, Neighbours(near, near.double().abs())),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_host_waits_for_sizes_only(gpu_or_emulated, name):
    waits, *arguments = CALLS[name]
    moved = [part.to(gpu_or_emulated) if isinstance(part, torch.Tensor) else part for part in arguments]
    with host_waits(gpu_or_emulated) as seen:
        getattr(backend_of(moved[0]), name)(*moved)
    assert len(seen.places) == waits, seen.places
    assert not seen.mixed


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_looks_at_its_neighbours_once(gpu_or_emulated, name):
    feats, near = ROWS.to(gpu_or_emulated), NEAR.to(gpu_or_emulated)
    with host_waits(gpu_or_emulated) as seen:
        OPERATORS[name](feats, near)
    assert len(seen.places) == 1, seen.places
    assert not seen.mixed
