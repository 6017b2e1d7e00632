"""Closed forms: against counted pads, and against the published table."""

import pytest
import torch

from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.hardware.eie_layers import EIE_LAYERS
from pcsparse.hardware.eie_theory import (
    expected_column,
    expected_pads,
    ideal_cycles,
    microseconds,
    padded_cycles,
    slice_floor_cycles,
)
from pcsparse.packed.eie import EIEFormat, pack_eie
from tests.hardware.packed_layers import BOOK

# ideal and padded time of each layer, microseconds, worked out by hand from the published sizes and densities
TABLE = {
    "Alex-6": (23.29, 27.79), "Alex-7": (10.41, 12.42), "Alex-8": (7.50, 7.50), "VGG-6": (14.69, 22.93),
    "VGG-7": (4.92, 7.67), "VGG-8": (7.56, 7.56), "NT-We": (4.80, 4.80), "NT-Wd": (11.33, 13.13),
    "NT-LSTM": (5.63, 6.26),
}  # fmt: skip


@pytest.mark.parametrize("layer", EIE_LAYERS, ids=lambda layer: layer.name)
def test_the_published_layers(layer):
    ideal, padded = TABLE[layer.name]
    assert microseconds(ideal_cycles(layer, 64), EIEChip()) == pytest.approx(ideal, abs=0.01)
    # the table takes the longest slice for all
    assert microseconds(padded_cycles(layer, EIEFormat()), EIEChip()) == pytest.approx(padded, abs=0.02)


def test_pads_of_a_short_slice_by_hand():
    # row 16 alone can have 16 zeros above it
    assert expected_pads(16, 0.1) == 0.0
    assert expected_pads(17, 0.1) == pytest.approx(0.1 * 0.9**16)
    # 3 skipped at most: rows 4 and 5 can have a run of four
    assert expected_pads(6, 0.5, longest_skip=3) == pytest.approx(2 * 0.5 * 0.5**4)
    assert expected_pads(0, 0.1) == 0.0


@pytest.mark.parametrize(("rows", "density"), [(64, 0.04), (138, 0.11), (40, 0.02)])
def test_pads_are_those_that_packing_makes(rows, density):
    rng = torch.Generator().manual_seed(rows)
    codes = (torch.rand(rows, 40_000, generator=rng) < density).to(torch.uint8)
    matrix = pack_eie(codes, BOOK, EIEFormat(n_pe=1, pointer_bits=24))
    assert matrix.n_pads / 40_000 == pytest.approx(expected_pads(rows, density), rel=0.02)


def test_more_pes_need_no_more_pads():
    layer = EIE_LAYERS[4]
    columns = [expected_column(layer, EIEFormat(n_pe=1 << i)) for i in range(11)]
    assert columns == sorted(columns, reverse=True)
    assert columns[0] > 1.9 * columns[-1]


def test_empty_slices_cost_the_floor_of_a_cycle():
    layer = next(layer for layer in EIE_LAYERS if layer.name == "NT-We")
    # slices of ten rows at 10 %: one entry on average, and 35 % are empty
    assert slice_floor_cycles(layer, EIEFormat()) == pytest.approx(4096 * (1 + 0.9**10))
