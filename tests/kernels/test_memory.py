"""Where kernels write."""

import pytest
import torch

from pcsparse.kernels.cpu.memory import aligned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_memory_begins_at_a_whole_vector(dtype):
    kept = []
    for count in (0, 1, 2, 3, 7, 63, 65, 4097, 1 << 20, (1 << 20) + 1, 1 << 22):
        made = aligned((count, 1), dtype)
        assert made.shape == (count, 1)
        assert made.dtype == dtype
        assert made.is_contiguous()
        assert made.data_ptr() % 64 == 0
        kept.append(made)


def test_an_allocator_that_aligns_less_is_not_taken(monkeypatch):
    room = torch.empty(1000)
    monkeypatch.setattr(torch, "empty", lambda size, **kind: room[1:5] if size else room)
    assert aligned((4,), torch.float32).data_ptr() % 64 == 0
