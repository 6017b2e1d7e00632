"""The 2:4 layer: against the dense one, its gate, its state, and the plumbing to a GPU with a stand-in."""

import copy
import json

import pytest
import torch
from torch import nn

from pcsparse.compress.two_four import two_four_mask
from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError, UnsupportedError
from pcsparse.nn import product_choice
from pcsparse.nn import semi_structured_cuda as cuda
from pcsparse.nn.product_choice import bucket_of
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear
from pcsparse.packed.two_four import pack_two_four
from pcsparse.timing import Timing
from tests.packed.test_two_four import random_two_four
from tests.tolerance import tolerance

CPU = torch.device("cpu")


def _linear(rng, n_out=20, n_in=36, dtype=torch.float32, bias=True) -> nn.Linear:
    linear = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)
    with torch.no_grad():
        linear.weight.copy_(random_two_four(rng, n_out, n_in))
    return linear


def _clock(monkeypatch, **seconds):
    """Time that a test decides, and the calls of the gate."""
    calls = []

    def time_in_turns(candidates, **options):
        for run in candidates.values():
            run()
        calls.append(options)
        return {name: Timing(seconds[name], 0.0, 0.0, 1) for name in candidates}

    monkeypatch.setattr(product_choice, "time_in_turns", time_in_turns)
    return calls


@pytest.mark.parametrize("mode", ["auto", "sparse", "dense"])
@pytest.mark.parametrize("with_relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(36,), (1, 36), (5, 36), (2, 3, 36), (0, 36)])
def test_it_computes_what_the_dense_layer_does(rng, mode, with_relu, bias, shape):
    linear = _linear(rng, bias=bias)
    x = torch.randn(shape, generator=rng)
    expected = linear(x).relu() if with_relu else linear(x)
    layer = SemiStructuredLinear.from_linear(linear, mode=mode, with_relu=with_relu)
    actual = layer(x)
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, **tolerance(torch.float32, 36, factor=32))
    # an empty batch decides nothing
    assert len(layer.choices) == (mode == "auto" and len(x) > 0)
    assert not list(layer.parameters())


@pytest.mark.parametrize("mode", ["sparse", "dense"])
def test_autocast_does_not_decide_its_dtype(rng, mode):
    layer, x = SemiStructuredLinear.from_linear(_linear(rng), mode=mode), torch.randn(5, 36, generator=rng)
    with torch.autocast("cpu", torch.bfloat16):
        within = layer(x)
    assert within.dtype == torch.float32
    assert torch.equal(within, layer(x))


def test_a_mask_chooses_the_weights(rng):
    linear = nn.Linear(8, 4)
    mask = two_four_mask(linear.weight)
    layer = SemiStructuredLinear.from_linear(linear, mask=mask)
    assert torch.equal(layer.matrix.unpack(), linear.weight * mask)
    with pytest.raises(RangeError, match="no 2:4 matrix: row 0 has 4 weights"):
        SemiStructuredLinear.from_linear(linear)


def test_the_gate_measures_once_a_size_and_keeps_the_faster(rng, monkeypatch):
    layer = SemiStructuredLinear.from_linear(_linear(rng))
    calls = _clock(monkeypatch, dense=3e-3, sparse=2e-3)
    x = torch.randn(9, 36, generator=rng)
    for n_items in (1, 1, 2, 3, 4, 4):
        layer(x[:n_items])
    assert len(calls) == 3
    assert [(c.items, c.way, c.dense, c.sparse) for c in layer.choices] == [
        (n, "sparse", 3e-3, 2e-3) for n in (1, 2, 4)
    ]
    # where sparse won everywhere the dense weight is let go
    assert layer._dense is None
    _clock(monkeypatch, dense=1e-3, sparse=2e-3)
    assert torch.equal(layer(x), nn.functional.linear(x, layer.matrix.unpack(), layer.bias))
    assert layer.choices[-1].way == "dense"
    assert layer._dense is not None
    text = repr(layer)
    assert "cpu, batch 1: sparse (dense 3.000 ms, sparse 2.000 ms)" in text
    assert "cpu, batch 16: dense (dense 1.000 ms, sparse 2.000 ms)" in text
    assert "in_features=36, out_features=20, bias=True, with_relu=False, mode=auto" in text
    layer.forget_choices()
    assert layer.choices == ()


