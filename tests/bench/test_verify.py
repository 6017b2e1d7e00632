"""The checks that stand between a kernel and its time: each can fail."""

import math

import pytest
import torch

from pcsparse.bench.verify import check_close, check_equal, check_norm, check_scale

TERMS = 27 * 32


def test_rounding_to_float32_passes_and_bfloat16_does_not(rng):
    expected = torch.randn(50, 8, generator=rng, dtype=torch.float64)
    assert check_close("x", expected.float(), expected, TERMS).passed
    assert not check_close("x", expected.bfloat16().float(), expected, TERMS).passed


@pytest.mark.parametrize("wrong", [1e-3, math.nan, math.inf])
def test_one_wrong_entry_fails(rng, wrong):
    expected = torch.randn(50, 8, generator=rng, dtype=torch.float64)
    actual = expected.float()
    actual[17, 3] += wrong
    assert not check_close("x", actual, expected, TERMS).passed


@pytest.mark.parametrize(("factor", "error"), [(1.0, 0.0), (0.5, 0.5), (2.0, 1.0), (0.0, 1.0), (-1.0, 2.0)])
def test_a_factor_shows_in_full_however_long_the_rounding_is(rng, factor, error):
    expected = torch.randn(200, 50, generator=rng, dtype=torch.float64)
    # as long as the result itself, and across it
    noise = torch.randn(200, 50, generator=rng, dtype=torch.float64)
    noise -= (noise * expected).sum() / expected.square().sum() * expected
    found = check_scale("x", (factor * (expected + noise)).float(), expected, 0.1)
    assert found.error == pytest.approx(error, abs=1e-5)
    assert found.passed == (factor == 1.0)


def test_other_shapes_fail():
    one, two = torch.ones(3, 2), torch.ones(3, 1)
    assert not check_scale("x", one, two.double(), 9.0).passed
    assert not check_close("x", one, two.double(), TERMS).passed
    assert not check_norm("x", one, two.double(), 1.0).passed
    assert not check_equal("x", one.int(), two.int()).passed


def test_nothing_equals_nothing():
    assert check_close("x", torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.float64), TERMS).passed


def test_equal_counts_wrong_entries():
    check = check_equal("rows", torch.tensor([1, 2, 3]), torch.tensor([1, 3, 2]))
    assert (check.error, check.passed) == (2.0, False)
    assert check_equal("rows", torch.tensor([1, 2]), torch.tensor([1, 2])).passed


def test_norm_is_relative():
    expected = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert check_norm("x", torch.tensor([3.0, 4.5]), expected, 0.11).error == pytest.approx(0.1)
    assert not check_norm("x", torch.tensor([3.0, 4.5]), expected, 0.09).passed
