"""The chip as facts, and what does not fit into it."""

import pytest
import torch

from pcsparse.errors import RangeError
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.packed.eie import EIEFormat, pack_eie
from tests.hardware.packed_layers import BOOK


@pytest.mark.parametrize(
    ("n_pe", "levels", "nodes"), [(1, 0, 0), (4, 1, 1), (5, 2, 3), (64, 3, 21), (256, 4, 85)]
)
def test_the_tree_has_four_below_a_node(n_pe, levels, nodes):
    chip = EIEChip(n_pe=n_pe)
    assert (chip.lnzd_levels, chip.lnzd_nodes) == (levels, nodes)


def test_power_of_the_published_chip():
    # 9.157 mW a PE, 0.59 W in all
    assert EIEChip().milliwatt == pytest.approx(64 * 9.158 + 21 * 0.023, abs=0.1)
    assert round(EIEChip().milliwatt / 1000, 2) == 0.59


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_pe": 0}, {"n_pe": 5000}, {"fifo_depth": 0}, {"sram_width": 0}, {"registers": 0},
        {"act_sram_width": 8},
        {"pointer_banks": 3}, {"clock": 0.0}, {"clock": float("nan")}, {"clock": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_built_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(RangeError, match=rf"{name} must be .*got {value}"):
        EIEChip(**wrong)


def test_a_layer_that_is_too_large_is_told():
    chip = EIEChip(n_pe=1)
    fits = pack_eie(torch.ones(3, 1023, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1))
    assert chip.misfits(fits) == ()
    wide = pack_eie(torch.zeros(1, 17000, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1))
    assert chip.misfits(wide) == (
        "pointers of a PE take 33.2 KB of 32",
        "activations of a PE take 33.2 KB of 2",
    )
    long = pack_eie(torch.ones(300, 500, dtype=torch.uint8), BOOK, EIEFormat(n_pe=1))
    assert chip.misfits(long) == ("entries of a PE take 146.5 KB of 128",)
