"""Numbers that kernels read on a device: whose memory nobody else gets while one may."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.jobs import LevelStep
from tests.emulation import gpu_kernels

gpu = gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import constants, levels, match  # noqa: E402

MANY = 1500


@pytest.mark.parametrize("of", [constants.on_device, match.offsets_of], ids=["numbers", "offsets"])
def test_what_a_kernel_may_still_read_is_kept_for_good(gpu_or_emulated, of):
    """No stream tells torch's allocator of its reads, and another thread may ask for very many others."""
    first = of((3, 4, 6), gpu_or_emulated)
    for i in range(MANY):
        of((i, i + 1, i + 9), gpu_or_emulated)
    again = of((3, 4, 6), gpu_or_emulated)
    assert again is first


def test_beyond_the_room_numbers_are_made_each_time(monkeypatch):
    monkeypatch.setattr(constants, "_ROOM", 3 * 64 + 63)
    kept, host = constants.Kept(constants.made), torch.device("cpu")
    firsts = [kept((i,), host) for i in range(3)]
    for i in range(3):
        assert kept((7,), host).tolist() == [7]
        assert kept((7,), host) is not kept((7,), host)
        assert kept((i,), host) is firsts[i]


@pytest.mark.parametrize(
    ("deltas", "tensors"),
    # a column in all; one for each delta, and where the last one ends
    [(range(64), 2), (range(0, 64 << 20, 1 << 20), 3), (range(0, 65 << 20, 1 << 20), 4)],
)
def test_columns_take_room_beside_their_deltas(monkeypatch, deltas, tensors):
    host, deltas = torch.device("cpu"), tuple(deltas)
    for room, is_kept in ((tensors * 64 - 1, False), (tensors * 64, True)):
        monkeypatch.setattr(constants, "_ROOM", room)
        kept = constants.Kept(match._made)
        assert (kept(deltas, host) is kept(deltas, host)) == is_kept


def test_a_long_search_over_subsets_of_offsets_is_kept():
    """Each of these many maps would wait twice."""
    kept = constants.Kept(lambda values, device: (torch.empty(27), torch.empty(28)))
    host, last = torch.device("cpu"), 0
    while (kept((last,), host)) is kept((last,), host):
        last += 1
    assert last == 32768
    # both stores
    assert 2 * last * 128 * 8 == 64 << 20


def test_long_lists_take_no_room():
    kept, host = constants.Kept(constants.made), torch.device("cpu")
    long = tuple(range(constants.LONGEST_KEPT + 1))
    assert kept(long, host) is not kept(long, host)
    short = long[1:]
    assert kept(short, host) is kept(short, host)


def test_the_bounds_of_a_cloud_take_no_room(gpu_or_emulated, monkeypatch):
    """They come once, and would leave none for what comes again."""
    monkeypatch.setattr(constants, "_KEPT", kept := constants.Kept(constants.made))
    # the way of levels that are too wide for a grid
    monkeypatch.setattr(levels.Grid, "of", lambda bounds: None)
    rows = torch.tensor([[0, x, x, 2 * x] for x in range(40)], dtype=torch.int32)
    keys = reference.pack_rows(rows)[0].to(gpu_or_emulated)
    sizes = set()
    for end in (3, 7, 11):
        bounds = ((0, 0, 0, 0), (0, end, end, 2 * end))
        step = LevelStep((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0), bounds)
        ((_, coords),) = levels.reached_levels(keys, [step])
        assert int(coords[:, 1].max()) == end
        sizes.add(len(kept._known))
    assert len(sizes) == 1
