"""EIELinear: a drop-in for nn.Linear, its state, its choice of product."""

import pickle
import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pcsparse.compress.heads import keep_largest, share_weights
from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError, UnsupportedError
from pcsparse.nn import eie_linear as module
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.nn.prepare import meta_copy
from pcsparse.packed.eie import EIEFormat
from pcsparse.packed.eie_file import load_eie, save_eie
from pcsparse.timing import Timing
from tests.tolerance import tolerance


def pruned(rng, n_in=60, n_out=45, density=0.2) -> nn.Linear:
    linear = nn.Linear(n_in, n_out)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(n_out, n_in, generator=rng))
        linear.weight.mul_(keep_largest(linear.weight, density))
        linear.weight.copy_(share_weights(linear.weight.detach()).to_dense())
        linear.bias.copy_(torch.randn(n_out, generator=rng))
    return linear


def packed(linear: nn.Linear, **options) -> EIELinear:
    return EIELinear.from_matrix(share_weights(linear.weight.detach()).pack(), linear.bias, **options)


@pytest.mark.parametrize("mode", ["sparse", "dense", "auto"])
@pytest.mark.parametrize("shape", [(60,), (1, 60), (3, 60), (2, 5, 60), (0, 60)])
@torch.no_grad()
def test_it_computes_what_the_linear_layer_does(mode, shape, rng):
    linear = pruned(rng)
    x = torch.randn(shape, generator=rng).relu()
    found = packed(linear, mode=mode)(x)
    torch.testing.assert_close(found, linear(x), **tolerance(torch.float32, 60, 16))
    assert found.shape == (*shape[:-1], 45)


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@torch.no_grad()
def test_autocast_does_not_decide_its_dtype(mode, rng):
    layer, x = packed(pruned(rng), mode=mode), torch.randn(3, 60, generator=rng)
    with torch.autocast("cpu", torch.bfloat16):
        within = layer(x)
    assert within.dtype == torch.float32
    assert torch.equal(within, layer(x))


@pytest.mark.parametrize("skips_zeros", [False, True])
@torch.no_grad()
def test_it_does_so_on_a_gpu(skips_zeros, rng, gpu_or_emulated):
    linear, x = pruned(rng), torch.randn(2, 60, generator=rng).relu()
    layer = packed(linear, mode="auto", skips_zeros=skips_zeros).to(gpu_or_emulated)
    there = x.to(gpu_or_emulated)
    torch.testing.assert_close(layer(there).cpu(), linear(x), **tolerance(torch.float32, 60, 16))
    (choice,) = layer.choices
    assert choice.refused is None
    layer.mode = "sparse"
    torch.testing.assert_close(layer(there).cpu(), linear(x), **tolerance(torch.float32, 60, 16))


@torch.no_grad()
def test_a_relu_may_follow(rng):
    linear = pruned(rng)
    x = torch.randn(3, 60, generator=rng)
    for mode in ("sparse", "dense"):
        found = packed(linear, mode=mode, with_relu=True)(x)
        torch.testing.assert_close(found, linear(x).relu(), **tolerance(torch.float32, 60, 16))


@torch.no_grad()
def test_it_survives_a_file_and_a_state_dict(rng, tmp_path):
    linear = pruned(rng)
    x = torch.randn(2, 60, generator=rng)
    first = packed(linear)
    save_eie({"fc": first.matrix}, tmp_path / "head")
    from_file = EIELinear.from_matrix(load_eie(tmp_path / "head")["fc"], linear.bias)
    fresh = EIELinear(60, 45)
    fresh(x)
    fresh.load_state_dict(first.state_dict())
    assert torch.equal(from_file(x), first(x))
    assert torch.equal(fresh(x), first(x))


