"""The poison of `conftest.py` reaches fresh memory and leaves torch itself in order."""

import pytest
import torch
from torch import nn


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_fresh_floating_memory_is_nan(dtype):
    like = torch.zeros(2, dtype=dtype)
    for fresh in (
        torch.empty(3, dtype=dtype),
        torch.empty_like(like),
        like.new_empty(3),
        like.new_empty((3, 1)),
        nn.Parameter(like).new_empty(3, requires_grad=True),
    ):
        assert fresh.isnan().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_fresh_integer_memory_is_far_from_any_row(dtype):
    like = torch.zeros(2, dtype=dtype)
    for fresh in (torch.empty(3, dtype=dtype), torch.empty_like(like), like.new_empty(3)):
        assert (fresh > torch.iinfo(dtype).max // 2).all()


def test_layers_still_initialise_and_train():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimiser = torch.optim.AdamW(model.parameters())
    model(torch.randn(5, 3)).square().sum().backward()
    optimiser.step()

    assert all(p.isfinite().all() for p in model.parameters())


def test_compiled_and_exported_graphs_still_trace():
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            total = torch.empty(x.shape[0])
            total.copy_(x.sum(1))
            return total + x.new_empty(x.shape[0]).fill_(1)

    x = torch.randn(5, 3)
    compiled = torch.compile(Sums(), fullgraph=True, backend="aot_eager", dynamic=True)
    exported = torch.export.export(Sums(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).module()

    for rows in (5, 7):
        x = torch.randn(rows, 3)
        torch.testing.assert_close(compiled(x), x.sum(1) + 1)
        torch.testing.assert_close(exported(x), x.sum(1) + 1)


def test_a_device_context_still_places_fresh_memory():
    with torch.device("meta"):
        assert torch.empty(3).is_meta
