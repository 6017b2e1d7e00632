"""Coarser levels: twins against sets of coordinates, backends against twins."""

import itertools

import pytest
import torch

from pcsparse.coords.keys import COORD_MIN
from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.clouds import CLOUDS, lidar_like

CORNERS = torch.cartesian_prod(
    torch.tensor([0, 2046]), *(torch.tensor([low, 0, -low - 1]) for low in COORD_MIN)
).int()
# one x slab, so one chunk; and columns as high as the range
WALL = torch.cartesian_prod(
    torch.zeros(1).long(), torch.tensor([5]), torch.arange(-60, 60), torch.arange(-40, 40)
)
TALL = torch.cartesian_prod(
    torch.zeros(1).long(), torch.arange(-3, 3), torch.arange(3), torch.arange(-32_000, 32_000, 501)
)
COORDS = {name: torch.unique(cloud.coords, dim=0) for name, cloud in CLOUDS.items()} | {
    "corners": CORNERS,
    "wall": WALL.int(),
    "tall": TALL.int(),
    "sweep": lidar_like(9000, batch_size=3),
}
SMALL = [name for name in COORDS if len(COORDS[name]) < 1000]
PARTITIONS = {  # stride, first
    "1": ((1, 1, 1), (0, 0, 0)),
    "2": ((2, 2, 2), (0, 0, 0)),
    "2-padding": ((2, 2, 2), (-1, 0, -1)),
    "3-centred": ((3, 3, 3), (-1, -1, -1)),
    "124": ((1, 2, 4), (0, 0, 0)),
    "5-far": ((5, 5, 5), (-256, 256, -100)),
    "17-70-300": ((7, 70, 8), (0, 0, 0)),
}


def _keys(name: str) -> torch.Tensor:
    return reference.pack_rows(COORDS[name])[0]


@pytest.mark.parametrize(("stride", "first"), PARTITIONS.values(), ids=PARTITIONS.keys())
@pytest.mark.parametrize("name", SMALL)
def test_twin_of_partition_keys(name, stride, first):
    coarse, rows_in, rows_out, starts = reference.partition_keys(_keys(name), stride, first)

    # by Python's floor division
    split = [
        (b, *(divmod(c - f, s) for c, f, s in zip(cell, first, stride, strict=True)))
        for b, *cell in COORDS[name].tolist()
    ]
    cells = sorted({(b, x[0], y[0], z[0]) for b, x, y, z in split})
    assert list(map(tuple, reference.unpack_keys(coarse).tolist())) == cells
    offsets = list(itertools.product(*map(range, stride)))
    expected = [
        [
            (i, cells.index((b, x[0], y[0], z[0])))
            for i, (b, x, y, z) in enumerate(split)
            if (x[1], y[1], z[1]) == o
        ]
        for o in (offsets if len(split) < 100 else offsets[:3])
    ]
    found = list(zip(rows_in.tolist(), rows_out.tolist(), strict=True))
    assert [found[starts[k] : starts[k + 1]] for k in range(len(expected))] == expected
    assert len(starts) == len(offsets) + 1
    assert starts[-1] == len(split)


@pytest.mark.parametrize(("stride", "first"), PARTITIONS.values(), ids=PARTITIONS.keys())
@pytest.mark.parametrize("name", COORDS)
def test_partition_keys_matches_twin(device, name, stride, first):
    keys = _keys(name).to(device)
    expected = reference.partition_keys(keys, stride, first)
    actual = backend_of(keys).partition_keys(keys, stride, first)

    for got, want, dtype in zip(
        actual, expected, (torch.int64, torch.int32, torch.int32, torch.int64), strict=True
    ):
        assert got.dtype == want.dtype == dtype
        assert torch.equal(got, want)


KERNELS = {  # size, stride, dilation, first
    "3-stride-2": ((3, 3, 3), (2, 2, 2), (1, 1, 1), (-1, -1, -1)),
    "2-stride-2": ((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
    "1-stride-2": ((1, 1, 1), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
    "2-stride-3": ((2, 2, 2), (3, 3, 3), (1, 1, 1), (0, 0, 0)),
    "3-stride-1": ((3, 3, 3), (1, 1, 1), (1, 1, 1), (-1, -1, -1)),
    "135-dilation": ((1, 3, 5), (2, 1, 2), (1, 2, 3), (0, -2, -7)),
    "far": ((2, 1, 2), (1, 1, 2), (256, 1, 512), (0, 5, -256)),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("name", SMALL)
def test_twin_of_touched_keys(name, kernel):
    size, stride, dilation, first = kernel
    cells = set()
    for o in itertools.product(*map(range, size)):
        for b, *cell in COORDS[name].tolist():
            scaled = [c - f - d * i for c, f, d, i in zip(cell, first, dilation, o, strict=True)]
            if all(c % s == 0 for c, s in zip(scaled, stride, strict=True)):
                cells.add((b, *(c // s for c, s in zip(scaled, stride, strict=True))))

    keys = reference.touched_keys(_keys(name), size, stride, dilation, first)
    assert list(map(tuple, reference.unpack_keys(keys).tolist())) == sorted(cells)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("name", COORDS)
def test_touched_keys_matches_twin(device, name, kernel):
    keys = _keys(name).to(device)
    actual = backend_of(keys).touched_keys(keys, *kernel)

    assert actual.dtype == torch.int64
    assert torch.equal(actual, reference.touched_keys(keys, *kernel))
