"""Linear layers in EIE's format as operators: against dense products, dtypes, shapes, compiled graphs."""

from dataclasses import replace

import pytest
import torch
import torch.fx.experimental.proxy_tensor

from pcsparse.errors import DeviceError, DtypeError, FormatError, RangeError, ShapeError, UnsupportedError
from pcsparse.ops.packed_linear import EIELayout, eie_chip_linear, eie_layout, eie_linear
from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie
from tests.packed.test_eie import codebook, random_codes
from tests.tolerance import tolerance


def matrix_of(rng, n_out=70, n_in=50, density=0.2, widths=None) -> EIEMatrix:
    widths = widths or EIEFormat(n_pe=8)
    codes = random_codes(rng, n_out, n_in, density, widths.code_bits)
    return pack_eie(codes, codebook(widths.code_bits), widths)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    "widths",
    [EIEFormat(), EIEFormat(1), EIEFormat(3, code_bits=8, index_bits=5), EIEFormat(4, pointer_bits=5)],
    ids=["chip", "one PE", "bytes", "batches"],
)
@pytest.mark.parametrize("product", ["by columns", "by rows", "chip layout"])
def test_products_are_those_of_the_dense_matrix(product, widths, relu, rng):
    matrix = matrix_of(rng, widths=widths)
    x = torch.randn(4, 50, generator=rng).relu()
    bias = torch.randn(70, generator=rng)
    if product.startswith("by"):
        found = eie_linear(x, eie_layout(matrix, by_rows=product == "by rows"), bias, relu=relu)
    else:
        found = eie_chip_linear(x, matrix, bias, relu=relu)
    expected = torch.nn.functional.linear(x.double(), matrix.to_dense().double(), bias.double())
    expected = expected.relu() if relu else expected
    torch.testing.assert_close(found.double(), expected, **tolerance(torch.float32, 50))


@pytest.mark.parametrize("widths", [EIEFormat(8), EIEFormat(3, code_bits=8)], ids=["chip", "bytes"])
def test_a_gpu_has_the_same_products(widths, rng, gpu_or_emulated):
    matrix = matrix_of(rng, widths=widths)
    x, bias = torch.randn(2, 50, generator=rng).relu(), torch.randn(70, generator=rng)
    expected = torch.nn.functional.linear(x.double(), matrix.to_dense().double(), bias.double()).relu()
    x, bias = x.to(gpu_or_emulated), bias.to(gpu_or_emulated)
    for by_rows in (False, True):
        found = eie_linear(x, eie_layout(matrix, gpu_or_emulated, by_rows=by_rows), bias, relu=True)
        torch.testing.assert_close(found.cpu().double(), expected, **tolerance(torch.float32, 50))
    found = eie_chip_linear(x, matrix.to(gpu_or_emulated), bias, relu=True)
    torch.testing.assert_close(found.cpu().double(), expected, **tolerance(torch.float32, 50))


def test_a_matrix_is_checked_once_wherever_it_is(rng, monkeypatch):
    matrix = matrix_of(rng)
    wrong = replace(matrix, skips=torch.full_like(matrix.skips, 15))
    with pytest.raises(FormatError, match="no EIE matrix"):
        wrong.checked()
    monkeypatch.setattr("pcsparse.packed.eie._problems", lambda _: iter(["asked again"]))
    with pytest.raises(FormatError, match="an entry lies in row"):
        wrong.to("meta").checked()
    assert matrix.to("meta").checked().codes.is_meta
    assert matrix.to("cpu") is matrix


@pytest.mark.parametrize("by_rows", [False, True])
def test_an_item_has_the_same_bits_in_any_batch(by_rows, rng):
    layout = eie_layout(matrix_of(rng), by_rows=by_rows)
    x = torch.randn(5, 50, generator=rng).relu()
    together = eie_linear(x, layout)
    for item, expected in zip(x, together, strict=True):
        assert torch.equal(eie_linear(item[None], layout)[0], expected)


def test_rows_of_a_wider_tensor_are_taken(rng):
    layout = eie_layout(matrix_of(rng))
    wide = torch.randn(3, 100, generator=rng)
    assert torch.equal(eie_linear(wide[:, ::2], layout), eie_linear(wide[:, ::2].contiguous(), layout))


@pytest.mark.parametrize("by_rows", [False, True])
def test_the_operator_is_one_node_of_a_compiled_graph(by_rows, rng):
    layout = eie_layout(matrix_of(rng), by_rows=by_rows)

    def call(x: torch.Tensor) -> torch.Tensor:
        return eie_linear(x, layout, relu=True) + 1

    x = torch.randn(2, 50, generator=rng)
    with torch.no_grad():
        compiled = torch.compile(call, fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), call(x))