def test_a_damaged_state_is_refused(rng):
    state = packed(pruned(rng)).state_dict()
    state["skips"] = state["skips"] + 16
    with pytest.raises(FormatError, match="no EIE matrix: a skip is"):
        EIELinear(60, 45).load_state_dict(state)
    with pytest.raises(FormatError, match="pointers should be"):
        EIELinear(61, 45).load_state_dict(packed(pruned(rng)).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        EIELinear(60, 45).load_state_dict({"bias": torch.zeros(45)})


@torch.no_grad()
def test_auto_takes_the_faster_and_says_so(rng, monkeypatch):
    layer = packed(pruned(rng), mode="auto")
    taken = []
    real = module.measure

    def fixed(way):
        def measure(products, device, n_items):
            choice = real(products, device, n_items)
            taken.append(n_items)
            return type(choice)(choice.device, choice.items, way, choice.dense, choice.sparse)

        return measure

    monkeypatch.setattr(module, "measure", fixed("dense"))
    one = torch.randn(1, 60, generator=rng)
    assert torch.equal(layer(one), packed(pruned(rng.manual_seed(20231)), mode="dense")(one))
    layer(one)
    monkeypatch.setattr(module, "measure", fixed("sparse"))
    layer(torch.randn(3, 60, generator=rng))
    layer(torch.randn(4, 60, generator=rng))
    assert taken == [1, 3]
    assert [(c.items, c.way) for c in layer.choices] == [(1, "dense"), (4, "sparse")]
    assert all(c.dense > 0 and c.sparse > 0 for c in layer.choices)
    assert re.search(r"cpu, batch 4: sparse \(dense \d+\.\d+ ms", repr(layer))

    copy = EIELinear(60, 45, mode="auto")
    copy.load_state_dict(layer.state_dict())
    assert copy.choices == layer.choices
    layer.forget_choices()
    assert layer.choices == ()


def test_a_measurement_names_the_faster(rng, monkeypatch):
    import time

    from pcsparse.nn import product_choice

    for slow, fast in (("dense", "sparse"), ("sparse", "dense")):
        products = {slow: lambda: time.sleep(0.003), fast: lambda: None}
        choice = product_choice.measure(products, torch.device("cpu"), 5)
        assert choice.way == fast
        assert choice.items == 8


@torch.no_grad()
def test_conversions_leave_it_in_float32(rng):
    linear = pruned(rng)
    x = torch.randn(1, 60, generator=rng)
    layer = packed(linear)
    before = layer(x)
    converted = nn.Sequential(layer).to(torch.bfloat16)[0]
    assert torch.equal(converted(x), before)
    assert converted.codebook.dtype == converted.bias.dtype == torch.float32


def test_wrong_input_is_refused(rng):
    with pytest.raises(RangeError, match="mode must be one of auto, sparse, dense, got 'fast'"):
        EIELinear(4, 4, mode="fast")
    layer = packed(pruned(rng))
    with pytest.raises(ShapeError, match="x must have 60 features, got shape"):
        layer(torch.zeros(2, 59))
    with pytest.raises(DtypeError, match="x must be float32"):
        layer(torch.zeros(2, 60).double())
    with pytest.raises(UnsupportedError, match="no gradients"):
        layer(torch.zeros(2, 60, requires_grad=True))
    matrix = share_weights(pruned(rng).weight.detach()).pack()
    with pytest.raises(ShapeError, match="bias must have shape"):
        EIELinear.from_matrix(matrix, torch.zeros(3))


@torch.no_grad()
def test_a_part_of_a_state_is_taken_and_checked(rng):
    layer = packed(pruned(rng))
    x = torch.randn(1, 60, generator=rng)
    before = layer(x) - layer.bias
    layer.load_state_dict({"codebook": 2 * layer.codebook}, strict=False)
    torch.testing.assert_close(layer(x) - layer.bias, 2 * before, **tolerance(torch.float32, 60, 64))
    with pytest.raises(FormatError, match="no EIE matrix"):
        layer.load_state_dict({"skips": layer.skips + 200}, strict=False)


@torch.no_grad()
def test_without_zeros_to_skip_weights_lie_by_rows(rng):
    linear, x = pruned(rng), torch.randn(2, 60, generator=rng)
    layer = packed(linear, skips_zeros=False)
    torch.testing.assert_close(layer(x), linear(x), **tolerance(torch.float32, 60, 16))
    assert layer.layout(x.device).by_rows
    assert "skips_zeros=False" in repr(layer)
    layer.skips_zeros = True
    by_columns = layer(x)
    assert not layer.layout(x.device).by_rows
    assert torch.equal(by_columns, packed(linear)(x))
    assert EIELinear.from_linear(linear, skips_zeros=False).skips_zeros is False


@torch.no_grad()
def test_what_was_measured_by_columns_says_nothing_of_rows(rng):
    layer, x = packed(pruned(rng), mode="auto"), torch.randn(1, 60, generator=rng)
    layer(x)
    layer.skips_zeros = True
    assert len(layer.choices) == 1
    layer.skips_zeros = False
    assert layer.choices == ()


@pytest.mark.parametrize("mode", ["sparse", "dense", "auto"])
@pytest.mark.parametrize("shape", [(60,), (3, 60), (2, 5, 60)])
@torch.no_grad()
def test_shapes_alone_are_there_without_a_weight(mode, shape, rng):
    layer = packed(pruned(rng), mode=mode)
    found = meta_copy(layer)(torch.empty(shape, device="meta"))
    assert (found.device.type, found.shape, found.dtype) == ("meta", (*shape[:-1], 45), torch.float32)
    assert layer.choices == ()
    with pytest.raises(DtypeError, match="float16"):
        meta_copy(layer)(torch.empty(shape, device="meta", dtype=torch.float16))


@torch.no_grad()
def test_an_empty_batch_decides_nothing(rng):
    layer = packed(pruned(rng), mode="auto")
    assert layer(torch.zeros(0, 60)).shape == (0, 45)
    assert layer.choices == ()


@torch.no_grad()
def test_auto_takes_the_dense_product_where_there_is_no_kernel(rng, monkeypatch):
    def refuse(*_, **__):
        raise UnsupportedError("no kernels here")

    monkeypatch.setattr(module, "eie_layout", refuse)
    linear = pruned(rng)
    layer = packed(linear, mode="auto")
    x = torch.randn(1, 60, generator=rng)
    torch.testing.assert_close(layer(x), linear(x), **tolerance(torch.float32, 60, 16))
    assert "cpu, batch 1: dense (no kernels here)" in repr(layer)
    layer.mode = "sparse"
    with pytest.raises(UnsupportedError, match="no kernels here"):
        layer(x)
    layer.mode = "sprase"
    with pytest.raises(RangeError, match="got 'sprase'"):
        layer(x)


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@pytest.mark.parametrize("skips_zeros", [False, True])
@torch.no_grad()
def test_a_changed_buffer_is_seen(mode, skips_zeros, rng):
    linear = pruned(rng)
    layer = packed(linear, mode=mode, skips_zeros=skips_zeros)
    layer.bias = None
    x = torch.randn(2, 60, generator=rng).relu()
    before, token = layer(x), layer.weight_token
    layer.codebook.mul_(2)
    assert torch.equal(layer(x), before * 2)
    assert layer.weight_token is not token
    layer.codebook = layer.codebook * 2
    assert torch.equal(layer(x), before * 4)
    # what is not changed is not made again
    held = layer.dense_weight() if mode == "dense" else layer.layout(x.device)
    layer(x)
    assert (layer.dense_weight() if mode == "dense" else layer.layout(x.device)) is held


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@torch.no_grad()
def test_a_buffer_that_was_spoilt_is_told(mode, rng):
    layer = packed(pruned(rng), mode=mode)
    x = torch.randn(2, 60, generator=rng)
    layer(x)
    layer.pointers.mul_(3)
    for _ in range(2):
        with pytest.raises(FormatError, match="no EIE matrix"):
            layer(x)


@torch.no_grad()
def test_the_default_dtype_does_not_matter(rng):
    linear, x = pruned(rng), torch.randn(1, 60, generator=rng)
    expected = EIELinear.from_linear(linear)(x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(EIELinear.from_linear(linear)(x), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@torch.no_grad()
def test_it_compiles_once_it_has_run_and_says_so_before(rng):
    layer = packed(pruned(rng))
    x = torch.randn(2, 60, generator=rng)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with pytest.raises(Exception, match="call it once before"):
        compiled(x)
    expected = layer(x)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x), expected)


@torch.no_grad()
def test_a_pickle_holds_the_format_alone(rng):
    layer = packed(pruned(rng))
    x = torch.randn(1, 60, generator=rng)
    expected = layer(x)
    copy = pickle.loads(pickle.dumps(layer))
    assert copy._layout is None
    assert torch.equal(copy(x), expected)


@torch.no_grad()
def test_a_pickle_from_before_changed_buffers_were_seen_runs(rng):
    layer = packed(pruned(rng))
    x = torch.randn(1, 60, generator=rng)
    before = EIELinear.__new__(EIELinear)
    state = layer.__getstate__()
    del state["_seen"], state["_token"]
    before.__setstate__({**state, "weight_token": object()})
    assert torch.equal(before(x), layer(x))
    token = before.weight_token
    before.codebook.mul_(2)
    assert before.weight_token is not token


def test_every_mode_refuses_a_gradient(rng):
    for mode in ("sparse", "dense", "auto"):
        with pytest.raises(UnsupportedError, match="no gradients"):
            packed(pruned(rng), mode=mode)(torch.zeros(1, 60, requires_grad=True))


def test_a_matrix_that_is_none_makes_no_layer(rng):
    matrix = share_weights(pruned(rng).weight.detach()).pack()
    with pytest.raises(FormatError, match="no EIE matrix"):
        EIELinear.from_matrix(replace(matrix, skips=torch.full_like(matrix.skips, 15)))


def test_repr_says_how_full_it_is(rng):
    assert "entries=540 (20.0 %)" in repr(packed(pruned(rng)))


def test_other_widths_by_parameter(rng):
    linear = pruned(rng)
    shared = share_weights(linear.weight.detach(), code_bits=8)
    layer = EIELinear.from_matrix(shared.pack(EIEFormat(16, code_bits=8, index_bits=5)), linear.bias)
    x = torch.randn(2, 60, generator=rng)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), linear(x), **tolerance(torch.float32, 60, 16))


