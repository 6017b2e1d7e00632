"""LinearConv2d: a drop-in for nn.Conv2d, the order of its columns, its choice of product, its state."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError, UnsupportedError
from pcsparse.nn import EIELinear, LinearConv2d, SemiStructuredLinear, product_choice
from pcsparse.nn.linear_conv2d import conv_refusal, kernel_order, reduction_order
from pcsparse.nn.prepare import meta_copy
from pcsparse.packed.eie_codes import codes_of
from pcsparse.packed.two_four import pack_two_four
from pcsparse.timing import Timing
from tests.packed.oracle_two_four import best_two
from tests.tolerance import tolerance

GEOMETRIES = {
    "3x3 padded": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "1x1 strided": {"kernel_size": 1, "stride": 2, "padding": (1, 0)},
    "uneven": {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 2), "dilation": (3, 1)},
    "dilated": {"kernel_size": 3, "stride": (2, 1), "padding": (3, 0), "dilation": 2},
    "same": {"kernel_size": (4, 2), "padding": "same", "dilation": (1, 3)},
    "valid": {"kernel_size": 3, "padding": "valid", "bias": False},
}


def conv_of(rng, c_in=8, c_out=5, **options) -> nn.Conv2d:
    """A convolution that is 2:4 along its input channels and has eight different weights beside 0."""
    conv = nn.Conv2d(c_in, c_out, **{"kernel_size": 3, **options})
    values = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0])
    with torch.no_grad():
        conv.weight.copy_(values[torch.randint(0, 8, conv.weight.shape, generator=rng)])
        conv.weight.mul_(channel_mask(conv.weight))
        if conv.bias is not None:
            conv.bias.copy_(torch.randn(c_out, generator=rng))
    return conv


def channel_mask(weight: torch.Tensor) -> torch.Tensor:
    """Two of each four input channels, one kernel position and one output after the other."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    c_out, _, kh, kw = weight.shape
    for o in range(c_out):
        for i in range(kh):
            for j in range(kw):
                mask[o, :, i, j] = torch.tensor(best_two(weight[o, :, i, j].tolist()))
    return mask


def linear_of(conv: nn.Conv2d, kind: str, **options) -> EIELinear | SemiStructuredLinear:
    matrix = reduction_order(conv.weight.detach())
    if kind == "2:4":
        return SemiStructuredLinear.from_matrix(pack_two_four(matrix), conv.bias, **options)
    given = nn.Linear(matrix.shape[1], matrix.shape[0], bias=conv.bias is not None)
    given.weight, given.bias = nn.Parameter(matrix), conv.bias
    return EIELinear.from_linear(given, **options)


def packed(conv: nn.Conv2d, kind: str = "eie", mode: str = "sparse", **options) -> LinearConv2d:
    return LinearConv2d.from_conv(conv, linear_of(conv, kind, **options), mode=mode)


def _clock(monkeypatch, **seconds):
    """Time that a test decides, and how often each product would have run."""
    runs = []

    def time_in_turns(candidates, **options):
        for run in candidates.values():
            run()
        runs.append(options["runs"])
        return {name: Timing(seconds[name], 0.0, 0.0, 1) for name in candidates}

    monkeypatch.setattr(product_choice, "time_in_turns", time_in_turns)
    return runs


