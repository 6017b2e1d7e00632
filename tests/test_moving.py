"""Operands reach another device with the strides that a test gave them."""

import pytest
import torch

from tests.moving import moved

VIEWS = {
    "whole": lambda rows: rows,
    "columns": lambda rows: rows[:, 3:9],
    "every-other": lambda rows: rows[::2, 1::2],
    "transposed": lambda rows: rows.T[2:5],
    "one-for-all": lambda rows: rows[:1, :1].expand(4, 5),
    "none": lambda rows: rows[:0],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_view_keeps_strides_and_values(view, device):
    part = view(torch.arange(120).view(10, 12))
    for place in (device, "meta"):
        found = moved(part, place)
        assert (found.shape, found.stride()) == (part.shape, part.stride())
        assert found.storage_offset() == part.storage_offset()
    assert torch.equal(moved(part, device).cpu(), part)


def test_torch_itself_leaves_gaps_out():
    wide = torch.zeros(10, 12)
    assert wide[:, ::2].to("meta").is_contiguous()
    assert not moved(wide[:, ::2], "meta").is_contiguous()
