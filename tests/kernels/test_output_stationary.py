"""The convolution kernels: twins against the dense oracle, backends against twins."""

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests import oracle
from tests.clouds import CLOUDS
from tests.kernels.random_maps import COUNTS, N_IN, N_OUT, pairs
from tests.moving import moved
from tests.oracle import Geometry
from tests.tolerance import tolerance

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
# vectors of 16 or 8 lanes, panels of 1 to 4 vectors, and remainders of both
CHANNELS = [(1, 1), (3, 7), (7, 3), (16, 33), (33, 32), (5, 64), (64, 65), (9, 96), (12, 256), (65, 16)]
# more panels than one, of one width and of two; channels that fill no register block of rows
WIDE = [(20, 112), (20, 176), (17, 144), (8, 112), (30, 128)]


def _lists(fine, coarse, geometry):
    """Pair lists from the oracle's map."""
    found = sorted((k, j, i) for i, j, k in oracle.kernel_map(fine, coarse, geometry))
    rows_in = torch.tensor([i for _, _, i in found], dtype=torch.int32)
    rows_out = torch.tensor([j for _, j, _ in found], dtype=torch.int32)
    counts = torch.bincount(
        torch.tensor([k for k, *_ in found], dtype=torch.int64), minlength=len(geometry.offsets)
    )
    return rows_in, rows_out, torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@pytest.fixture(params=CLOUDS.values(), ids=CLOUDS.keys())
def dense_case(request, rng):
    """A strided convolution of a cloud: everything in float64."""
    cloud, geometry = request.param, Geometry((3, 2, 3), (2, 1, 2), (1, 2, 1), (1, 0, 0))
    cells = sorted(oracle.touched(cloud.coords, geometry))
    coarse = torch.tensor(cells, dtype=torch.int32).view(-1, 4)
    feats = torch.randn(len(cloud.coords), 3, generator=rng, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(18, 3, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    out = oracle.sparse_conv(feats, cloud.coords, weight, coarse, geometry, batch=cloud.batch_size)
    return feats, weight, out, _lists(cloud.coords, coarse, geometry)


def test_twin_of_output_stationary(dense_case):
    feats, weight, expected, lists = dense_case
    actual = reference.output_stationary(feats, weight, *lists, len(expected), 64)

    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, terms=54, factor=32))


def test_twin_of_output_stationary_grad_weight(dense_case, rng):
    feats, weight, out, lists = dense_case
    grad_out = torch.randn(out.shape, generator=rng, dtype=torch.float64)
    (expected,) = torch.autograd.grad(out, weight, grad_out)
    actual = reference.output_stationary_grad_weight(feats.detach(), grad_out, *lists, 64)

    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, terms=len(out), factor=32))


def _close(dtype, terms):
    return tolerance(dtype, terms=terms, factor=16)


def _check_forward(device, feats, weight, lists, n_out, tile):
    dtype = feats.dtype
    expected = reference.output_stationary(feats.double(), weight.double(), *lists, n_out, tile).to(dtype)

    inputs = [moved(part, device) for part in (feats, weight, *lists)]
    actual = backend_of(*inputs).output_stationary(*inputs, n_out, tile)

    assert actual.dtype == dtype
    assert actual.is_contiguous()
    torch.testing.assert_close(actual.cpu(), expected, **_close(dtype, lists[2].numel() * feats.shape[1]))


def _operands(rng, dtype, c_in, c_out, counts, n_in=N_IN):
    feats = torch.randn(n_in, c_in, generator=rng, dtype=torch.float64).to(dtype)
    scale = (c_in * max(len(counts), 1)) ** -0.5
    weight = torch.randn(len(counts), c_in, c_out, generator=rng, dtype=torch.float64) * scale
    return feats, weight.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), CHANNELS)
def test_output_stationary_matches_twin(device, rng, c_in, c_out, dtype):
    counts = COUNTS["steps"]
    feats, weight = _operands(rng, dtype, c_in, c_out, counts)
    _check_forward(device, feats, weight, pairs(counts, rng), N_OUT, 64)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("tile", [1, 7, 129, 130, 4096])
def test_output_stationary_of_any_map_and_tile(device, rng, counts, tile):
    feats, weight = _operands(rng, torch.float32, 5, 6, counts)
    _check_forward(device, feats, weight, pairs(counts, rng), N_OUT, tile)


@pytest.mark.parametrize(("n_in", "n_out", "count"), [(0, 0, 0), (4, 0, 0), (0, 4, 0), (1, 1, 1)])
def test_output_stationary_of_hardly_any_row(device, rng, n_in, n_out, count):
    counts = [0, count, 0]
    feats, weight = _operands(rng, torch.float32, 4, 17, counts, n_in)
    _check_forward(device, feats, weight, pairs(counts, rng, n_in, n_out), n_out, 256)


