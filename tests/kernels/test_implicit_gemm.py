"""Sorted implicit GEMM: twins against the dense oracle, backends against twins."""

import sys

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests import oracle
from tests.clouds import CLOUDS
from tests.moving import moved
from tests.oracle import Geometry
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def _table(rng, k: int, n_in: int, n_out: int, share: float = 0.3) -> torch.Tensor:
    """A table with about a `share` of its places filled; rare and common offsets, rows of all kinds."""
    if n_in == 0:
        return torch.full((k, n_out), -1, dtype=torch.int32)
    rows = torch.randint(n_in, (k, n_out), generator=rng, dtype=torch.int32)
    often = torch.linspace(0, 2 * share, k)[:, None]
    return rows.where(torch.rand(k, n_out, generator=rng) < often, -1).contiguous()


def _operands(rng, dtype, table, n_in: int, c_in: int, c_out: int):
    scale = max(1, len(table) * c_in) ** -0.5
    feats = torch.randn(n_in, c_in, generator=rng, dtype=torch.float64).to(dtype)
    weight = torch.randn(len(table), c_in, c_out, generator=rng, dtype=torch.float64) * scale
    return feats, weight.to(dtype)


def _run(
    device,
    feats,
    weight,
    table,
    *,
    splits=1,
    tile=32,
    tile_out=16,
    tile_in=32,
    parts=1,
    mirrored=False,
    **extra,
):
    extra = {name: moved(part, device) if torch.is_tensor(part) else part for name, part in extra.items()}
    feats, weight, table = (moved(part, device) for part in (feats, weight, table))
    backend, n_out = backend_of(feats, weight), table.shape[1]
    layout = backend.gemm_layout(table, splits, tile)
    sizes = n_out, tile_out, tile_in, 4, 4, parts, "ieee"
    return backend.implicit_gemm(feats, weight, layout, *sizes, mirrored, **extra).cpu()


def _twin(feats, weight, table, *, mirrored=False, **extra):
    wide = {
        name: p.double() if torch.is_tensor(p) and p.dtype != torch.bool else p for name, p in extra.items()
    }
    layout = reference.gemm_layout(table, 1, 16)
    sizes = table.shape[1], 16, 16, 4, 4, 1, "ieee"
    out = reference.implicit_gemm(feats.double(), weight.double(), layout, *sizes, mirrored, **wide)
    return out.to(feats.dtype)


def _check(device, feats, weight, table, **options):
    extra = {name: options[name] for name in options if name not in _SIZES}
    expected = _twin(feats, weight, table, **extra)
    actual = _run(device, feats, weight, table, **options)

    assert actual.dtype == feats.dtype
    terms = weight.shape[0] * weight.shape[1]
    torch.testing.assert_close(actual, expected, **tolerance(feats.dtype, terms=terms, factor=16))


_SIZES = ("splits", "tile", "tile_out", "tile_in", "parts")


@pytest.fixture(params=CLOUDS.values(), ids=CLOUDS.keys())
def dense_case(request, rng):
    """A strided convolution of a cloud: everything in float64."""
    cloud, geometry = request.param, Geometry((3, 2, 3), (2, 1, 2), (1, 2, 1), (1, 0, 0))
    cells = sorted(oracle.touched(cloud.coords, geometry))
    coarse = torch.tensor(cells, dtype=torch.int32).view(-1, 4)
    feats = torch.randn(len(cloud.coords), 3, generator=rng, dtype=torch.float64)
    weight = torch.randn(18, 3, 5, generator=rng, dtype=torch.float64)
    out = oracle.sparse_conv(feats, cloud.coords, weight, coarse, geometry, batch=cloud.batch_size)
    table = torch.full((18, len(cells)), -1, dtype=torch.int32)
    for i, j, k in oracle.kernel_map(cloud.coords, coarse, geometry):
        table[k, j] = i
    return feats, weight, out, table


def test_twin_of_implicit_gemm(dense_case):
    feats, weight, expected, table = dense_case
    near = tolerance(torch.float64, terms=54, factor=32)

    torch.testing.assert_close(_twin(feats, weight, table), expected, **near)
    torch.testing.assert_close(_twin(feats, weight.flip(0), table, mirrored=True), expected, **near)


def test_twin_of_gemm_layout(dense_case):
    *_, table = dense_case
    for splits in (1, 3):
        assert all(torch.equal(part, table) for part in reference.gemm_layout(table, splits, 16))


