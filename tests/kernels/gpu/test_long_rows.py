"""Implicit GEMM where the place of a row does not fit 32 bits."""

import sys

import pytest
import torch

pytest.importorskip("triton")

from pcsparse.kernels import reference
from pcsparse.kernels.select import backend_of
from tests.emulation import emulate
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
