"""Kernels of a GPU where places come near 2^31, and beyond."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("triton")
import triton.language as tl

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.emulation import emulate, gpu_kernels
from tests.tolerance import tolerance


@pytest.mark.parametrize("c_in", [4, 20])
def test_long_places_are_those_of_short_ones(device, monkeypatch, rng, c_in):
    if device.type == "cpu":
        emulate(monkeypatch)
    backend = backend_of(torch.zeros(1, device=device))
    # the package has a function of the module's name
    module = sys.modules["pcsparse.kernels.gpu.implicit_gemm"]
    monkeypatch.setattr(module, "_SHORT", 0)
    module._form.cache_clear()
    table = torch.randint(-20, 30, (5, 40), generator=rng, dtype=torch.int32).clamp(min=-1)
    feats, weight = torch.randn(30, c_in, generator=rng), torch.randn(5, c_in, 8, generator=rng)
    sizes = 40, 16, 32, 4, 4, 1, "ieee"
    layout = backend.gemm_layout(table.to(device), 1, 16)
    actual = backend.implicit_gemm(feats.to(device), weight.to(device), layout, *sizes).cpu()
    module._form.cache_clear()

    expected = reference.implicit_gemm(feats.double(), weight.double(), [table], *sizes).float()
    torch.testing.assert_close(actual, expected, **tolerance(torch.float32, terms=5 * c_in, factor=64))


def _without_memory(*shape: int, dtype: torch.dtype = torch.int8) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    ("n_in", "stride", "c_in", "c_out", "k", "long"),
    [
        # rows of features: a place is at most n * c - 1
        ((1 << 27) - 1, 16, 16, 8, 27, False),
        (1 << 27, 16, 16, 8, 27, True),
        # rows that lie apart, as parts of wider ones do
        ((1 << 25) - 1, 64, 16, 8, 27, False),
        (1 << 25, 64, 16, 8, 27, True),
        # weights: 2^31 - 256 and 2^31 of them
        (64, 256, 256, 256, (1 << 15) - 1, False),
        (64, 256, 256, 256, (1 << 15) + 1, True),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_place_of_the_gemm_is_long_from_2_to_the_31(
    monkeypatch, n_in, stride, c_in, c_out, k, long, transposed
):
    gpu_kernels()
    module, given = sys.modules["pcsparse.kernels.gpu.implicit_gemm"], []
    monkeypatch.setattr(
        module, "_MULTIPLY", lambda grid, tensors, numbers, constants, *rest: given.append(constants)
    )
    feats = _without_memory(n_in, stride)[:, :c_in]
    weight = (
        _without_memory(k, c_out, c_in).transpose(1, 2) if transposed else _without_memory(k, c_in, c_out)
    )
    # of an empty layout nothing but its shape is read
    layout = [_without_memory(1, 64), _without_memory(1, 1, 27, 64), _without_memory(1, 1, 28)]
    module.implicit_gemm(feats, weight, layout, 40, 16, 32, 4, 4, 1, "ieee")

    [constants] = given
    names = [name for name, kind in module._multiply.fn.__annotations__.items() if kind is tl.constexpr]
    assert constants[names.index("LONG")] is long


def _untouched(device: torch.device, *shape: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Zeros, of whose gigabytes a CPU holds only the pages that are written to."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, dtype=str(dtype).removeprefix("torch.")))
    return torch.zeros(shape, dtype=dtype, device=device)


@pytest.mark.not_mocked("rows of gibibytes, which the mock touches")
@pytest.mark.parametrize("n", [1 << 27, (1 << 27) + 2], ids=["up to 2^31 - 1", "beyond"])
def test_the_last_rows_are_read_and_written(gpu_or_emulated, monkeypatch, rng, n):
    """Of `n` rows of 16 channels, in and out, each pass meets the first ones and the last ones."""
    device, c, fresh = gpu_or_emulated, 16, torch.Tensor.new_empty
    rows = torch.tensor([0, 1, n - 2, n - 1])
    feats, grad_out, out = (_untouched(device, n, c) for _ in range(3))
    some, some_grad = (torch.randn(4, c, generator=rng).half() for _ in range(2))
    weight = torch.randn(2, c, c, generator=rng).half()
    feats[rows.to(device)], grad_out[rows.to(device)] = some.to(device), some_grad.to(device)
    backend = backend_of(torch.zeros(1, device=device))

    # one tile: the rows of the output in reverse, each with its own input and with the next one
    places = torch.full((16,), -1, dtype=torch.int32)
    index = torch.full((2, 16), -1, dtype=torch.int32)
    places[:4], index[0, :4], index[1, :4] = rows.flip(0), rows.flip(0), rows.roll(-1).flip(0)
    layout = [places[None], index[None, None], torch.tensor([2, 0, 1], dtype=torch.int32)[None, None]]

    def new_empty(self, *shape, **options):
        return out if shape == ((n, c),) else fresh(self, *shape, **options)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    moved = [part.to(device) for part in layout]
    backend.implicit_gemm(feats, weight.to(device), moved, n, 16, 32, 4, 3, 1, "ieee")
    table = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]], dtype=torch.int32)
    expected = reference.implicit_gemm(some.double(), weight.double(), [table], 4, 16, 32, 4, 3, 1, "ieee")
    close = tolerance(torch.float16, terms=2 * c)
    torch.testing.assert_close(out[rows.to(device)].cpu(), expected.half(), **close)

    lists = [rows.repeat(2), torch.cat([rows, rows.roll(-1)]), torch.tensor([0, 4, 8])]
    moved = [part.int().to(device) for part in lists]
    sizes = torch.empty(2, n, dtype=torch.int32, device="meta")
    actual = backend.implicit_gemm_grad_weight(feats, grad_out, sizes, moved, partials=1).cpu()
    back = torch.tensor([[0, 1, 2, 3], [3, 0, 1, 2]], dtype=torch.int32)
    expected = reference.implicit_gemm_grad_weight(some.double(), some_grad.double(), back, [back])
    torch.testing.assert_close(actual, expected.half(), **tolerance(torch.float16, terms=4))


@pytest.mark.not_mocked("rows of gibibytes, which the mock touches")
def test_the_last_places_of_a_buffer_are_no_others(gpu_or_emulated, rng):
    """Rows of nine and two places, the last ones that 32 bits can number; the second row has no third one."""
    gpu_kernels()
    module, end = sys.modules["pcsparse.kernels.gpu.gather"], 2**31 - 1
    feats = torch.randn(2, 4, generator=rng).to(gpu_or_emulated)
    # what lies behind them leads to row 0
    places = _untouched(gpu_or_emulated, end + 16, dtype=torch.int32)
    places[end - 11 : end] = torch.arange(1, 12, dtype=torch.int32)
    starts = torch.tensor([end - 11, end - 2, end], dtype=torch.int32, device=gpu_or_emulated)
    out = torch.full((12, 4), 7.0, device=gpu_or_emulated)
    module._spread_all(feats, places, starts, out)

    assert torch.equal(out[1:10], feats[:1].expand(9, 4))
    assert torch.equal(out[10:], feats[1:].expand(2, 4))
    assert torch.equal(out[0], torch.full_like(out[0], 7.0))