# torch says so of an even kernel with padding "same", whoever calls it
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("kind", ["eie", "2:4"])
@pytest.mark.parametrize("mode", ["sparse", "dense", "auto"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@torch.no_grad()
def test_it_computes_what_the_convolution_does(rng, kind, mode, geometry):
    conv = conv_of(rng, **geometry)
    layer = packed(conv, kind, mode)
    for shape in [(2, 8, 7, 9), (8, 7, 9), (0, 8, 7, 9)]:
        x = torch.randn(shape, generator=rng)
        found, expected = layer(x), conv(x)
        assert found.shape == expected.shape
        # of nothing, any
        assert found.stride() == expected.stride() or found.numel() == 0
        torch.testing.assert_close(found, expected, **tolerance(torch.float32, conv.weight[0].numel(), 32))
    assert torch.equal(layer.dense_weight(), conv.weight)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("kind", ["eie", "2:4"])
@pytest.mark.parametrize("mode", ["sparse", "dense", "auto"])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@torch.no_grad()
def test_shapes_alone_are_those_of_the_convolution(rng, kind, mode, geometry):
    conv = conv_of(rng, **geometry)
    shapes_only = meta_copy(packed(conv, kind, mode))
    for shape in ((2, 8, 9, 7), (8, 9, 7)):
        found = shapes_only(torch.empty(shape, device="meta"))
        assert (found.device.type, found.shape) == ("meta", conv(torch.empty(shape)).shape)


def test_columns_are_kernel_rows_then_kernel_columns_then_channels():
    c_in, kh, kw = 4, 2, 3
    weight = torch.arange(2 * c_in * kh * kw).view(2, c_in, kh, kw)
    matrix = reduction_order(weight)
    for i in range(kh):
        for j in range(kw):
            for c in range(c_in):
                assert torch.equal(matrix[:, (i * kw + j) * c_in + c], weight[:, c, i, j])
    assert torch.equal(kernel_order(matrix, c_in, (kh, kw)), weight)


def test_groups_of_four_lie_along_the_input_channels(rng):
    weight = torch.randn(3, 8, 3, 2, generator=rng)
    kept = weight * channel_mask(weight)
    matrix = pack_two_four(reduction_order(kept))
    assert torch.equal(kernel_order(matrix.unpack(), 8, (3, 2)), kept)
    # a full group of channels at one position, and nothing else, is too much
    weight = torch.zeros(1, 4, 3, 3)
    weight[0, :3, 1, 2] = 1.0
    with pytest.raises(RangeError, match="row 0 has 3 weights that are not 0 in columns 20 to 23"):
        pack_two_four(reduction_order(weight))
    # as many at neighbouring positions of one channel is not
    weight = torch.zeros(1, 4, 3, 3)
    weight[0, 0] = 1.0
    assert pack_two_four(reduction_order(weight)).n_in == 36


@torch.no_grad()
def test_a_relu_may_follow(rng):
    conv = conv_of(rng)
    x = torch.randn(1, 8, 6, 6, generator=rng)
    for mode in ("sparse", "dense"):
        found = packed(conv, mode=mode, with_relu=True)(x)
        torch.testing.assert_close(found, conv(x).relu(), **tolerance(torch.float32, 72, 32))


@pytest.mark.parametrize("mode", ["sparse", "dense"])
@torch.no_grad()
def test_a_changed_buffer_is_seen(rng, mode):
    layer = packed(conv_of(rng, padding=1), "2:4", mode)
    layer.linear.bias = None
    x = torch.randn(2, 8, 6, 5, generator=rng)
    before = layer(x)
    layer.linear.values.mul_(2)
    assert torch.equal(layer(x), before * 2)


@torch.no_grad()
def test_the_gate_measures_once_a_number_of_positions(rng, monkeypatch):
    conv = conv_of(rng, padding=1)
    layer = packed(conv, "2:4", "auto")
    runs = _clock(monkeypatch, dense=3e-3, sparse=2e-3)
    for size in (4, 4, 3):
        layer(torch.randn(1, 8, size, size, generator=rng))
    # 16 positions, then 9, which are rounded up to 16 as well; a look at each first
    assert runs == [1, 11]
    assert [(c.items, c.way) for c in layer.choices] == [(16, "sparse")]
    # nothing dense is held where it never won
    assert layer._dense is None
    assert layer.linear._dense is None
    runs = _clock(monkeypatch, dense=1e-3, sparse=5e-3)
    x = torch.randn(2, 8, 4, 4, generator=rng)
    assert torch.equal(layer(x), conv(x))
    # five times slower is clear at once
    assert runs == [1]
    assert [(c.items, c.way) for c in layer.choices] == [(16, "sparse"), (32, "dense")]
    assert layer.linear.choices == ()
    assert "cpu, batch 32: dense (dense 1.000 ms, sparse 5.000 ms)" in repr(layer)
    assert "8, 5, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), mode=auto" in repr(
        layer
    )

    other = packed(conv_of(rng, padding=1), "2:4", "auto")
    other.load_state_dict(layer.state_dict())
    assert other.choices == layer.choices
    assert torch.equal(other(x), conv(x))
    layer.forget_choices()
    assert layer.choices == ()


@pytest.mark.parametrize("faster", ["dense", "sparse"])
@torch.no_grad()
def test_what_was_chosen_is_what_runs(rng, monkeypatch, faster):
    layer = packed(conv_of(rng), mode="auto")
    _clock(monkeypatch, **{"dense": 2.0, "sparse": 2.0, faster: 1.0})
    x = torch.randn(1, 8, 5, 5, generator=rng)
    layer(x)
    ran = []
    for name in ("_sparse_product", "_dense_product"):
        real = getattr(layer, name)
        monkeypatch.setattr(layer, name, lambda x, name=name, real=real: (ran.append(name), real(x))[1])
    layer(x)
    assert ran == [f"_{faster}_product"]


@torch.no_grad()
def test_dense_where_there_is_no_sparse_product(rng):
    conv = conv_of(rng).to(torch.bfloat16)
    layer = packed(conv, "2:4", "auto")
    x = torch.randn(1, 8, 5, 5, generator=rng).to(torch.bfloat16)
    assert torch.equal(layer(x), conv(x))
    assert "cpu, batch 16: dense (no sparse product: the CPU's kernel takes float32 only" in repr(layer)
    layer.mode = "sparse"
    with pytest.raises(UnsupportedError, match="no sparse product"):
        layer(x)


def test_gradients_reach_the_input_of_2_4_and_are_refused_by_eie(rng):
    conv = conv_of(rng, stride=2, padding=1)
    x = torch.randn(2, 8, 6, 5, generator=rng, requires_grad=True)
    expected = torch.autograd.grad(conv(x).square().sum(), x)[0]
    for mode in ("sparse", "dense"):
        found = torch.autograd.grad(packed(conv, "2:4", mode)(x).square().sum(), x)[0]
        torch.testing.assert_close(found, expected, **tolerance(torch.float32, 72, 256))
        with pytest.raises(UnsupportedError, match="no gradients"):
            packed(conv, "eie", mode)(x)


@pytest.mark.parametrize("kind", ["eie", "2:4"])
@torch.no_grad()
def test_its_state_travels(rng, kind):
    conv, other = conv_of(rng, padding=1), conv_of(rng, padding=1)
    x = torch.randn(1, 8, 5, 5, generator=rng)
    for mode in ("dense", "sparse"):
        layer, fresh = packed(conv, kind, mode), packed(other, kind, mode)
        fresh(x)
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh(x), layer(x))
        # also when only the linear layer is loaded
        fresh.linear.load_state_dict(packed(other, kind, mode).linear.state_dict())
        assert torch.equal(fresh(x), packed(other, kind, mode)(x))
        for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert copied._dense is None
            assert torch.equal(copied(x), layer(x))
    with pytest.raises(FormatError, match="choices of a layer"):
        layer.set_extra_state(torch.zeros(3, dtype=torch.uint8))


@torch.no_grad()
def test_conversions_are_those_of_the_linear_layer(rng):
    conv = conv_of(rng)
    x = torch.randn(1, 8, 5, 5, generator=rng)
    layer = packed(conv, "eie", "dense")
    before = layer(x)
    assert torch.equal(nn.Sequential(layer).to(torch.bfloat16)(x), before)
    halved = packed(conv, "2:4", "dense")
    halved(x)
    assert torch.equal(halved.to(torch.bfloat16)(x.bfloat16()), conv.to(torch.bfloat16)(x.bfloat16()))


@torch.no_grad()
def test_it_compiles_once_it_has_run(rng):
    layer = packed(conv_of(rng, padding=1))
    x = torch.randn(1, 8, 5, 5, generator=rng)
    expected = layer(x)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x), expected)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"groups": 2}, "groups=2; a patch of all channels"),
        ({"padding": 1, "padding_mode": "circular"}, "padding_mode='circular'; only zeros"),
    ],
)
def test_convolutions_that_are_no_matrix_are_refused(rng, options, text):
    conv = nn.Conv2d(8, 4, 3, **options)
    assert text in conv_refusal(conv)
    linear = SemiStructuredLinear(72, 4)
    with pytest.raises(UnsupportedError, match=text.split(";", maxsplit=1)[0]):
        LinearConv2d.from_conv(conv, linear)