def test_output_stationary_takes_strided_operands(device, rng):
    counts = COUNTS["steps"]
    lists = pairs(counts, rng)
    wide, weight = _operands(rng, torch.float32, 24, 20, counts)
    feats = wide[:, ::2]

    _check_forward(device, feats, weight[:, :12], lists, N_OUT, 64)
    _check_forward(device, feats, weight.transpose(1, 2)[:, :12], lists, N_OUT, 64)
    _check_forward(device, feats, weight.flip(0)[:, ::2], lists, N_OUT, 64)


def test_output_stationary_does_not_let_an_unread_row_in(device, rng):
    # padding rows or channels must not multiply what is not a neighbour: infinity times zero is NaN
    rows_in, rows_out, starts = pairs([40, 60], rng, 50, N_OUT)
    feats, weight = _operands(rng, torch.float32, 3, 5, [40, 60])
    feats[50:] = float("inf")
    inputs = [part.to(device) for part in (feats, weight, rows_in, rows_out, starts)]
    out = backend_of(*inputs).output_stationary(*inputs, N_OUT, 64)

    assert out.isfinite().all()


MASKS = {  # rows that are sums
    "some": torch.arange(N_OUT) % 3 == 1,
    "none": torch.zeros(N_OUT, dtype=torch.bool),
    "all": torch.ones(N_OUT, dtype=torch.bool),
    "first": torch.arange(N_OUT) < 70,
}
_EPILOGUES = ["plain", "bias", "residual", "relu", "scaled", "everything"]


def _passing(rng, name: str, mask, c_out: int, dtype) -> dict:
    def draw(*shape):
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    every = name == "everything"
    found = {"mask": mask, "through": draw(N_OUT, c_out).to(dtype), "relu": every or name == "relu"}
    if every or name == "bias":
        found["bias"] = draw(c_out).to(dtype)
    if every or name == "residual":
        found["residual"] = draw(N_OUT, c_out).to(dtype)
    if every or name == "scaled":
        found |= {"scale": draw(c_out).to(wide), "shift": draw(c_out).to(wide)}
    return found


