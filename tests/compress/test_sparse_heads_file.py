"""Packed layers of a model on disk: round trips, bytes, every way a file and a model can disagree."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from pcsparse.compress import sparse_heads_file
from pcsparse.compress.heads import EIESettings, load_heads, save_heads, sparsify_heads
from pcsparse.errors import FormatError, RangeError
from pcsparse.nn import EIELinear, LinearConv2d
from pcsparse.packed.eie_file import save_eie
from tests.compress.sparse_heads_cases import BevNet, bev, mlp

METHODS = [EIESettings(0.3), "2:4"]


def mixed(seed: int = 0) -> nn.ModuleDict:
    """Linear layers and convolutions, with and without bias, one of them in two places."""
    torch.manual_seed(seed)
    net = nn.ModuleDict(
        {
            "fc": nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4, bias=False)),
            "same": nn.Conv2d(4, 6, (3, 2), padding="same", dilation=(1, 2)),
            "again": nn.ModuleList([nn.Linear(4, 4)]),
        }
    )
    net["last"] = net["again"][0]
    return net


def _equal(one: nn.Module, other: nn.Module) -> bool:
    state, other_state = one.state_dict(), other.state_dict()
    return list(state) == list(other_state) and all(torch.equal(state[k], other_state[k]) for k in state)


@pytest.mark.parametrize("with_huffman", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("build", [mixed, bev, mlp])
def test_every_bit_comes_back(tmp_path, build, method, with_huffman):
    model = build()
    sparsify_heads(model, method)
    path = tmp_path / "heads.safetensors"
    sizes = save_heads(model, path, with_huffman=with_huffman)
    fresh = build(1)
    # an optimiser or a backbone may hold what is not converted
    other = dict(fresh.named_parameters())
    assert load_heads(fresh, path, mode="sparse") == tuple(sorted(sizes))
    for name in sizes:
        one, same = model.get_submodule(name), fresh.get_submodule(name)
        assert type(one) is type(same)
        assert _equal(one, same)
        assert same.mode == "sparse"
    assert all(other[name] is p for name, p in fresh.named_parameters())
    # as does a state dict, where a model is converted in the same way
    load_heads(fresh, path)
    fresh.load_state_dict(model.state_dict())
    assert _equal(fresh, model)


def test_a_layer_in_two_places_stays_one(tmp_path):
    model = mixed()
    sparsify_heads(model, "2:4")
    save_heads(model, tmp_path / "heads")
    fresh = mixed(1)
    load_heads(fresh, tmp_path / "heads")
    assert fresh["last"] is fresh["again"][0]
    apart = mixed(1)
    apart["last"] = copy.deepcopy(apart["last"])
    with pytest.raises(FormatError, match=r"names is \['again\.0', 'last'\], the model's is \['again\.0'\]"):
        load_heads(apart, tmp_path / "heads")


@pytest.mark.parametrize("with_huffman", [False, True])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_bytes_are_those_of_the_file(tmp_path, method, with_huffman):
    model = bev()
    report = sparsify_heads(model, method)
    path = tmp_path / "heads.safetensors"
    sizes = save_heads(model, path, with_huffman=with_huffman)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert sum(sizes.values()) == path.stat().st_size - 8 - header
    biases = sum(
        p.numel() * 4 for p in (m.bias for m in bev().modules() if isinstance(m, nn.Conv2d)) if p is not None
    )
    if method == "2:4":
        biases -= 8 * 4
        assert report.huffman_bytes is None
        assert report.file_bytes == sum(sizes.values()) - biases
        assert report.file_bytes == report.packed_bytes == report.dense_bytes * 17 // 32
    else:
        stored = report.huffman_bytes if with_huffman else report.file_bytes
        assert stored == sum(sizes.values()) - biases
    for layer in report.layers:
        weight = bev().get_submodule(layer.name).weight
        assert layer.dense_bytes == 4 * weight.numel()
        module = model.get_submodule(layer.name)
        state = {k: v for k, v in module.linear.state_dict().items() if k not in ("bias", "_extra_state")}
        assert layer.packed_bytes == sum(v.numel() * v.element_size() for v in state.values())
        assert f"{layer.file_bytes:,}" in str(report)


def test_a_relu_in_a_layer_is_stored(tmp_path):
    model = nn.Sequential(nn.Linear(8, 4))
    sparsify_heads(model, EIESettings(0.5))
    model[0].with_relu = True
    save_heads(model, tmp_path / "heads")
    fresh = nn.Sequential(nn.Linear(8, 4))
    load_heads(fresh, tmp_path / "heads")
    assert fresh[0].with_relu


def test_a_layer_keeps_what_it_knows_of_its_activations(tmp_path):
    model = mlp()
    sparsify_heads(model, METHODS[0])
    layers = [m for m in model.modules() if isinstance(m, EIELinear)]
    layers[0].skips_zeros = False
    save_heads(model, tmp_path / "heads.safetensors")
    fresh = mlp(1)
    load_heads(fresh, tmp_path / "heads.safetensors")
    assert [m.skips_zeros for m in fresh.modules() if isinstance(m, EIELinear)] == [
        False, *(layer.skips_zeros for layer in layers[1:])
    ]  # fmt: skip


def test_tensors_that_somebody_changed_are_not_written(tmp_path):
    model = mlp()
    sparsify_heads(model, METHODS[0])
    layer = next(m for m in model.modules() if isinstance(m, EIELinear))
    before = layer.skips.clone()
    layer.skips += 11
    with pytest.raises(FormatError, match="no EIE matrix"):
        save_heads(model, tmp_path / "heads.safetensors")
    layer.skips.copy_(before)
    layer.bias[0] = float("nan")
    with pytest.raises(RangeError, match="bias is not finite"):
        save_heads(model, tmp_path / "heads.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_default_dtype_changes_nothing(tmp_path, method):
    model, fresh = mlp(), mlp(1)
    x = torch.randn(3, next(m for m in model.modules() if isinstance(m, nn.Linear)).in_features)
    try:
        torch.set_default_dtype(torch.float64)
        sparsify_heads(model, method)
        save_heads(model, tmp_path / "heads.safetensors")
        load_heads(fresh, tmp_path / "heads.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), fresh.eval()(x))
    assert all(p.dtype == torch.float32 for p in fresh.buffers() if p.is_floating_point())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_damaged_file_is_refused(tmp_path, method):
    model = mixed()
    sparsify_heads(model, method)
    path = tmp_path / "heads"
    save_heads(model, path)
    content = path.read_bytes()
    fresh = mixed(1)
    before = copy.deepcopy(fresh)
    for at in range(0, len(content), 61):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x11]) + content[at + 1 :])
        with pytest.raises(FormatError):
            load_heads(fresh, path)
        path.write_bytes(content[:at])
        with pytest.raises(FormatError):
            load_heads(fresh, path)
    path.unlink()
    with pytest.raises(FormatError, match="cannot be read"):
        load_heads(fresh, path)
    assert _equal(fresh, before)


def test_other_files_are_refused(tmp_path, monkeypatch):
    model = mlp()
    sparsify_heads(model, "eie")
    save_eie({"0": model[0].matrix}, tmp_path / "eie")
    save_file({"a": torch.zeros(3)}, tmp_path / "plain")
    for name in ("eie", "plain"):
        with pytest.raises(FormatError, match="no whole safetensors file of packed layers"):
            load_heads(mlp(), tmp_path / name)
    monkeypatch.setattr(sparse_heads_file, "FILE_FORMAT", 2)
    save_heads(model, tmp_path / "later")
    monkeypatch.undo()
    with pytest.raises(
        FormatError, match="'pcsparse-heads' format 2; this version reads 'pcsparse-heads' format 1"
    ):
        load_heads(mlp(), tmp_path / "later")


class _Bev(BevNet):
    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.head[name] = layer


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (nn.Conv2d(16, 6, 1), "layer 'head.heat': out_channels is 5, the model's is 6"),
        (nn.Conv2d(16, 5, 1, bias=False), "layer 'head.heat': bias is True, the model's is False"),
        (nn.Conv2d(16, 5, 1, stride=2), r"layer 'head.heat': stride is \[1, 1\], the model's is \[2, 2\]"),
        (nn.Conv2d(16, 5, 3, padding=1), r"kernel_size is \[1, 1\], the model's is \[3, 3\]"),
        (nn.Conv2d(16, 5, 1, padding="same"), r"padding is \[0, 0\], the model's is same"),
        (nn.Linear(16, 5), "kind is Conv2d, the model's is Linear"),
        (nn.ReLU(), "layer 'head.heat': in the model it is a ReLU"),
        (nn.Conv2d(16, 5, 1, padding_mode="circular"), "padding_mode is zeros, the model's is circular"),
        (EIELinear(16, 5), "kind is Conv2d, the model's is Linear"),
    ],
)
def test_a_model_that_does_not_fit_is_left_alone(tmp_path, layer, text):
    model = bev()
    sparsify_heads(model, EIESettings(0.3))
    save_heads(model, tmp_path / "heads")
    other = _Bev("heat", layer)
    before = copy.deepcopy(other)
    with pytest.raises(FormatError, match=text):
        load_heads(other, tmp_path / "heads")
    assert type(other.stem) is nn.Conv2d
    assert _equal(other, before)


def test_names_that_the_model_lacks_are_refused(tmp_path):
    model = nn.ModuleDict({"head": nn.Linear(8, 4), "tail": nn.Linear(8, 4)})
    sparsify_heads(model, "2:4")
    save_heads(model, tmp_path / "heads")
    other = nn.ModuleDict({"head": nn.Linear(8, 4)})
    with pytest.raises(FormatError, match="has a layer 'tail', the model has none of this name"):
        load_heads(other, tmp_path / "heads")
    assert type(other["head"]) is nn.Linear


def test_content_that_is_no_layer_is_refused(tmp_path):
    model = nn.Sequential(nn.Linear(8, 4))
    sparsify_heads(model, "2:4")
    path = tmp_path / "heads"
    save_heads(model, path)
    tensors = load_file(path)
    good = {
        "format": "2:4",
        "numbers": {"n_out": 4, "n_in": 8},
        "with_relu": False,
        "geometry": {"kind": "Linear", "names": ["0"], "in_features": 8, "out_features": 4, "bias": True},
    }

    def write(entry, parts):
        sparse_heads_file.write_layers(path, "pcsparse-heads", 1, {"0": entry}, parts)

    write(good, tensors)
    load_heads(nn.Sequential(nn.Linear(8, 4)), path)
    for change, parts, text in [
        ({"format": "csr"}, tensors, "its format is 'csr', neither"),
        ({"numbers": {"n_out": 4}}, tensors, "n_in"),
        ({"numbers": {"n_out": 4, "n_in": 12}}, tensors, "values should be"),
        ({"geometry": 3}, tensors, "layer '0'"),
        ({}, {**tensors, "0/values": tensors["0/values"] * float("nan")}, "not finite"),
        ({}, {**tensors, "0/bias": torch.zeros(5)}, "bias must have shape"),
        ({}, {"0/values": tensors["0/values"]}, "positions"),
        ({}, {k: v for k, v in tensors.items() if k != "0/bias"}, "its bias is announced"),
        (
            {},
            {"0/values": torch.zeros(4, 2), "0/positions": tensors["0/positions"][:, :1]},
            "values should be",
        ),
        (
            {"numbers": {"n_out": 4, "n_in": 4}},
            {
                **tensors,
                "0/values": torch.zeros(4, 2),
                "0/positions": torch.full((4, 1), 4, dtype=torch.uint8),
            },
            "its matrix is 4 x 4, other than announced",
        ),
    ]:
        write({**good, **change}, parts)
        fresh = nn.Sequential(nn.Linear(8, 4))
        with pytest.raises(FormatError, match=text):
            load_heads(fresh, path)
        assert type(fresh[0]) is nn.Linear


def test_nothing_to_save_and_wrong_modes_are_refused(tmp_path):
    with pytest.raises(RangeError, match="no layers to save"):
        save_heads(mlp(), tmp_path / "heads")
    with pytest.raises(RangeError, match="mode must be one of"):
        load_heads(mlp(), tmp_path / "heads", mode="fast")
    assert not list(tmp_path.iterdir())


def test_a_layer_inside_a_convolution_is_no_layer_of_its_own(tmp_path):
    model = bev()
    sparsify_heads(model, EIESettings(0.5))
    assert set(save_heads(model, tmp_path / "heads")) == {"stem", "head.shared.0", "head.heat", "head.box"}
    assert isinstance(model.stem, LinearConv2d)


def test_a_layer_with_a_hook_is_not_replaced(tmp_path):
    model = mlp()
    sparsify_heads(model, METHODS[0])
    save_heads(model, tmp_path / "heads.safetensors")
    fresh = mlp(1)
    layer = next(m for m in fresh.modules() if isinstance(m, nn.Linear))
    handle = layer.register_forward_hook(lambda *_: None)
    with pytest.raises(FormatError, match="has hooks, which would be lost"):
        load_heads(fresh, tmp_path / "heads.safetensors")
    handle.remove()
    load_heads(fresh, tmp_path / "heads.safetensors")