def test_channels_of_2_4_come_in_fours(rng):
    with pytest.raises(ShapeError, match="6 columns, no multiple of 4"):
        pack_two_four(reduction_order(torch.zeros(2, 6, 1, 1)))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"mode": "fast"}, RangeError, "mode must be one of auto, sparse, dense, got 'fast'"),
        ({"kernel_size": (3, 0)}, RangeError, r"kernel_size must be two numbers of at least 1, got \(3, 0\)"),
        ({"stride": (0, 1)}, RangeError, "stride must be two numbers"),
        ({"dilation": (1, -1)}, RangeError, "dilation must be two numbers"),
        ({"padding": (0, -1)}, RangeError, r"padding must be two numbers .* got \(0, -1\)"),
        ({"padding": "full"}, RangeError, "'same' or 'valid', got 'full'"),
        ({"padding": "same", "stride": (2, 1)}, RangeError, "'same' has no meaning with a stride"),
        ({"kernel_size": (5, 1)}, ShapeError, "72 inputs, no multiple of the 5 x 1"),
    ],
)
def test_a_geometry_that_is_none_is_refused(options, error, text):
    with pytest.raises(error, match=text):
        LinearConv2d(SemiStructuredLinear(72, 4), **{"kernel_size": (3, 3), **options})


def test_wrong_input_is_refused(rng):
    conv = conv_of(rng)
    layer = packed(conv)
    for shape in [(1, 7, 5, 5), (8, 5), (1, 1, 8, 5, 5)]:
        with pytest.raises(ShapeError, match=r"x must be \(n, 8, h, w\), got shape"):
            layer(torch.zeros(shape))
    for mode in ("sparse", "dense", "auto"):
        with pytest.raises(ShapeError, match="map of 2 x 9 is smaller than the kernel, which spans 3 x 3"):
            packed(conv, mode=mode)(torch.zeros(1, 8, 2, 9))
        with pytest.raises(DtypeError, match="x must be float32"):
            packed(conv, mode=mode)(torch.zeros(1, 8, 5, 5).double())
    layer.mode = "sprase"
    with pytest.raises(RangeError, match="got 'sprase'"):
        layer(torch.zeros(1, 8, 5, 5))
    with pytest.raises(ShapeError, match="linear must be 5 x 72 for Conv2d"):
        LinearConv2d.from_conv(conv, SemiStructuredLinear(36, 5))


