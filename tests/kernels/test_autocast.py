"""Kernels that multiply give under autocast the bits that they give without."""

from collections.abc import Callable

import pytest
import torch

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.kernels.random_maps import N_IN, N_OUT, pairs

COUNTS = [0, 40, 130, 1]
C_IN, C_OUT = 16, 32


@pytest.fixture
def operands(device, rng):
    """Numbers with more bits than a bfloat16 holds: features, gradients, weights, pair lists and a table."""
    feats, grad = torch.randn(N_IN, C_IN, generator=rng), torch.randn(N_OUT, C_OUT, generator=rng)
    weight = torch.randn(len(COUNTS), C_IN, C_OUT, generator=rng)
    rows_in, rows_out, starts = pairs(COUNTS, rng)
    table = torch.full((len(COUNTS), N_OUT), -1, dtype=torch.int32)
    offsets = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    table[offsets, rows_out.long()] = rows_in
    feats, grad, weight, rows_in, rows_out, starts, table = (
        part.to(device) for part in (feats, grad, weight, rows_in, rows_out, starts, table)
    )
    return feats, grad, weight, (rows_in, rows_out, starts), table


def _gather_gemm(backend, feats, grad, weight, lists, table):
    rows_in, _, starts = lists
    layout = backend.gather_layout(
        rows_in, torch.arange(len(rows_in), device=feats.device), N_IN, len(rows_in)
    )
    runs = [((offset,), int(rows)) for offset, rows in enumerate(starts.diff())]
    return backend.gather_gemm(feats, weight, runs, layout)


def _implicit_gemm(backend, feats, grad, weight, lists, table):
    layout = backend.gemm_layout(table, 1, 32)
    return backend.implicit_gemm(feats, weight, layout, N_OUT, 16, 16, 4, 4, 1, "ieee")


def _fetch_on_demand(backend, feats, grad, weight, lists, table):
    return backend.fetch_on_demand(feats, weight, backend.fetch_layout(table), N_OUT)


KERNELS: dict[str, Callable[..., torch.Tensor]] = {
    "wide_matmul": lambda backend, feats, grad, weight, lists, table: backend.wide_matmul(feats, weight[0]),
    "gather_gemm": _gather_gemm,
    "output_stationary": lambda backend, feats, grad, weight, lists, table: backend.output_stationary(
        feats, weight, *lists, N_OUT, 64
    ),
    "output_stationary_grad_weight": lambda backend, feats, grad, weight, lists, table: (
        backend.output_stationary_grad_weight(feats, grad, *lists, 64)
    ),
    "implicit_gemm": _implicit_gemm,
    "implicit_gemm_grad_weight": lambda backend, feats, grad, weight, lists, table: (
        backend.implicit_gemm_grad_weight(feats, grad, table, backend.grad_weight_layout(table))
    ),
    "fetch_on_demand": _fetch_on_demand,
}


@pytest.mark.parametrize("of", ["backend", "twin"])
@pytest.mark.parametrize("run", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_narrows_no_product_of_a_kernel(device, operands, run, of, dtype):
    feats, grad, weight, lists, table = operands
    parts = feats.to(dtype), grad.to(dtype), weight.to(dtype), lists, table
    backend = backend_of(feats) if of == "backend" else reference
    expected = run(backend, *parts)
    with torch.autocast(device.type, torch.bfloat16):
        actual = run(backend, *parts)

    assert actual.dtype == expected.dtype
    assert torch.equal(actual, expected)