def _places(device, table, splits: int, tile: int) -> torch.Tensor:
    """The table that a layout stands for: rows are numbers, offsets are channels."""
    k = len(table)
    n_in = int(table.max()) + 1
    feats = torch.arange(1, n_in + 1, dtype=torch.float32)[:, None]
    found = _run(device, feats, torch.eye(k)[:, None], table, splits=splits, tile=tile)
    return found.T.int() - 1


@pytest.mark.parametrize("splits", [0, 1, 3, 4])
@pytest.mark.parametrize(("k", "n_out"), [(12, 60), (3, 129)])
def test_gemm_layout_matches_twin(device, rng, k, n_out, splits):
    table = _table(rng, k, 77, n_out)
    if splits <= k:
        assert torch.equal(_places(device, table, splits, 32), table)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("c_in", "c_out"), [(1, 1), (3, 7), (4, 32), (7, 3), (16, 33), (33, 16), (64, 12), (48, 64), (96, 17)]
)
def test_implicit_gemm_matches_twin(device, rng, c_in, c_out, dtype):
    table = _table(rng, 6, 61, 70)
    _check(device, *_operands(rng, dtype, table, 61, c_in, c_out), table, tile=64, tile_in=64)


@pytest.mark.parametrize("n_out", [0, 1, 15, 16, 17, 127, 128, 129])
def test_implicit_gemm_of_any_rows(device, rng, n_out):
    table = _table(rng, 5, 30, n_out)
    _check(device, *_operands(rng, torch.float32, table, 30, 16, 16), table, tile=16)
    _check(device, *_operands(rng, torch.float32, table, 30, 16, 16), table, tile=64)


@pytest.mark.parametrize(
    ("k", "splits"), [(0, 1), (1, 0), (1, 1), (2, 2), (8, 0), (8, 3), (27, 4), (70, 1), (125, 3)]
)
def test_implicit_gemm_of_any_offsets(device, rng, k, splits):
    table = _table(rng, k, 40, 20)
    _check(device, *_operands(rng, torch.float32, table, 40, 4, 8), table, splits=splits, tile_in=64)


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_implicit_gemm_of_sparse_and_dense_tables(device, rng, share):
    table = _table(rng, 8, 40, 70, share)
    _check(device, *_operands(rng, torch.float32, table, 40, 16, 16), table)
    _check(device, *_operands(rng, torch.float32, table, 40, 16, 16), table, parts=3)


@pytest.mark.parametrize(("c_in", "tile_in"), [(5, 64), (64, 16), (40, 64), (64, 64)])
@pytest.mark.parametrize("parts", [2, 5])
def test_implicit_gemm_in_parts(device, rng, c_in, tile_in, parts):
    table = _table(rng, 6, 40, 40)
    operands = _operands(rng, torch.float32, table, 40, c_in, 24)
    _check(device, *operands, table, tile_in=tile_in, parts=parts, splits=2, tile=64, tile_out=32)


@pytest.mark.parametrize("n_in", [0, 1])
def test_implicit_gemm_of_hardly_any_input_row(device, rng, n_in):
    table = _table(rng, 3, n_in, 20)
    _check(device, *_operands(rng, torch.float32, table, n_in, 4, 5), table)


def test_implicit_gemm_takes_strided_operands(device, rng):
    table = _table(rng, 3, 40, 30)
    feats, weight = _operands(rng, torch.float32, table, 40, 24, 20)
    wide, _ = _operands(rng, torch.float32, table, 40, 48, 20)
    _check(device, wide[:, ::2], weight, table)
    _check(device, wide[:, 7:31], weight, table)
    _check(device, feats[:, :12], weight[:, :12], table)
    _check(device, feats[:, :20], weight.transpose(1, 2)[:, :, :16], table)
    _check(device, feats[:, :12], weight.flip(0)[:, ::2, ::2], table)
    _check(device, feats, weight, table, mirrored=True)
    _check(device, feats[:, :20], weight.transpose(1, 2), table, mirrored=True)


def test_implicit_gemm_does_not_let_an_unread_row_in(device, rng):
    table = _table(rng, 6, 30, 40)
    feats, weight = _operands(rng, torch.float32, table, 50, 4, 8)
    feats[30:] = float("inf")

    assert _run(device, feats, weight, table).isfinite().all()


EPILOGUES = ["bias", "residual", "relu", "passing", "scaled", "everything"]