def test_what_was_chosen_is_what_runs(rng, monkeypatch):
    layer = SemiStructuredLinear.from_linear(_linear(rng))
    ran = []
    for name in ("_sparse_product", "_dense_product"):
        real = getattr(layer, name)
        monkeypatch.setattr(layer, name, lambda x, name=name, real=real: (ran.append(name), real(x))[1])
    x = torch.randn(1, 36, generator=rng)
    for faster in ("sparse", "dense"):
        _clock(monkeypatch, **{"sparse": 2.0, "dense": 2.0, faster: 1.0})
        layer.forget_choices()
        layer(x), ran.clear()
        layer(x)
        assert ran == [f"_{faster}_product"]


@pytest.mark.parametrize(
    ("n", "bucket"), [(0, 1), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (64, 64), (65, 128)]
)
def test_sizes_of_batches_are_powers_of_two(n, bucket):
    assert bucket_of(n) == bucket


def test_gradients_reach_the_input(rng):
    linear = _linear(rng)
    x = torch.randn(3, 36, generator=rng, requires_grad=True)
    expected = torch.autograd.grad(linear(x).square().sum(), x)[0]
    for mode in ("sparse", "dense"):
        layer = SemiStructuredLinear.from_linear(linear, mode=mode)
        actual = torch.autograd.grad(layer(x).square().sum(), x)[0]
        torch.testing.assert_close(actual, expected, **tolerance(torch.float32, 36, factor=128))


def test_state_comes_back_with_its_choices(rng, monkeypatch):
    layer = SemiStructuredLinear.from_linear(_linear(rng))
    _clock(monkeypatch, dense=1e-3, sparse=2e-3)
    x = torch.randn(3, 36, generator=rng)
    expected = layer(x)
    state = layer.state_dict()
    assert all(isinstance(part, torch.Tensor) for part in state.values())
    assert state["values"].shape == (20, 18)
    assert state["positions"].shape == (20, 5)

    other = SemiStructuredLinear(36, 20)
    calls = _clock(monkeypatch, dense=2e-3, sparse=1e-3)
    # a choice and a dense weight of its own, both of which give way
    other(x)
    other._dense = torch.zeros(20, 36)
    assert other.choices[0].way == "sparse"
    calls.clear()
    other.load_state_dict(state)
    assert torch.equal(other(x), expected)
    assert not calls
    assert other.choices == layer.choices
    assert torch.equal(copy.deepcopy(layer)(x), expected)


def test_damaged_states_are_refused(rng):
    layer = SemiStructuredLinear.from_linear(_linear(rng))
    state = layer.state_dict()

    def load(**changes):
        SemiStructuredLinear(36, 20).load_state_dict(state | changes)

    def extra(content):
        return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)

    positions = state["positions"].clone()
    positions[3, 1] = 0
    with pytest.raises(FormatError, match="no 2:4 matrix: the positions of row 3, group 2 do not ascend"):
        load(positions=positions)
    with pytest.raises(FormatError, match="values are not finite"):
        load(values=state["values"] * float("nan"))
    with pytest.raises(RuntimeError, match="size mismatch"):
        load(values=state["values"][:, :4])
    with pytest.raises(FormatError, match="choices of format 2; this version reads format 1"):
        load(_extra_state=extra({"format": 2, "choices": []}))
    for broken in (extra({"format": 1}), extra([1]), extra(None), torch.tensor([1, 2], dtype=torch.uint8)):
        with pytest.raises(FormatError, match="choices of a layer cannot be read"):
            load(_extra_state=broken)
    for choice in ({"way": "fast", "items": 1}, {"way": "dense", "items": 3}):
        with pytest.raises(FormatError, match="choices of a layer are none"):
            load(_extra_state=extra({"format": 1, "choices": [{"device": "cpu", **choice}]}))


def test_other_dtypes_are_dense_on_a_cpu_and_say_why(rng):
    layer = SemiStructuredLinear.from_linear(_linear(rng)).bfloat16()
    x = torch.randn(2, 36, generator=rng).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    (choice,) = layer.choices
    assert choice.way == "dense"
    assert "the CPU's kernel takes float32 only, the weight is torch.bfloat16" in repr(layer)
    layer.mode = "sparse"
    with pytest.raises(
        UnsupportedError, match=r"no sparse product: the CPU's .* use \.float\(\); use mode='auto'"
    ):
        layer(x)
    assert layer.float()(x.float()).dtype == torch.float32


def test_a_conversion_keeps_the_packed_form(rng):
    linear = _linear(rng, 1, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0, 0, 1e-9, 2]]))
    layer = SemiStructuredLinear.from_linear(linear, mode="dense")
    x = torch.ones(1, 4)
    layer(x)
    layer.half()
    assert layer.matrix.checked().unpack().tolist() == [[0, 0, 0, 2]]
    # and the dense form of before is not used again
    assert layer(x.half()).dtype == torch.float16
    with pytest.raises(DtypeError, match="got float64"):
        layer.double()


