"""Each bound holds where it should and breaks where it should."""

from dataclasses import replace

import pytest

from pcsparse.hardware.eie_report import (
    Verdict,
    curve_verdicts,
    layer_verdicts,
    mean_efficiency,
    remarks,
    table_head,
    table_line,
    width_energies,
)
from tests.hardware.study_results import CURVES, IRREGULAR, LAYER, ONE_PASS, RESULT

OTHER = replace(RESULT, layer=replace(LAYER, name="Alex-6"), n_weights=9_000_000)


def failed(verdicts: list[Verdict]) -> list[str]:
    return [verdict.text for verdict in verdicts if not verdict.passed]


def test_bounds_that_hold():
    verdicts = layer_verdicts([RESULT]) + curve_verdicts([CURVES, IRREGULAR])
    assert failed(verdicts) == []
    assert len(verdicts) == 13
    assert str(verdicts[0]).startswith("pass  theoretical cycles within 3%")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"theory_us": 12.82, "actual_us": 13.5}, "closed form"),
        ({"row_batches": 3, "one_pass": replace(ONE_PASS, theory_us=13.6)}, "Alex-7 in one run"),
        ({"closed_us": 13.1, "theory_us": 13.1, "actual_us": 13.7}, "published"),
        ({"actual_us": 12.7}, "actual over theory"),
        ({"actual_us": 15.6}, "actual over theory"),
        ({"exact": False}, "but not Alex-7"),
        ({"seconds": 7.6}, "a million weights"),
    ],
)
def test_bounds_of_layers_that_break(change, text):
    (only,) = failed(layer_verdicts([replace(RESULT, **change), OTHER]))
    assert text in only


def test_a_layer_astray_is_not_held_against_the_published_time():
    far = {"closed_us": 14.0, "theory_us": 14.0, "actual_us": 15.0}
    assert failed(layer_verdicts([replace(RESULT, layer=replace(LAYER, astray="why"), **far)])) == []
    assert remarks([replace(RESULT, layer=replace(LAYER, astray="why"))]) == ["Alex-7: why"]


def test_a_layer_may_have_a_band_of_its_own():
    irregular = replace(RESULT, layer=replace(LAYER, ratio=(1.4, 1.7)))
    assert len(failed(layer_verdicts([irregular]))) == 1
    assert failed(layer_verdicts([replace(irregular, actual_us=12.41 * 1.5)])) == []


def change_of(values: tuple, at: int, value: float) -> tuple:
    return (*values[:at], value, *values[at + 1 :])


@pytest.mark.parametrize(
    ("name", "at", "value", "text"),
    [
        ("efficiency", 5, 0.9, "does not fall with the depth"),
        ("efficiency", 3, 0.92, "16 is"),
        ("efficiency", 2, 0.96, "4 is"),
        ("reads", 2, 900_000, "128 is"),
        ("cycles", 6, 1_500, "near-linear|at least 0.7 a PE"),
        ("real_work", 4, 0.5, "no padding"),
        ("balance", 7, 0.95, "load balance does not rise with PEs, but for Alex-7"),
    ],
)
def test_bounds_of_curves_that_break(name, at, value, text):
    changed = replace(CURVES, **{name: change_of(getattr(CURVES, name), at, value)})
    twin = replace(changed, name="NT-We", cycles=IRREGULAR.cycles)
    (only,) = failed(curve_verdicts([changed, twin]))
    assert any(part in only for part in text.split("|"))


def test_idle_at_depth_one_is_about_half():
    for first in (0.2, 0.7):
        changed = replace(CURVES, efficiency=change_of(CURVES.efficiency, 0, first))
        both = [changed, replace(changed, name="NT-We", cycles=IRREGULAR.cycles)]
        assert any("about half" in text for text in failed(curve_verdicts(both)))


def test_the_least_speed_up_must_be_the_irregular_layers():
    (only,) = failed(curve_verdicts([CURVES, replace(IRREGULAR, cycles=change_of(CURVES.cycles, 6, 1_000))]))
    assert "gains least" in only


def test_the_table_has_deviations_by_hand():
    line, (head, rule) = table_line(RESULT), table_head().splitlines()
    assert line.split() == [
        "Alex-7", "12.42", "12.41", "-0.1", "|", "11.7", "+6.1", "|", "12.90", "12.2", "+5.7", "|", "1.039",
        "1.04", "|", "4.50", "7.60",
    ]  # fmt: skip
    assert len(head) == len(rule) == len(line)


def test_remarks_tell_of_runs_of_rows_and_of_what_does_not_fit():
    said = remarks([replace(RESULT, row_batches=3, one_pass=ONE_PASS, misfits=("pointers take much",))])
    assert "so 3 runs" in said[0]
    assert "closed form 13.10, theory 13.10 (+0.0 %), actual 13.40 us, act/th 1.023" in said[0]
    assert said[1].startswith("Alex-7: pointers take much")


def test_empty_slices_are_told_where_they_count():
    (said,) = remarks([replace(RESULT, floor_us=18.6)])
    assert "are at work for 18.60 us" in said
    assert remarks([replace(RESULT, floor_us=15.0)]) == []


def test_sums_over_layers():
    assert width_energies([CURVES, IRREGULAR])[1] == pytest.approx(2 * 1.73 * 16.324)
    assert width_energies([CURVES], kept=True)[4] == pytest.approx(0.25 * 64.565)
    half = replace(CURVES, efficiency=tuple(value / 2 for value in CURVES.efficiency))
    assert mean_efficiency([CURVES, half])[0] == pytest.approx(0.375)