def test_shapes_of_the_fake_kernel_are_the_real_ones(rng):
    layout = eie_layout(matrix_of(rng))
    arguments = (torch.randn(2, 50, generator=rng), layout.tensors, False, None, layout.n_out, True)
    torch.library.opcheck(torch.ops.pcsparse.eie_linear.default, arguments, test_utils="test_faketensor")


def test_the_layout_takes_no_more_than_two_bytes_a_weight(rng):
    matrix = matrix_of(rng, 2000, 400, 0.1)
    n_weights = matrix.n_entries - matrix.n_pads
    assert 1.5 * n_weights < eie_layout(matrix).n_bytes < 2 * n_weights + 4 * 401 + 200
    by_rows = eie_layout(matrix, by_rows=True)
    assert 1.5 * n_weights < by_rows.n_bytes < 2.1 * n_weights + 4 * 2001 + 200


@pytest.mark.parametrize("product", ["cpu layout", "chip layout"])
def test_wrong_input_is_refused(product, rng):
    matrix = matrix_of(rng)

    def call(x, bias=None):
        if product == "cpu layout":
            return eie_linear(x, eie_layout(matrix), bias)
        return eie_chip_linear(x, matrix, bias)

    with pytest.raises(ShapeError, match=r"x must have shape \(\*, 50\), got \(2, 49\)"):
        call(torch.zeros(2, 49))
    with pytest.raises(ShapeError, match="x must have shape"):
        call(torch.zeros(50))
    with pytest.raises(DtypeError, match="x must be float32, got float64"):
        call(torch.zeros(2, 50, dtype=torch.float64))
    with pytest.raises(ShapeError, match=r"bias must have shape \(70\)"):
        call(torch.zeros(2, 50), torch.zeros(71))
    with pytest.raises(DtypeError, match="bias must be float32"):
        call(torch.zeros(2, 50), torch.zeros(70, dtype=torch.float16))
    with pytest.raises(DeviceError, match="share one device"):
        call(torch.zeros(2, 50, device="meta"))


def test_a_traced_product_is_one_node(rng):
    layout = eie_layout(matrix_of(rng))
    x = torch.randn(1, 50, generator=rng)
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: eie_linear(x, layout))(x)
    assert [str(node.target) for node in graph.graph.nodes if node.op == "call_function"] == [
        "pcsparse.eie_linear.default"
    ]
    assert torch.equal(graph(x), eie_linear(x, layout))


def test_a_matrix_that_is_none_is_refused_before_a_kernel_follows_it(rng):
    matrix = matrix_of(rng)
    wrong = replace(matrix, skips=torch.full_like(matrix.skips, 15))
    with pytest.raises(FormatError, match="no EIE matrix: an entry lies in row"):
        eie_chip_linear(torch.zeros(1, 50), wrong)
    with pytest.raises(FormatError, match="no EIE matrix"):
        eie_layout(wrong)
    trailing = pack_eie(torch.tensor([[3]], dtype=torch.uint8), codebook(), EIEFormat(1))
    padded = replace(
        trailing,
        n_out=40,
        codes=torch.tensor([3, 0], dtype=torch.uint8),
        skips=torch.tensor([0, 15], dtype=torch.uint8),
        pointers=torch.tensor([[0, 2]], dtype=torch.int32),
    )
    with pytest.raises(FormatError, match="not in its one form"):
        padded.checked()


@pytest.mark.parametrize("name", ["entries", "rows", "columns"])
def test_sizes_that_32_bits_do_not_hold_are_refused_before_any_work(name, rng):
    matrix, size = matrix_of(rng), 2**31
    wide = {
        "entries": replace(matrix, codes=matrix.codes[:1].expand(size)),
        "rows": replace(matrix, n_out=size),
        "columns": replace(matrix, n_in=size),
    }[name]

    with pytest.raises(RangeError, match=f"at most {size - 65} {name}, got {size}; split the layer"):
        eie_layout(wide)


def test_gradients_are_refused_before_any_work(rng):
    layout = eie_layout(matrix_of(rng))
    with pytest.raises(UnsupportedError, match="no gradients"):
        eie_chip_linear(torch.zeros(1, 50, requires_grad=True), matrix_of(rng))
    with pytest.raises(UnsupportedError, match=r"no gradients.*train_centroids"):
        eie_linear(torch.zeros(1, 50, requires_grad=True), layout)
    with torch.no_grad():
        assert eie_linear(torch.zeros(1, 50, requires_grad=True), layout).shape == (1, 70)


def test_a_layout_knows_its_sizes(rng):
    layout = eie_layout(matrix_of(rng))
    assert isinstance(layout, EIELayout)
    assert (layout.n_out, layout.n_in) == (70, 50)
