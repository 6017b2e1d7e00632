"""The oracle itself, against torch's dense convolutions where those say the same thing."""

import pytest
import torch
from torch.nn import functional

from tests import oracle
from tests.oracle import Box, Geometry
from tests.tolerance import tolerance

# (kernel, stride, dilation, padding) of torch, whose kernels run from 0; the oracle's odd ones are centred
CASES = {
    "k3": ((3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
    "k3-stride-2": ((3, 3, 3), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "k2-stride-2": ((2, 2, 2), (2, 2, 2), (1, 1, 1), (0, 0, 0)),
    "k4-stride-2-padding": ((4, 4, 4), (2, 2, 2), (1, 1, 1), (1, 1, 1)),
    "k3-dilation-2": ((3, 3, 3), (1, 1, 1), (2, 2, 2), (2, 2, 2)),
    "anisotropic": ((1, 3, 5), (1, 2, 3), (1, 2, 1), (0, 2, 2)),
}


def _geometry(kernel, stride, dilation, padding) -> Geometry:
    # torch: fine = stride * coarse + dilation * i - padding with i from 0
    centre = [d * ((k - 1) // 2 if k % 2 else 0) for k, d in zip(kernel, dilation, strict=True)]
    own = tuple(p - c for p, c in zip(padding, centre, strict=True))
    return Geometry(kernel, stride, dilation, own)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_dense_conv_is_torch_conv3d(rng, case):
    kernel, stride, dilation, padding = case
    grid = torch.randn(2, 9, 8, 11, 3, generator=rng, dtype=torch.float64)
    volume = kernel[0] * kernel[1] * kernel[2]
    weight = torch.randn(volume, 3, 4, generator=rng, dtype=torch.float64)
    dense = weight.view(*kernel, 3, 4).permute(4, 3, 0, 1, 2)

    expected = functional.conv3d(grid.permute(0, 4, 1, 2, 3), dense, None, stride, padding, dilation)
    box = Box((0, 0, 0), tuple(expected.shape[2:]))
    actual = oracle.dense_conv(grid, Box((0, 0, 0), (9, 8, 11)), weight, box, _geometry(*case))

    close = tolerance(torch.float64, terms=3 * volume, factor=32)
    torch.testing.assert_close(actual.permute(0, 4, 1, 2, 3), expected, **close)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_dense_conv_transposed_is_torch_conv_transpose3d(rng, case):
    kernel, stride, dilation, padding = case
    grid = torch.randn(2, 5, 4, 6, 3, generator=rng, dtype=torch.float64)
    volume = kernel[0] * kernel[1] * kernel[2]
    weight = torch.randn(volume, 3, 4, generator=rng, dtype=torch.float64)
    dense = weight.view(*kernel, 3, 4).permute(3, 4, 0, 1, 2)

    expected = functional.conv_transpose3d(
        grid.permute(0, 4, 1, 2, 3), dense, None, stride, padding, dilation=dilation
    )
    box = Box((0, 0, 0), tuple(expected.shape[2:]))
    actual = oracle.dense_conv_transposed(grid, Box((0, 0, 0), (5, 4, 6)), weight, box, _geometry(*case))

    close = tolerance(torch.float64, terms=3 * volume, factor=32)
    torch.testing.assert_close(actual.permute(0, 4, 1, 2, 3), expected, **close)


def test_the_order_of_offsets_is_c_order():
    assert Geometry((1, 3, 2)).offsets == [
        (0, -1, 0), (0, -1, 1), (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1),
    ]  # fmt: skip


def test_maps_and_levels_of_a_hand_made_case():
    fine = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 3], [1, 0, 0, 1]])
    geometry = Geometry((1, 1, 2), (1, 1, 2))
    coarse = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]])

    assert oracle.touched(fine, geometry) == set(map(tuple, coarse.tolist()))
    assert oracle.kernel_map(fine, coarse, geometry) == {(0, 0, 0), (1, 0, 1), (2, 1, 1), (3, 2, 1)}
    assert oracle.written(coarse[1:2], geometry) == {(0, 0, 0, 2), (0, 0, 0, 3)}


def test_the_oracle_refuses_a_grid_beyond_its_budget():
    with pytest.raises(ValueError, match="refuses a grid"):
        Box((0, 0, 0), (4096, 4096, 16)).zeros(1, 1, torch.zeros(1))
