"""Fetch-on-demand: twins against the dense oracle, backends against twins."""

import ctypes
import mmap

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.fetch_form import MOST_SHARED, fetch_form, fetch_forms
from pcsparse.kernels.select import backend_of
from tests.kernels import cuda_shim
from tests.kernels.test_implicit_gemm import DTYPES, EPILOGUES, _epilogue, _operands, _table
from tests.kernels.test_implicit_gemm import dense_case as dense_case
from tests.moving import moved
from tests.tolerance import tolerance


def _run(device, feats, weight, table, *, lanes=0, threads=0, mirrored=False, **extra):
    extra = {name: moved(part, device) if torch.is_tensor(part) else part for name, part in extra.items()}
    feats, weight, table = (moved(part, device) for part in (feats, weight, table))
    backend = backend_of(feats, weight)
    layout = backend.fetch_layout(table)
    return backend.fetch_on_demand(
        feats, weight, layout, table.shape[1], lanes, threads, mirrored, **extra
    ).cpu()


def _twin(feats, weight, table, *, mirrored=False, **extra):
    wide = {
        name: p.double() if torch.is_tensor(p) and p.dtype != torch.bool else p for name, p in extra.items()
    }
    layout = reference.fetch_layout(table)
    out = reference.fetch_on_demand(
        feats.double(), weight.double(), layout, table.shape[1], 0, 0, mirrored, **wide
    )
    return out.to(feats.dtype)


def _check(device, feats, weight, table, *, lanes=0, threads=0, **extra):
    expected = _twin(feats, weight, table, **extra)
    actual = _run(device, feats, weight, table, lanes=lanes, threads=threads, **extra)

    assert actual.dtype == feats.dtype
    terms = weight.shape[0] * weight.shape[1]
    torch.testing.assert_close(actual, expected, **tolerance(feats.dtype, terms=terms, factor=16))


def test_twin_of_fetch_on_demand(dense_case):
    feats, weight, expected, table = dense_case
    near = tolerance(torch.float64, terms=54, factor=32)

    torch.testing.assert_close(_twin(feats, weight, table), expected, **near)
    torch.testing.assert_close(_twin(feats, weight.flip(0), table, mirrored=True), expected, **near)


def test_twin_of_fetch_layout(dense_case):
    *_, table = dense_case
    [part] = reference.fetch_layout(table)
    assert torch.equal(part, table)


@pytest.mark.parametrize(("k", "n_out"), [(0, 5), (4, 0), (1, 1), (12, 60), (3, 32), (40, 33)])
def test_fetch_layout_matches_twin(device, rng, k, n_out):
    """Rows are numbers, offsets are channels: the sums are the table."""
    table = _table(rng, k, 77, n_out)
    if not k:
        assert _run(device, torch.ones(3, 1), torch.ones(0, 1, 1), table).eq(0).all()
        return
    feats = torch.arange(1, 78, dtype=torch.float32)[:, None]
    found = _run(device, feats, torch.eye(k)[:, None], table)
    assert torch.equal(found.T.int() - 1, table)


def test_rows_of_a_warp_have_about_as_many_pairs(gpu_or_emulated, rng):
    table = _table(rng, 27, 77, 150)
    _, heads = backend_of(table.to(gpu_or_emulated)).fetch_layout(table.to(gpu_or_emulated))
    rows, counts = heads[..., 0].cpu(), heads[..., 1].cpu() >> 16
    assert counts.diff(dim=1).max() <= 0
    # tiles keep their rows, whose neighbours lie near each other
    assert torch.equal(rows.sort(dim=1).values[:4].view(-1), torch.arange(128, dtype=torch.int32))
    assert rows[4, 22:].eq(-1).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("c_in", "c_out"), [(1, 1), (3, 7), (4, 32), (16, 16), (33, 5), (7, 40), (2, 65), (4, 0), (0, 4)]
)
def test_fetch_on_demand_matches_twin(device, rng, c_in, c_out, dtype):
    table = _table(rng, 6, 61, 70)
    operands = _operands(rng, dtype, table, 61, c_in, c_out)
    for form in fetch_forms(6, c_in, c_out, dtype.itemsize):
        _check(device, *operands, table, lanes=form.lanes)


