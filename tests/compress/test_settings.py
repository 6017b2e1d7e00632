"""Budgets that cannot be mistaken, and settings that refuse what has no meaning."""

import pytest

from pcsparse.compress.pruning_channels import ChannelPruning
from pcsparse.compress.pruning_offsets import OffsetPruning
from pcsparse.compress.pruning_voxels import VoxelPruning
from pcsparse.compress.settings import (
    BudgetSettings,
    CostSettings,
    EvaluationSettings,
    MeasureSettings,
    ScanSettings,
)
from pcsparse.errors import RangeError


@pytest.mark.parametrize(
    ("given", "unit", "amount"),
    [
        ({"share": 0.25}, "ms", 50.0),
        ({"share": 0.25, "of": "macs"}, "MACs", 50.0),
        ({"share": 1.0, "of": "bytes"}, "bytes", 200.0),
        ({"ms": 12.5}, "ms", 12.5),
        ({"macs": 2e9}, "MACs", 2e9),
        ({"bytes": 3.0}, "bytes", 3.0),
    ],
)
def test_a_budget_says_its_unit_and_how_much(given, unit, amount):
    budget = BudgetSettings(**given)
    budget.check()
    assert (budget.unit, budget.within(200.0)) == (unit, amount)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "got none of them"),
        ({"share": 0.5, "ms": 3.0}, r"got \{'share': 0.5, 'ms': 3.0\}"),
        ({"share": 50.0}, "at most 1, got 50"),
        ({"share": 0.0}, "above 0"),
        ({"ms": float("nan")}, "above 0"),
        ({"macs": -1.0}, "budget.macs must be above 0"),
        ({"share": 0.5, "of": "seconds"}, "budget.of must be one of ms, macs, bytes"),
    ],
)
def test_a_budget_that_is_none_is_refused(given, said):
    with pytest.raises(RangeError, match=said):
        BudgetSettings(**given).check()


@pytest.mark.parametrize("ratios", [(1.0,), (0.5, -0.1), (float("nan"),), (None,), ("half",), (0.5, False)])
def test_ratios_outside_0_to_1_are_refused(ratios):
    for axis in (ChannelPruning, OffsetPruning, VoxelPruning):
        with pytest.raises(RangeError, match=r"compress.ratios must be in \[0, 1\)"):
            axis(ratios)


def test_settings_without_meaning_are_refused():
    for made in (
        lambda: ChannelPruning(()),
        lambda: OffsetPruning(()),
        lambda: ChannelPruning(multiple=0),
        lambda: CostSettings(runs=0),
        lambda: EvaluationSettings(split="validation"),
        lambda: EvaluationSettings(sweeps=0),
        lambda: ScanSettings(ratios=()),
        lambda: ScanSettings(stop_after=float("nan")),
        lambda: ScanSettings(stop_after=-0.1),
        lambda: MeasureSettings(split="all"),
        lambda: MeasureSettings(maps=0),
    ):
        with pytest.raises(RangeError):
            made()
