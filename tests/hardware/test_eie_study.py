"""The evaluation itself: small layers in the default suite, all nine in the slow one."""

from dataclasses import replace

import pytest
import torch

from pcsparse.hardware import eie_study
from pcsparse.hardware.eie import simulate
from pcsparse.hardware.eie_chip import EIEChip
from pcsparse.hardware.eie_layers import EIE_LAYERS, draw_activations, draw_codes, stand_in_codebook
from pcsparse.hardware.eie_report import curve_verdicts, layer_verdicts
from pcsparse.hardware.eie_study import DEPTHS, PES, WIDTHS, run_layers
from pcsparse.packed.eie import pack_eie

LAYERS = {layer.name: layer for layer in EIE_LAYERS}


def test_a_small_layer_is_run_and_swept():
    layer = LAYERS["VGG-7"].scaled(1 / 16)
    ((result, curves),) = run_layers([layer], EIEChip(), 0, curves=True)

    assert result.exact
    assert result.theory_us == pytest.approx(result.closed_us, rel=0.02)
    assert (result.row_batches, result.one_pass, result.misfits) == (1, None, ())
    assert result.closed_us < result.floor_us < result.actual_us
    assert curves.efficiency[DEPTHS.index(8)] == pytest.approx(1 / result.ratio)
    assert curves.balance[PES.index(64)] == pytest.approx(1 / result.ratio)
    assert curves.efficiency[0] < 0.5 < curves.efficiency[-1]
    assert curves.real_work[0] < 0.55 < 0.99 < curves.real_work[-1]
    assert curves.speedup[0] == 1.0
    assert 45 < curves.speedup[PES.index(64)] < 85
    assert all(kept < fresh for kept, fresh in zip(curves.reads_kept, curves.reads, strict=True))
    assert list(curves.reads) == sorted(curves.reads, reverse=True)
    assert len(curves.reads) == len(WIDTHS)


def test_rows_beyond_the_registers_are_told_beside_one_run():
    ((result, curves),) = run_layers([LAYERS["NT-Wd"].scaled(1 / 8)], EIEChip(), 0, curves=False)
    assert curves is None
    assert result.row_batches == 3
    assert result.theory_us == pytest.approx(result.closed_us, rel=0.02)
    assert result.exact
    assert result.one_pass.theory_us == pytest.approx(result.one_pass.closed_us, rel=0.02)
    # longer slices have more pads, and three runs wait three times
    assert result.one_pass.theory_us > result.theory_us
    assert result.one_pass.actual_us < result.actual_us


def test_a_wrong_product_is_told(monkeypatch):
    real = eie_study.exact_product
    monkeypatch.setattr(eie_study, "exact_product", lambda *given: real(*given) + 1)
    ((result, _),) = run_layers([LAYERS["NT-We"].scaled(1 / 16)], EIEChip(), 0, curves=False)
    assert not result.exact


def test_what_does_not_fit_is_told():
    layer = replace(LAYERS["VGG-6"], n_out=64)
    ((result, _),) = run_layers([layer], EIEChip(), 0, curves=False)
    assert result.misfits == ("pointers of a PE take 49.0 KB of 32",)


def test_a_seed_draws_other_weights():
    layer = LAYERS["NT-We"].scaled(1 / 16)
    times = [next(run_layers([layer], EIEChip(), seed, curves=False))[0].theory_us for seed in (0, 0, 1)]
    assert times[0] == times[1] != times[2]


@pytest.mark.parametrize("name", ["Alex-7", "NT-We", "NT-LSTM"])
def test_layers_of_full_size_hold_the_bounds(name):
    results = [result for result, _ in run_layers([LAYERS[name]], EIEChip(), 0, curves=False)]
    assert [verdict for verdict in layer_verdicts(results) if not verdict.passed] == []


def test_an_empty_slice_costs_what_lifts_ntwe_above_its_entries():
    layer = LAYERS["NT-We"]
    matrix = pack_eie(draw_codes(layer, 0), stand_in_codebook())
    acts = draw_activations(layer, 1)
    plain, ahead = simulate(matrix, acts), simulate(matrix, acts, EIEChip(look_ahead=True))
    # 0.9^9 and 0.9^10 of the slices
    assert float(plain.empty.double().mean()) / 4096 == pytest.approx(0.375, abs=0.01)
    # with the look-ahead most of them are hidden, and what is left is waiting for the slowest
    assert 1.4 < 1 / ahead.efficiency < 1 / plain.efficiency < 1.7


def test_a_million_weights_are_all_done():
    # the study's column says in how many seconds; a test that waits for a clock would fail on a busy machine
    layer = LAYERS["Alex-8"]
    codes = draw_codes(layer, 0)
    assert int(codes.count_nonzero()) > 1_000_000
    acts = draw_activations(layer, 1)
    run = simulate(pack_eie(codes, stand_in_codebook()), acts)
    # values are small integers, so that sums are exact
    expected = stand_in_codebook().double()[codes.long()] @ acts.double()
    assert torch.equal(run.out.double(), expected)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_all_nine_layers_hold_the_bounds(seed):
    results = [result for result, _ in run_layers(EIE_LAYERS, EIEChip(), seed, curves=False)]
    assert [verdict for verdict in layer_verdicts(results) if not verdict.passed] == []


@pytest.mark.slow
def test_the_sweeps_have_the_published_knees():
    layers = [replace(layer) for layer in EIE_LAYERS if layer.name != "VGG-6"]
    curves = [swept for _, swept in run_layers(layers, EIEChip(), 0, curves=True)]
    assert [verdict for verdict in curve_verdicts(curves) if not verdict.passed] == []