@pytest.mark.parametrize("n_out", [0, 1, 31, 32, 33, 600])
def test_fetch_on_demand_of_any_rows(device, rng, n_out):
    # more rows than threads of all blocks where a device is emulated
    table = _table(rng, 5, 30, n_out)
    _check(device, *_operands(rng, torch.float32, table, 30, 2, 4), table, threads=128)


def test_threads_and_the_place_of_a_row_change_no_bits(device, rng):
    table = _table(rng, 8, 40, 90)
    operands = _operands(rng, torch.float16, table, 40, 16, 16)
    first = _run(device, *operands, table)

    assert torch.equal(_run(device, *operands, table, threads=128), first)
    order = torch.randperm(90, generator=rng)
    assert torch.equal(_run(device, *operands, table[:, order].contiguous()), first[order])


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_fetch_on_demand_of_sparse_and_dense_tables(device, rng, share):
    table = _table(rng, 27, 40, 70, share)
    _check(device, *_operands(rng, torch.float16, table, 40, 16, 16), table)


@pytest.mark.parametrize("n_in", [0, 1])
def test_fetch_on_demand_of_hardly_any_input_row(device, rng, n_in):
    table = _table(rng, 3, n_in, 20)
    _check(device, *_operands(rng, torch.float32, table, n_in, 4, 5), table)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_fetch_on_demand_takes_strided_operands(device, rng, dtype):
    table = _table(rng, 3, 40, 30)
    feats, weight = _operands(rng, dtype, table, 40, 16, 24)
    wide, _ = _operands(rng, dtype, table, 40, 48, 24)
    _check(device, wide[:, ::3], weight, table)
    _check(device, feats[:, :6], weight[:, :6], table)
    _check(device, wide[:, :24], weight.transpose(1, 2), table)
    _check(device, feats[:, :8], weight.flip(0)[:, ::2, ::3], table)
    _check(device, feats, weight, table, mirrored=True)
    _check(device, wide[:, :24], weight.transpose(1, 2), table, mirrored=True)
    # rows of weights off the widest load, by their length and by where they begin
    _, long = _operands(rng, dtype, table, 40, 16, 32)
    _check(device, feats, long.reshape(3, 16, 32)[:, :, 1:17], table)
    _check(device, feats, long.flatten(1)[:, :464].view(3, 16, 29)[:, :, :16], table)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", EPILOGUES)
def test_fetch_on_demand_ends_with(device, rng, name, dtype):
    table = _table(rng, 3, 40, 45)
    # whole runs of channels, and a part of one
    for c_out in (16, 21):
        feats, weight = _operands(rng, dtype, table, 40, 8, c_out)
        _check(device, feats, weight, table, **_epilogue(rng, name, 45, c_out, dtype))


def test_fetch_on_demand_ends_with_parts_of_any_stride(device, rng):
    """Columns of a matrix, one number for all channels, rows that begin off the widest load."""
    table = _table(rng, 3, 40, 45)
    feats, weight = _operands(rng, torch.float16, table, 41, 8, 16)
    feats = feats.view(-1)[1:321].view(40, 8)
    extra = _epilogue(rng, "everything", 45, 16, torch.float16)
    rows = torch.randn(2, 45 * 16 + 1, generator=rng).half()
    extra |= {"bias": torch.randn(16, 3, generator=rng).half()[:, 0]}
    extra |= {"shift": torch.full((1,), 0.5).expand(16), "mask": (torch.arange(90) % 5 < 2)[::2]}
    extra |= {"through": rows[0, 1:].view(45, 16), "residual": rows[1, 1:].view(45, 16)}
    _check(device, feats, weight, table, **extra)


def test_fetch_on_demand_keeps_the_bits_of_rows_that_pass(device, rng):
    table = _table(rng, 8, 40, 45)
    feats, weight = _operands(rng, torch.bfloat16, table, 40, 8, 20)
    through = torch.randn(45, 20, generator=rng).bfloat16()
    through[3], through[5] = float("inf"), float("nan")
    mask = torch.arange(45) % 3 == 1
    out = _run(device, feats, weight, table, mask=mask, through=through)

    torch.testing.assert_close(out[~mask], through[~mask], rtol=0, atol=0, equal_nan=True)
    assert out[mask].isfinite().all()