def test_a_layer_of_few_values_becomes_codes(rng):
    weight = torch.tensor([[0.0, -2.0, 0.5], [0.5, -0.0, 3.0]])
    codes, codebook = codes_of(weight)
    assert codes.tolist() == [[0, 1, 2], [2, 0, 3]]
    assert codebook.tolist() == [0.0, -2.0, 0.5, 3.0] + [0.0] * 12
    with pytest.raises(RangeError, match="have 72 different values beside 0, and codes of 4 bits tell 15"):
        codes_of(torch.randn(8, 9, generator=rng))
    with pytest.raises(RangeError, match="not finite"):
        codes_of(torch.full((2, 2), float("nan")))
    with pytest.raises(ShapeError, match="weight must have shape"):
        codes_of(torch.zeros(3))


@pytest.mark.parametrize("kind", ["eie", "2:4"])
@torch.no_grad()
def test_where_dense_is_taken_one_dense_form_is_held(rng, kind, monkeypatch):
    def dense_wins(products, **_):
        return {name: Timing.of([1.0 if name == "dense" else 2.0]) for name in products if products[name]}

    monkeypatch.setattr(product_choice, "time_in_turns", dense_wins)
    conv, other = conv_of(rng), conv_of(rng)
    layer, x = LinearConv2d.from_conv(conv, linear_of(conv, kind)), torch.randn(1, 8, 6, 6, generator=rng)
    torch.testing.assert_close(layer(x), conv(x), **tolerance(torch.float32, 72))
    assert layer._dense is not None
    assert layer.linear._dense is None
    assert getattr(layer.linear, "_layout", None) is None
    held = layer.dense_weight()
    assert layer.dense_weight() is held
    # another weight makes another form
    layer.linear.load_state_dict(linear_of(other, kind).state_dict())
    torch.testing.assert_close(layer(x), other(x), **tolerance(torch.float32, 72))
    layer.to(torch.device("cpu"))
    assert torch.equal(layer.dense_weight(), other.weight)
