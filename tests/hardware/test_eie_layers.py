"""The random stand-ins of the benchmark layers."""

import pytest
import torch

from pcsparse.hardware.eie_layers import (
    EIE_LAYERS,
    draw_activations,
    draw_codes,
    exact_product,
    stand_in_codebook,
)

# across the rows that are drawn at once
SMALL = next(layer for layer in EIE_LAYERS if layer.name == "NT-LSTM").scaled(0.25)


def test_nine_layers_and_their_geometric_means():
    assert [layer.name for layer in EIE_LAYERS] == [
        "Alex-6", "Alex-7", "Alex-8", "VGG-6", "VGG-7", "VGG-8", "NT-We", "NT-Wd", "NT-LSTM",
    ]  # fmt: skip
    assert [layer.name for layer in EIE_LAYERS if layer.astray] == ["Alex-8", "VGG-6"]
    # AlexNet's three layers: 52.4 us
    assert sum(layer.actual_us for layer in EIE_LAYERS[:3]) == pytest.approx(52.4)


def test_weights_have_the_density_and_codes_of_all_values():
    codes = draw_codes(SMALL, 3)
    assert codes.shape == (2400, 300)
    assert codes.dtype == torch.uint8
    share = float((codes > 0).float().mean())
    assert share == pytest.approx(0.10, abs=0.002)
    assert codes.unique().tolist() == list(range(16))
    # independent positions: neighbours are both there in a hundredth of all cases
    assert float(((codes[1:] > 0) & (codes[:-1] > 0)).float().mean()) == pytest.approx(0.01, abs=0.001)


def test_activations_have_exactly_the_published_share():
    layer = EIE_LAYERS[1]
    acts = draw_activations(layer, 3)
    assert int((acts != 0).sum()) == layer.n_active == round(4096 * 0.353)
    assert acts.min() == 0
    assert torch.equal(acts, acts.round())


def test_a_seed_is_a_layer():
    assert torch.equal(draw_codes(SMALL, 3), draw_codes(SMALL, 3))
    assert not torch.equal(draw_codes(SMALL, 3), draw_codes(SMALL, 4))
    assert not torch.equal(draw_activations(EIE_LAYERS[0], 3), draw_activations(EIE_LAYERS[0], 4))


def test_the_dense_product_in_parts():
    codes, acts = draw_codes(SMALL, 1), draw_activations(SMALL, 2)
    book = stand_in_codebook()
    assert (len(book), float(book[0]), int((book == 0).sum())) == (16, 0.0, 1)
    assert torch.equal(exact_product(codes, book, acts), book[codes.int()].double() @ acts.double())


def test_a_scaled_layer_has_scaled_times():
    layer = EIE_LAYERS[0].scaled(0.5)
    assert (layer.n_in, layer.n_out) == (4608, 4096)
    assert layer.theory_us == pytest.approx(14.05)
    assert layer.actual_us == pytest.approx(15.15)