def test_what_no_pair_reads_reaches_no_row(device, rng):
    table = _table(rng, 6, 30, 40)
    feats, weight = _operands(rng, torch.float32, table, 50, 3, 5)
    feats[30:], table[2] = float("inf"), -1
    weight[2] = float("nan")
    assert _run(device, feats, weight, table).isfinite().all()

    feats[4] = float("nan")
    reached = table.eq(4).any(dim=0)
    out = _run(device, feats, weight, table, relu=True)
    assert out[reached].isnan().all()
    assert out[~reached].isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_nan_of_any_bits_stays_one(device, rng, dtype):
    """A GPU's own has all bits set, which must not be rounded up."""
    table = _table(rng, 2, 10, 20)
    feats, weight = _operands(rng, dtype, table, 10, 4, 8)
    nan = torch.full((8,), (1 << 31) - 1, dtype=torch.int32).view(torch.float32)
    out = _run(
        device,
        feats,
        weight,
        table,
        mask=torch.arange(20) > 5,
        through=torch.ones(20, 8).to(dtype),
        scale=nan,
    )
    assert out[:6].isnan().all()
    assert out[6:].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_number_of_16_bits_is_read_and_written(device, dtype):
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype).view(-1, 8)
    table = torch.arange(len(numbers), dtype=torch.int32)[None]
    # a NaN is one, whatever its bits; and a product of zeros with it
    finite = numbers[numbers.isfinite().all(dim=1)]
    out = _run(device, finite, torch.eye(8, dtype=dtype)[None], table[:, : len(finite)].contiguous())
    assert torch.equal(out, finite)
    # halfway between two numbers, beside it, and beyond the largest
    halves = torch.eye(8, dtype=dtype)[None] / 2
    _check_exactly(device, finite, halves, table[:, : len(finite)].contiguous())
    _check_exactly(device, finite[-64:], 2 * torch.eye(8, dtype=dtype)[None], table[:, :64].contiguous())


def _check_exactly(device, feats, weight, table):
    expected = (feats.float() @ weight[0].float()).to(feats.dtype)
    assert torch.equal(_run(device, feats, weight, table), expected)


def test_ways_to_share_a_row():
    assert fetch_form(27, 16, 16, 2) == fetch_forms(27, 16, 16, 2)[0]
    best = fetch_form(27, 16, 16, 2)
    # nothing is read that is no weight, and no weight twice
    assert (best.lanes, best.outs, best.steps, best.bytes_a_pair) == (2, 1, 2, 16 * 16 * 2)
    assert best.shared == 27 * best.bytes_a_pair
    assert fetch_form(27, 4, 32, 2).bytes_a_pair == 4 * 32 * 2
    assert fetch_form(27, 16, 16, 4).bytes_a_pair == 16 * 16 * 4
    assert 1 not in {form.lanes for form in fetch_forms(27, 16, 16, 4)}
    # three blocks without idle threads read less than one
    assert (fetch_form(27, 16, 20, 2).outs, fetch_form(27, 16, 20, 2).bytes_a_pair) == (3, 768)
    # a block of output channels where all of them do not fit
    wide = fetch_form(27, 16, 32, 4)
    assert (wide.outs, wide.width) == (2, 16)
    assert wide.shared <= MOST_SHARED < 27 * 16 * 32 * 4
    assert fetch_forms(343, 4, 4, 2) == ()


def _sparse_memory(size: int) -> ctypes.Array:
    """Zeros that take no memory until they are written."""
    place = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return (ctypes.c_char * size).from_buffer(place)


def test_a_row_beyond_2_31_elements_is_found(device, rng, monkeypatch):
    if device.type != "cpu" or "gpu" not in backend_of(torch.zeros(1, device=device)).__name__:
        pytest.skip("4 GiB of features that are not there can be read on a host only, by the GPU's kernel")
    c, far = 4, (1 << 29) + 5
    memory = _sparse_memory((far + 1) * c * 2)
    feats = torch.frombuffer(memory, dtype=torch.float16).view(-1, c)
    feats[far], feats[5] = 3.0, 100.0
    place = feats.data_ptr()
    table = torch.tensor([[far, -1, 5]], dtype=torch.int32)
    from pcsparse.kernels.gpu import cuda_text

    # by its address: the shim copies tensors whole
    monkeypatch.setattr(
        cuda_text,
        "launch",
        lambda *given, shared=0: cuda_shim.launch(
            *[place if torch.is_tensor(a) and a.data_ptr() == place else a for a in given], shared=shared
        ),
    )
    out = _run(device, feats, torch.eye(c, dtype=torch.float16)[None], table)
    assert out[:, 0].tolist() == [3.0, 0.0, 100.0]