@pytest.mark.parametrize("name", _EPILOGUES)
def test_twin_of_output_stationary_where_rows_pass(rng, name):
    counts, c_out, mask = COUNTS["holes"], 5, MASKS["some"]
    lists = pairs(counts, rng)
    feats, weight = _operands(rng, torch.float64, 4, c_out, counts)
    extra = _passing(rng, name, mask, c_out, torch.float64)
    actual = reference.output_stationary(feats, weight, *lists, N_OUT, 64, **extra)

    sums = reference.output_stationary(feats, weight, *lists, N_OUT, 64)
    for row in range(N_OUT):
        if mask[row]:
            expected = sums[row] + extra.get("bias", 0)
        else:
            expected = extra["through"][row] * extra.get("scale", 1) + extra.get("shift", 0)
        expected = expected + extra.get("residual", torch.zeros(N_OUT, c_out))[row]
        if extra["relu"]:
            expected = expected.clamp(min=0)
        torch.testing.assert_close(actual[row], expected, **tolerance(torch.float64, 8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", _EPILOGUES)
def test_output_stationary_where_rows_pass(device, rng, name, dtype):
    # 33 channels: two panels and a remainder; the last tile is a short one
    counts, c_out = COUNTS["steps"], 33
    lists = pairs(counts, rng)
    feats, weight = _operands(rng, dtype, 7, c_out, counts)
    for mask in MASKS.values():
        extra = _passing(rng, name, mask, c_out, dtype)
        wide = {key: part.double() if key not in ("mask", "relu") else part for key, part in extra.items()}
        expected = reference.output_stationary(feats.double(), weight.double(), *lists, N_OUT, 64, **wide)
        given = {key: part.to(device) if torch.is_tensor(part) else part for key, part in extra.items()}
        inputs = [part.to(device) for part in (feats, weight, *lists)]
        actual = backend_of(*inputs).output_stationary(*inputs, N_OUT, 64, **given)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual.cpu(), expected.to(dtype), **_close(dtype, 7 * len(counts)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_pass_keep_their_bits(device, rng, dtype):
    # they are no sum with zeros: infinity and NaN stay what they are, and do not reach their neighbours
    counts = [60, 100]
    through = torch.randn(N_OUT, 19, generator=rng).to(dtype)
    through[3], through[78] = float("inf"), float("nan")
    feats, weight = _operands(rng, dtype, 4, 19, counts)
    inputs = [part.to(device) for part in (feats, weight, *pairs(counts, rng))]
    mask = MASKS["some"]
    out = (
        backend_of(*inputs)
        .output_stationary(*inputs, N_OUT, 64, mask=mask.to(device), through=through.to(device))
        .cpu()
    )
    torch.testing.assert_close(out[~mask], through[~mask], rtol=0, atol=0, equal_nan=True)
    assert bool(out[mask].isfinite().all())


def _check_grad_weight(device, feats, grad_out, lists, chunk, panel=0):
    dtype = feats.dtype
    expected = reference.output_stationary_grad_weight(feats.double(), grad_out.double(), *lists, chunk)

    inputs = [moved(part, device) for part in (feats, grad_out, *lists)]
    actual = backend_of(*inputs).output_stationary_grad_weight(*inputs, chunk, panel)

    assert actual.dtype == dtype
    longest = int(lists[2].diff().max()) if lists[2].numel() > 1 else 1
    torch.testing.assert_close(actual.cpu(), expected.to(dtype), **_close(dtype, longest))


def _gradients(rng, dtype, c_in, c_out, counts, n_in=N_IN, n_out=N_OUT):
    scale = max([1, *counts]) ** -0.5
    feats = torch.randn(n_in, c_in, generator=rng, dtype=torch.float64) * scale
    grad_out = torch.randn(n_out, c_out, generator=rng, dtype=torch.float64)
    return feats.to(dtype), grad_out.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("c_in", "c_out"), CHANNELS)
def test_output_stationary_grad_weight_matches_twin(device, rng, c_in, c_out, dtype):
    counts = COUNTS["steps"]
    feats, grad_out = _gradients(rng, dtype, c_in, c_out, counts)
    _check_grad_weight(device, feats, grad_out, pairs(counts, rng), 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("panel", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(("c_in", "c_out"), WIDE)
def test_grad_weight_of_several_panels(device, rng, c_in, c_out, panel, dtype):
    counts = COUNTS["steps"]
    feats, grad_out = _gradients(rng, dtype, c_in, c_out, counts)
    _check_grad_weight(device, feats, grad_out, pairs(counts, rng), 64, panel)


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())
@pytest.mark.parametrize("chunk", [1, 7, 130, 100_000])
def test_grad_weight_of_any_map_and_chunk(device, rng, counts, chunk):
    feats, grad_out = _gradients(rng, torch.float32, 5, 6, counts)
    _check_grad_weight(device, feats, grad_out, pairs(counts, rng), chunk)


def test_grad_weight_of_more_pairs_than_stay_in_the_cache(device, rng):
    counts = [700, 256, 257, 0]
    feats, grad_out = _gradients(rng, torch.float32, 13, 40, counts, 900, 800)
    _check_grad_weight(device, feats, grad_out, pairs(counts, rng, 900, 800), 512)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [(2, 3), (33, 17), (0, 4)], ids=str)
def test_grad_weight_of_16_bits_may_be_wide(device, dtype, channels):
    # a sum that float16 cannot hold, nor bfloat16 its last digits
    n = 1728
    feats, grad_out = (torch.full((n, c), 8.0, dtype=dtype, device=device) for c in channels)
    feats[0], grad_out[0] = 1.0, 1.0
    rows, starts = torch.arange(n, dtype=torch.int32, device=device), torch.tensor([0, n], device=device)
    for kernels in (backend_of(feats), reference):
        actual = kernels.output_stationary_grad_weight(
            feats, grad_out, rows, rows, starts, 64, dtype=torch.float32
        )
        assert torch.equal(actual, torch.full((1, *channels), 64.0 * (n - 1) + 1, device=device))


def test_grad_weight_takes_strided_operands(device, rng):
    counts = COUNTS["steps"]
    feats, grad_out = _gradients(rng, torch.float32, 14, 22, counts)
    _check_grad_weight(device, feats[:, ::2], grad_out[:, 1::2], pairs(counts, rng), 8)


@pytest.mark.parametrize(("c_in", "c_out"), [(0, 4), (4, 0)])
def test_no_channels_on_one_side(device, rng, c_in, c_out):
    counts = COUNTS["holes"]
    lists = pairs(counts, rng)
    feats, weight = _operands(rng, torch.float32, max(c_in, 1), max(c_out, 1), counts)
    feats, weight = feats[:, :c_in], weight[:, :c_in, :c_out]
    _check_grad_weight(device, feats, torch.zeros(N_OUT, c_out), lists, 8)