def test_wrong_input_is_refused(rng):
    with pytest.raises(ShapeError, match="6 columns, no multiple of 4"):
        SemiStructuredLinear(6, 2)
    with pytest.raises(RangeError, match="mode must be one of auto, sparse, dense, got 'fast'"):
        SemiStructuredLinear(8, 2, mode="fast")
    with pytest.raises(DtypeError, match="got float64"):
        SemiStructuredLinear(8, 2, dtype=torch.float64)
    layer = SemiStructuredLinear.from_linear(_linear(rng))
    with pytest.raises(ShapeError, match=r"x must have 36 features, got shape \(2, 35\)"):
        layer(torch.zeros(2, 35))
    with pytest.raises(ShapeError, match=r"x must have 36 features, got shape \(\)"):
        layer(torch.tensor(1.0))
    with pytest.raises(DtypeError, match="x must be float32, got float16"):
        layer(torch.zeros(2, 36).half())
    matrix = pack_two_four(torch.zeros(3, 8))
    with pytest.raises(ShapeError, match=r"bias must have shape \(3\)"):
        SemiStructuredLinear.from_matrix(matrix, torch.zeros(4))
    with pytest.raises(DtypeError, match="bias must be float32"):
        SemiStructuredLinear.from_matrix(matrix, torch.zeros(3).half())


def _change_in_place(layer):
    layer.values.mul_(2)


def _replace(layer):
    layer.values = layer.values * 2


def _change_another_way(layer):
    layer.values.data = layer.values.data * 2


@pytest.mark.parametrize("change", [_change_in_place, _replace, _change_another_way])
def test_a_changed_buffer_is_seen(rng, change):
    linear = _linear(rng, bias=False)
    x = torch.randn(3, 36, generator=rng)
    layer = SemiStructuredLinear.from_linear(linear, mode="dense")
    before, token = layer(x), layer.weight_token
    copied = copy.deepcopy(layer)
    # twice, as memory of the first may be given to the second
    for factor in (2, 4):
        change(layer)
        assert torch.equal(layer(x), before * factor)
        assert layer.weight_token is not token
    assert torch.equal(copied(x), before)
    held = layer.dense_weight()
    layer(x)
    assert layer.dense_weight() is held


def test_a_pickle_from_before_changed_buffers_were_seen_runs(rng):
    layer = SemiStructuredLinear.from_linear(
        _linear(rng), mask=two_four_mask(_linear(rng).weight), mode="dense"
    )
    state = layer.__getstate__()
    del state["_seen"], state["_token"]
    before = SemiStructuredLinear.__new__(SemiStructuredLinear)
    before.__setstate__({**state, "weight_token": object()})
    x = torch.randn(3, 36, generator=rng)
    assert torch.equal(before(x), layer(x))
    token = before.weight_token
    before.values.data = before.values.clone()
    assert before.weight_token is not token


def test_what_a_gpu_was_given_follows_the_buffers(rng, monkeypatch):
    monkeypatch.setattr(cuda, "serves", lambda _: True)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", torch.clone)
    layer = SemiStructuredLinear.from_linear(_linear(rng, 32, 64, torch.bfloat16, bias=False), mode="sparse")
    x = torch.randn(2, 64, generator=rng).bfloat16()
    before = layer(x)
    layer.values.mul_(2)
    assert torch.equal(layer(x), before * 2)


def test_nothing_is_timed_while_a_graph_is_traced(rng, monkeypatch):
    layer = SemiStructuredLinear.from_linear(_linear(rng))
    calls = _clock(monkeypatch, dense=1.0, sparse=2.0)
    x = torch.randn(3, 36, generator=rng)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    layer.mode = "sparse"
    expected = layer(x)
    layer.mode = "auto"
    assert torch.equal(compiled(x), expected)
    assert not calls
    assert layer.choices == ()


@pytest.mark.parametrize(
    ("shape", "dtype", "text"),
    [
        ((32, 64), torch.float16, None),
        ((16, 16), torch.bfloat16, None),
        ((32, 64), torch.float32, "in float32 the GPU takes one of each two"),
        ((32, 64), torch.float64, "neither float16 nor bfloat16"),
        ((30, 64), torch.float16, "multiples of 16 and 16, the weight is 30 x 64"),
        ((32, 40), torch.float16, "multiples of 16 and 16, the weight is 32 x 40"),
        ((0, 64), torch.float16, "multiples of 16 and 16, the weight is 0 x 64"),
    ],
)
def test_what_a_gpu_does_not_take_has_a_reason(monkeypatch, shape, dtype, text):
    monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensor, "_FORCE_CUTLASS", False)
    reason = cuda.refusal(shape, dtype, CPU)
    assert reason is None if text is None else text in reason


