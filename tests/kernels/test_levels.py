"""Coarser levels: twins against sets of coordinates, backends against twins."""

import itertools

import pytest
import torch

from pcsparse.coords.keys import COORD_MIN
from pcsparse.errors import RangeError
from pcsparse.kernels import key_layout, reference
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
    # a chunk holds many clouds
    "crowd": lidar_like(5000, batch_size=2000),
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


def _case(name: str, kernel: str, *values, emulated: str):
    """A case that is emulated if the cloud is small or the kernel is the one named by `emulated`."""
    marks = [] if name in SMALL or kernel == emulated else [pytest.mark.not_emulated("many threads")]
    return pytest.param(name, *values, id=f"{name}-{kernel}", marks=marks)


@pytest.mark.parametrize(
    ("name", "stride", "first"),
    [
        _case(name, kernel, *PARTITIONS[kernel], emulated="2-padding")
        for name in COORDS
        for kernel in PARTITIONS
    ],
)
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
    "5-stride-2": ((5, 5, 5), (2, 2, 2), (1, 1, 1), (-2, -2, -2)),
    "2-stride-2": ((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
    "1-stride-2": ((1, 1, 1), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
    "2-stride-3": ((2, 2, 2), (3, 3, 3), (1, 1, 1), (0, 0, 0)),
    "3-stride-1": ((3, 3, 3), (1, 1, 1), (1, 1, 1), (-1, -1, -1)),
    "135-dilation": ((1, 3, 5), (2, 1, 2), (1, 2, 3), (0, -2, -7)),
    "some-residues": ((4, 2, 3), (4, 6, 9), (2, 3, 6), (1, -3, 2)),
    "far": ((2, 1, 2), (1, 1, 2), (256, 1, 512), (0, 5, -256)),
    # all but one coarse cell lie beyond the range
    "longest-stride": ((3, 3, 3), (1 << 17, 1 << 18, 1 << 24), (1, 1, 1), (0, -1, -2)),
}


def _fits(name: str, kernel: tuple, expand: bool) -> bool:
    """Whether what coarse cells reach keeps in the range of a key, as the contract asks for."""
    size, stride, dilation, first = kernel
    for axis in range(3):
        image = COORDS[name][:, axis + 1].long() * stride[axis] + first[axis]
        reach = dilation[axis] * (size[axis] - 1)
        if (
            expand
            and len(image)
            and (image.min() < COORD_MIN[axis] or image.max() + reach >= -COORD_MIN[axis])
        ):
            return False
    return True


def _cases(names) -> list:
    return [
        _case(
            name,
            f"{kernel_name}-{'expand' if expand else 'touch'}",
            kernel,
            expand,
            emulated="3-stride-2-touch",
        )
        for name in names
        for kernel_name, kernel in KERNELS.items()
        for expand in (False, True)
        if _fits(name, kernel, expand)
    ]


@pytest.mark.parametrize(("name", "kernel", "expand"), _cases(SMALL))
def test_twin_of_reached_cells(name, kernel, expand):
    size, stride, dilation, first = kernel
    # for each offset, cells that given rows meet: by Python's integers
    met = []
    for o in itertools.product(*map(range, size)):
        step = [f + d * i for f, d, i in zip(first, dilation, o, strict=True)]
        pairs = []
        for row, (b, *cell) in enumerate(COORDS[name].tolist()):
            if expand:
                pairs.append((row, (b, *(c * s + t for c, s, t in zip(cell, stride, step, strict=True)))))
            elif all((c - t) % s == 0 for c, s, t in zip(cell, stride, step, strict=True)):
                pairs.append((row, (b, *((c - t) // s for c, s, t in zip(cell, stride, step, strict=True)))))
        met.append(pairs)
    cells = sorted({cell for pairs in met for _, cell in pairs})
    row_of = {cell: row for row, cell in enumerate(cells)}

    keys, fine, coarse, starts = reference.reached_cells(_keys(name), *kernel, expand)
    assert list(map(tuple, reference.unpack_keys(keys).tolist())) == cells
    given, reached = (coarse, fine) if expand else (fine, coarse)
    found = list(zip(given.tolist(), reached.tolist(), strict=True))
    assert [found[a:b] for a, b in itertools.pairwise(starts.tolist())] == [
        [(row, row_of[cell]) for row, cell in pairs] for pairs in met
    ]
    assert len(found) == starts[-1]


@pytest.mark.parametrize(("name", "kernel", "expand"), _cases(COORDS))
def test_reached_cells_matches_twin(device, name, kernel, expand):
    keys = _keys(name).to(device)
    kept = keys.clone()
    expected = reference.reached_cells(keys, *kernel, expand)
    actual = backend_of(keys).reached_cells(keys, *kernel, expand)

    for got, want, dtype in zip(
        actual, expected, (torch.int64, torch.int32, torch.int32, torch.int64), strict=True
    ):
        assert got.dtype == want.dtype == dtype
        assert torch.equal(got, want)
    assert torch.equal(keys, kept)


@pytest.mark.parametrize("expand", [False, True])
def test_more_pairs_than_int32_tells_apart_are_refused(device, monkeypatch, expand):
    keys, kernel = _keys("wall").to(device), KERNELS["3-stride-2"]
    n_pairs = int(reference.reached_cells(keys, *kernel, expand)[3][-1])
    for backend in (reference, backend_of(keys)):
        monkeypatch.setattr(key_layout, "MOST_PAIRS", n_pairs)
        assert backend.reached_cells(keys, *kernel, expand)[3][-1] == n_pairs
        monkeypatch.setattr(key_layout, "MOST_PAIRS", n_pairs - 1)
        with pytest.raises(RangeError, match=rf"{n_pairs} pairs of .* at 27 offsets .*\({n_pairs - 1}\)"):
            backend.reached_cells(keys, *kernel, expand)


def test_a_stride_far_beyond_the_range_takes_no_table_of_its_length(device):
    keys = _keys("line").to(device)
    long, longer = (((1, 1, 3), (1, 1, stride), (1, 1, 1), (0, 0, -1)) for stride in (1 << 20, 1 << 40))
    expected = reference.reached_cells(keys, *long)
    assert len(expected[0]) == 1
    for got, want in zip(backend_of(keys).reached_cells(keys, *longer), expected, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("expand", [False, True])
def test_a_slab_of_many_voxels_is_listed_once(device, expand):
    rows = torch.arange(20_000)
    coords = torch.stack([rows * 0, rows * 0, rows // 150, rows % 150], dim=1).int()
    keys = reference.pack_rows(coords)[0].to(device)
    room = []
    if device.type == "cpu":
        from pcsparse.kernels.cpu import levels

        axis = levels._Axis.of(3, 2, 1, -1, 1 << 17, expand)
        (begins, ends), slabs = levels._cuts(keys.numpy(), 27, axis)
        room.append(int((ends - begins).sum()))
        assert len(set(slabs.tolist())) == len(slabs)
    for got, want in zip(
        backend_of(keys).reached_cells(keys, *KERNELS["3-stride-2"], expand),
        reference.reached_cells(keys, *KERNELS["3-stride-2"], expand),
        strict=True,
    ):
        assert torch.equal(got.cpu(), want.cpu())
    # every voxel in at most the two chunks that its cells may lie in
    assert all(found <= 2 * len(keys) for found in room)


def test_residues_of_a_long_stride_are_told_apart(device):
    stride, dilation, size = 100_015, 3, 30
    inverse = pow(dilation, -1, stride)
    # 32-bit arithmetic would take these for residues of an offset
    wrapped = [r for r in range(stride) if r * inverse % (1 << 32) % stride < size <= r * inverse % stride]
    assert len(wrapped) > 1
    coords = torch.zeros(len(wrapped) + 1, 4, dtype=torch.int32)
    coords[1:, 1] = torch.tensor(wrapped)
    keys = reference.pack_rows(coords)[0].to(device)
    kernel = ((size, 1, 1), (stride, 1, 1), (dilation, 1, 1), (0, 0, 0))
    expected = reference.reached_cells(keys, *kernel)
    assert len(expected[0]) == 1
    for got, want in zip(backend_of(keys).reached_cells(keys, *kernel), expected, strict=True):
        assert torch.equal(got, want)


def _bounds(keys: torch.Tensor, margin: int) -> tuple:
    low, high = reference.key_extent(keys)
    return tuple(end - margin for end in low), tuple(end + margin for end in high)


def _without_sort(monkeypatch) -> None:
    from tests.emulation import gpu_kernels

    gpu_kernels()
    from pcsparse.kernels.gpu import levels

    monkeypatch.setattr(levels.Ranked, "of", lambda keys: pytest.fail("candidates were sorted"))


GRIDS = ("one", "line", "two-batches", "negative", "clumped", "wall")


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("kernel", ["2-padding", "124", "5-far"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_partition_within_known_bounds_is_the_same(device, monkeypatch, name, kernel, margin):
    keys = _keys(name).to(device)
    expected = reference.partition_table(keys, *PARTITIONS[kernel])
    bounds = _bounds(expected[0], margin)
    _without_sort(monkeypatch)
    for got, want in zip(
        backend_of(keys).partition_table(keys, *PARTITIONS[kernel], bounds), expected, strict=True
    ):
        assert got.dtype == want.dtype
        assert torch.equal(got, want)


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("kernel", ["3-stride-2", "135-dilation", "some-residues"])
@pytest.mark.parametrize("name", GRIDS)
def test_a_level_within_known_bounds_is_the_same(device, monkeypatch, name, kernel, expand):
    keys = _keys(name).to(device)
    expected = reference.reached_level(keys, *KERNELS[kernel], expand)
    _without_sort(monkeypatch)
    actual = backend_of(keys).reached_level(keys, *KERNELS[kernel], expand, _bounds(expected, 1))
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("name", ["empty", "corners"])
def test_bounds_of_nothing_or_of_too_much_are_no_help(device, name):
    keys = _keys(name).to(device)
    bounds = ((0, *COORD_MIN), (2046, *(-low - 1 for low in COORD_MIN)))
    expected = reference.partition_table(keys, (2, 2, 2), (0, 0, 0))
    for got, want in zip(
        backend_of(keys).partition_table(keys, (2, 2, 2), (0, 0, 0), bounds), expected, strict=True
    ):
        assert torch.equal(got, want)
    level = backend_of(keys).reached_level(keys, *KERNELS["3-stride-2"], False, bounds)
    assert torch.equal(level, reference.reached_level(keys, *KERNELS["3-stride-2"]))
