"""The network in other libraries."""

from dataclasses import replace

import pytest
import torch

from pcsparse.bench.limits import conv_work
from pcsparse.bench.map_library import plain_torch, twin
from pcsparse.bench.ours import Ours
from pcsparse.bench.unet import LibraryUNet, network_work
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from tests.bench.scenes import small_scene
from tests.tolerance import tolerance

SPEC = MinkUNetSpec.minkunet14(width=0.1)
LIBRARIES = {"plain": plain_torch(), "twin": twin(), "ours": Ours()}


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES.keys())
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_it_computes_the_same(rng, library, training):
    scene = small_scene(300)
    # weights by chance would miss the bound of some gradient by chance
    torch.manual_seed(6)
    model = MinkUNet(SPEC).double().train(training)
    other = LibraryUNet(SPEC, library).double().load(model.state_dict()).train(training)
    feats = scene.tensor.feats.double()

    expected = model(scene.fresh(feats)).feats
    actual = library.feats(other(library.tensor(library.geometry(scene.coords), feats)))

    torch.testing.assert_close(actual, expected, **tolerance(torch.float64, 10_000))
    grad_out = torch.randn(expected.shape, generator=rng).double()
    expected.backward(grad_out)
    actual.backward(grad_out)
    found = other.gradients()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.dim() == 3}
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **tolerance(torch.float64, 1_000_000))


def test_every_weight_of_the_model_must_find_its_place():
    state = MinkUNet(SPEC).state_dict() | {"attention.weight": torch.zeros(1)}
    with pytest.raises(UnsupportedError, match="attention"):
        LibraryUNet(SPEC, plain_torch()).load(state)


def test_dropped_offsets_are_refused():
    stem = (replace(SPEC.stem[0], offsets=(13,)), SPEC.stem[1])
    with pytest.raises(UnsupportedError, match="cannot drop kernel offsets"):
        LibraryUNet(replace(SPEC, stem=stem), plain_torch())


@pytest.mark.parametrize("training", [False, True])
def test_network_work_adds_up_its_convolutions(training):
    scene = small_scene(300)
    works = network_work(SPEC, scene.coords, training=training)

    shapes = {name: tuple(p.shape) for name, p in MinkUNet(SPEC).named_parameters() if p.dim() == 3}
    assert len(works) == len(shapes)
    same, down = scene.kernel_map(Relation.of(3)), scene.kernel_map(Relation.of(2, 2))
    n, m = same.n_out, down.n_out
    by_hand = {
        "stem.0.weight": conv_work(n, n, same.n_pairs, *shapes["stem.0.weight"], training),
        "down.0.0.weight": conv_work(n, m, n, *shapes["down.0.0.weight"], training),
        "up.3.0.weight": conv_work(m, n, n, *shapes["up.3.0.weight"], training),
        "decoder.3.0.shortcut.0.weight": conv_work(
            n, n, n, *shapes["decoder.3.0.shortcut.0.weight"], training
        ),
    }
    for name, work in by_hand.items():
        assert work in works, name


def test_bfloat16_network_work_may_use_the_dot_product():
    works = network_work(SPEC, small_scene(300).coords, training=False, dtype=torch.bfloat16)
    assert all(work.narrow for work in works)