def test_minima_are_those_of_torch(monkeypatch):
    kind = torch.sparse.SparseSemiStructuredTensor
    for forced, name in ((True, "CUTLASS"), (False, "CUSPARSELT")):
        monkeypatch.setattr(kind, "_FORCE_CUTLASS", forced)
        limits = getattr(torch.sparse, f"SparseSemiStructuredTensor{name}")._DTYPE_SHAPE_CONSTRAINTS
        for dtype in (torch.float16, torch.bfloat16):
            assert (limits[dtype].sparse_min_rows, limits[dtype].sparse_min_cols) == cuda.minima()
    monkeypatch.setattr(kind, "_FORCE_CUTLASS", True)
    assert "multiples of 32 and 64" in cuda.refusal((16, 16), torch.float16, CPU)


def test_an_old_gpu_and_an_old_torch_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Card")
    reason = cuda.refusal((32, 64), torch.float16, torch.device("cuda"))
    assert reason == "Card has no sparse tensor cores; compute capability 8.0 is the first"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    assert cuda.refusal((32, 64), torch.float16, torch.device("cuda")) is None
    monkeypatch.delattr(torch.sparse, "to_sparse_semi_structured")
    assert "has no torch.sparse.to_sparse_semi_structured" in cuda.refusal((32, 64), torch.float16, CPU)


def test_torch_itself_refuses_tensors_that_are_not_on_a_gpu(rng):
    weight = random_two_four(rng, 32, 64).half()
    with pytest.raises(UnsupportedError, match=r"torch refused a 2:4 weight of 32 x 64: .*CUDA"):
        cuda.compress(weight)


@pytest.mark.parametrize("mode", ["auto", "sparse"])
def test_a_gpu_has_products_in_float32(rng, monkeypatch, gpu_or_emulated, mode):
    linear, x = _linear(rng), torch.randn(2, 36, generator=rng)
    layer = SemiStructuredLinear.from_linear(linear, mode=mode, with_relu=True).to(gpu_or_emulated)
    monkeypatch.setattr(cuda, "serves", lambda _: True)
    found = layer(x.to(gpu_or_emulated)).cpu()
    torch.testing.assert_close(found, linear(x).relu(), **tolerance(torch.float32, 36, factor=32))
    assert all(choice.refused is None for choice in layer.choices)
    assert len(layer.choices) == (mode == "auto")


@pytest.mark.not_mocked("torch's products of 2:4 weights")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_gpu_multiplies_narrow_types_on_its_tensor_cores(rng, device, dtype):
    if device.type != "cuda":
        pytest.skip("torch has these products for GPUs only; run with --device cuda")
    linear, x = _linear(rng, 64, 128, dtype), torch.randn(5, 128, generator=rng).to(dtype)
    layer = SemiStructuredLinear.from_linear(linear, mode="sparse", with_relu=True).to(device)
    expected = linear.double()(x.double()).relu().to(dtype)
    torch.testing.assert_close(layer(x.to(device)).cpu(), expected, **tolerance(dtype, 128, factor=32))


def test_the_way_to_a_gpu_with_a_stand_in(rng, monkeypatch):
    """The tensor core's part is a dense product on the CPU."""
    given = []
    assert cuda.serves(torch.device("cuda", 1))
    assert not cuda.serves(CPU)
    monkeypatch.setattr(cuda, "serves", lambda _: True)
    monkeypatch.setattr(torch.sparse, "to_sparse_semi_structured", lambda w: (given.append(w), w.clone())[1])
    linear = _linear(rng, 32, 64, torch.bfloat16)
    layer = SemiStructuredLinear.from_linear(linear, mode="sparse", with_relu=True)
    x = torch.randn(2, 64, generator=rng).bfloat16()
    for _ in range(2):
        assert torch.equal(layer(x), linear(x).relu())
    # the weight is compressed once, from its dense form
    assert len(given) == 1
    assert torch.equal(given[0], linear.weight)
    layer.half()(x.half())
    assert len(given) == 2
    assert given[1].dtype == torch.float16

    # the gate takes the dense product where the sparse one is refused, and says so
    narrow = SemiStructuredLinear.from_linear(_linear(rng, 20, 36, torch.bfloat16))
    narrow(x[:, :36])
    assert narrow.choices[0].way == "dense"
    assert "multiples of 16 and 16, the weight is 20 x 36" in str(narrow.choices[0])
    calls = _clock(monkeypatch, dense=2.0, sparse=1.0)
    layer.mode = "auto"
    layer(x.half())
    assert layer.choices[0].way == "sparse"
    assert calls[0]["device"] == CPU