@pytest.mark.parametrize("faster", [False, True])
@torch.no_grad()
def test_the_faster_layout_stays_and_travels(faster, rng, monkeypatch):
    linear, x = pruned(rng), torch.randn(2, 60, generator=rng).relu()

    def fixed(products, **_):
        # both are run, and both are right
        for found in [product() for product in products.values()]:
            torch.testing.assert_close(found, linear(x)[: len(found)], **tolerance(torch.float32, 60, 16))
        return {name: Timing.of([1.0 if name == str(faster) else 2.0]) for name in products}

    monkeypatch.setattr(module, "time_in_turns", fixed)
    layer = packed(linear, skips_zeros=not faster)
    assert layer.choose_layout(x) is faster
    assert layer.layout(x.device).by_rows is not faster
    fresh = packed(linear, skips_zeros=not faster)
    fresh(x)
    fresh.load_state_dict(layer.state_dict())
    assert fresh.skips_zeros is faster
    assert torch.equal(fresh(x), layer(x))
    assert layer.choose_layout(x[0]) is faster
    with pytest.raises(ShapeError, match="items of 60 features"):
        layer.choose_layout(x[:0])


@pytest.mark.parametrize("skips_zeros", [False, True])
def test_a_gpu_has_one_layout_so_that_nothing_is_timed(skips_zeros, rng, monkeypatch):
    layer = packed(pruned(rng), skips_zeros=skips_zeros)
    laid_out = []
    monkeypatch.setattr(module, "time_in_turns", lambda *args, **more: pytest.fail("timed"))
    monkeypatch.setattr(
        module, "eie_layout", lambda matrix, device, by_rows: laid_out.append((device.type, by_rows))
    )
    with FakeTensorMode():
        # as much of a tensor on a GPU as there is without one
        x = torch.empty(2, 60, device="cuda")
    assert layer.choose_layout(x) is skips_zeros
    assert layer.layout(x.device) is None
    assert laid_out == [("cuda", True)]


def test_a_converted_layer_is_where_the_given_one_is(device):
    given = torch.nn.Linear(8, 4).to(device)
    with torch.no_grad():
        given.weight.copy_((given.weight > 0.2).float())
    made, x = EIELinear.from_linear(given, mode="dense"), torch.ones(1, 8, device=device)
    assert {buffer.device for buffer in made.buffers()} == {given.weight.device}
    torch.testing.assert_close(made(x), given(x))