def _epilogue(rng, name: str, n_out: int, c_out: int, dtype) -> dict:
    def draw(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    every = name == "everything"
    found = {"relu": every or name == "relu"}
    if every or name == "bias":
        found["bias"] = draw(c_out).to(dtype)
    if every or name == "residual":
        found["residual"] = draw(n_out, c_out).to(dtype)
    if every or name in ("passing", "scaled"):
        found |= {"mask": torch.arange(n_out) % 3 == 1, "through": draw(n_out, c_out).to(dtype)}
    if every or name == "scaled":
        found |= {"scale": draw(c_out).float(), "shift": draw(c_out).float()}
    return found


@pytest.mark.parametrize("name", EPILOGUES)
def test_twin_of_implicit_gemm_ends_as_that_of_output_stationary(rng, name):
    table = _table(rng, 5, 20, 30)
    feats, weight = _operands(rng, torch.float64, table, 20, 3, 4)
    extra = _epilogue(rng, name, 30, 4, torch.float64)
    offsets, rows_out = torch.nonzero(table >= 0, as_tuple=True)
    starts = torch.bincount(offsets, minlength=5).cumsum(0)
    lists = table[offsets, rows_out], rows_out.int(), torch.cat([starts.new_zeros(1), starts])
    expected = reference.output_stationary(feats, weight, *lists, 30, 1, **extra)

    torch.testing.assert_close(_twin(feats, weight, table, **extra), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EPILOGUES)
def test_implicit_gemm_ends_with(device, rng, name, dtype):
    table = _table(rng, 3, 40, 45)
    feats, weight = _operands(rng, dtype, table, 40, 8, 20)
    extra = _epilogue(rng, name, 45, 20, dtype)
    _check(device, feats, weight, table, **extra)
    _check(device, feats, weight, table, splits=2, tile_out=32, **extra)


@pytest.mark.parametrize("parts", [1, 2])
def test_implicit_gemm_keeps_the_bits_of_rows_that_pass(device, rng, parts):
    table = _table(rng, 8, 40, 45)
    feats, weight = _operands(rng, torch.float16, table, 40, 8, 20)
    through = torch.randn(45, 20, generator=rng).half()
    through[3], through[5] = float("inf"), float("nan")
    mask = torch.arange(45) % 3 == 1
    out = _run(device, feats, weight, table, mask=mask, through=through, parts=parts)

    torch.testing.assert_close(out[~mask], through[~mask], rtol=0, atol=0, equal_nan=True)
    assert out[mask].isfinite().all()


def test_implicit_gemm_keeps_a_nan(device, rng):
    table = _table(rng, 3, 10, 20, 1.0)
    feats, weight = _operands(rng, torch.float32, table, 10, 4, 5)
    feats[4] = float("nan")
    reached = table.eq(4).any(dim=0)
    out = _run(device, feats, weight, table, relu=True)

    assert out[reached].isnan().all()
    assert out[~reached].isfinite().all()


@pytest.mark.parametrize("splits", [1, 2])
def test_implicit_gemm_ends_with_parts_of_any_stride(device, rng, splits):
    """Columns of a matrix, one number for all channels, every other row."""
    table = _table(rng, 3, 40, 45)
    feats, weight = _operands(rng, torch.float32, table, 40, 8, 20)
    extra = _epilogue(rng, "everything", 45, 20, torch.float32)
    columns, rows = torch.randn(20, 3, generator=rng), torch.randn(45, 80, generator=rng)
    extra |= {"bias": columns[:, 0], "scale": columns[:, 1], "shift": torch.full((1,), 0.5).expand(20)}
    extra |= {"mask": (torch.arange(90) % 5 < 2)[::2]}
    extra |= {"through": rows[:, ::4], "residual": rows[:, 1::4]}
    _check(device, feats, weight, table, splits=splits, **extra)


@pytest.mark.parametrize("c_in", [4, 8])
def test_implicit_gemm_of_rows_off_the_widest_load(device, rng, monkeypatch, c_in):
    """Several offsets lie side by side, and the kernel promises what rows are multiples of."""
    table = _table(rng, 8, 40, 45)
    feats, weight = _operands(rng, torch.float16, table, 41, c_in, 20)
    module = sys.modules.get("pcsparse.kernels.gpu.implicit_gemm")
    addresses = []
    if module is not None:
        start = module._MULTIPLY
        monkeypatch.setattr(
            module, "_MULTIPLY", lambda *given: (addresses.append(given[1][0].data_ptr()), start(*given))
        )
    expected = _twin(feats.reshape(-1)[1 : 1 + 40 * c_in].view(40, c_in), weight, table)
    feats = feats.reshape(-1).to(device)[1 : 1 + 40 * c_in].view(40, c_in)
    assert feats.data_ptr() % 16 == 2
    near = tolerance(feats.dtype, terms=8 * c_in, factor=16)
    torch.testing.assert_close(_run(device, feats, weight, table), expected, **near)
    assert all(address % 16 == 0 for address in addresses)
