"""The backbone of SECOND against dense convolutions of torch over OpenPCDet's own axes and paddings."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pcsparse.errors import FormatError, RangeError
from pcsparse.models import SecondBackbone, SecondSpec
from pcsparse.models.minkunet import ConvSpec
from pcsparse.nn import BatchNorm, fuse
from pcsparse.sparse_tensor import SparseTensor
from tests.tolerance import tolerance

# odd and even sizes, so that some levels end within a stride
GRID = (13, 10, 24)
EPS = 1e-3


def backbone(*, residual: bool) -> SecondBackbone:
    torch.manual_seed(0)
    make = SecondSpec.residual_voxel if residual else SecondSpec.voxel
    model = SecondBackbone(make(3, GRID, width=0.25)).double().eval()
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    return model


def cloud(rng: torch.Generator, batch: int = 2) -> SparseTensor:
    x, y, z = GRID
    occupied = torch.rand(batch, x, y, z, generator=rng) < 0.04
    # the corners, where a border is missed first
    occupied[0, [0, -1], [0, -1], [0, -1]] = True
    coords = occupied.nonzero().int()
    return SparseTensor(torch.randn(len(coords), 3, generator=rng).double(), coords, batch_size=batch)


class Dense:
    """OpenPCDet's layer table with `conv3d` on (z, y, x) grids; features are zero where no voxel is."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def conv(self, grid, mask, name, size, stride=1, padding=1, bias=None, residual=None):
        weight = self.state[f"{name}.weight"]
        kz, ky, kx = size
        kernel = weight.reshape(kx, ky, kz, *weight.shape[1:]).permute(4, 3, 2, 1, 0)
        if stride != 1:
            ones = torch.ones(1, 1, *size).double()
            mask = (functional.conv3d(mask, ones, stride=stride, padding=padding) > 0).double()
        return functional.conv3d(grid, kernel, stride=stride, padding=padding) * mask, mask

    def norm(self, grid, mask, name, relu=True, residual=0.0):
        s = self.state
        found = functional.batch_norm(
            grid, s[f"{name}.running_mean"], s[f"{name}.running_var"], s[f"{name}.weight"], s[f"{name}.bias"],
            eps=EPS,
        )  # fmt: skip
        found = found + residual
        return (found.relu() if relu else found) * mask

    def layer(self, grid, mask, name, size=(3, 3, 3), stride=1, padding=1):
        grid, mask = self.conv(grid, mask, f"{name}.0", size, stride, padding)
        return self.norm(grid, mask, f"{name}.1"), mask

    def block(self, grid, mask, name):
        y, _ = self.conv(grid, mask, f"{name}.conv1", (3, 3, 3))
        y = self.norm(y, mask, f"{name}.norm1")
        y, _ = self.conv(y, mask, f"{name}.conv2", (3, 3, 3))
        return self.norm(y, mask, f"{name}.norm2", residual=grid), mask

    def __call__(self, x: SparseTensor, *, residual: bool) -> torch.Tensor:
        gx, gy, gz = GRID
        grid = torch.zeros(x.batch_size, x.feats.shape[1], gz + 1, gy, gx).double()
        mask = torch.zeros(x.batch_size, 1, gz + 1, gy, gx).double()
        b, cx, cy, cz = x.coords.long().unbind(1)
        cells = (b[:, None], torch.arange(x.feats.shape[1]), cz[:, None], cy[:, None], cx[:, None])
        grid = grid.index_put(cells, x.feats)
        mask[b, 0, cz, cy, cx] = 1.0
        grid, mask = self.layer(grid, mask, "conv_input")
        same = self.block if residual else self.layer
        counts = (2, 2, 2, 2) if residual else (1, 2, 2, 2)
        for stage, count in enumerate(counts, start=1):
            first = 0
            if stage > 1:
                padding = (0, 1, 1) if stage == 4 else 1
                grid, mask = self.layer(grid, mask, f"conv{stage}.0", stride=2, padding=padding)
                first = 1
            for i in range(first, first + count):
                grid, mask = same(grid, mask, f"conv{stage}.{i}")
        grid, mask = self.layer(grid, mask, "conv_out", (3, 1, 1), (2, 1, 1), 0)
        # HeightCompression
        return grid.flatten(1, 2)


@pytest.mark.parametrize("residual", [False, True], ids=["voxel", "residual"])
def test_it_equals_dense_convolutions(device, rng, residual):
    model, x = backbone(residual=residual), cloud(rng)
    expected = Dense(model.state_dict())(x, residual=residual)
    assert expected.shape == (2, model.spec.bev_channels, *reversed(model.spec.shapes[-1][:2]))
    found = model.to(device)(x.to(device)).cpu()
    torch.testing.assert_close(found, expected, **tolerance(torch.float64, 2000))
    assert float(expected.abs().max()) > 0.1


def test_gradients_equal_those_of_dense_convolutions(rng):
    model, x = backbone(residual=True), cloud(rng, 1)
    weights = {name: p for name, p in model.named_parameters() if p.dim() == 3}
    out = model(x)
    pull = torch.randn(out.shape, generator=rng).double()
    found = torch.autograd.grad(out, list(weights.values()), pull)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    for name in weights:
        state[name].requires_grad_()
    dense = torch.autograd.grad(Dense(state)(x, residual=True), [state[name] for name in weights], pull)
    for mine, theirs in zip(found, dense, strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance(torch.float64, 10_000, factor=100.0))


def test_fused_it_gives_the_same(device, rng):
    for residual in (False, True):
        model, x = backbone(residual=residual).to(device), cloud(rng).to(device)
        fused = fuse(model)
        assert not any(isinstance(module, BatchNorm) for module in fused.modules())
        torch.testing.assert_close(fused(x), model(x), **tolerance(torch.float64, 2000))


def test_the_published_sizes():
    voxel, residual = SecondSpec.voxel(), SecondSpec.residual_voxel()
    assert voxel.shapes == (
        (1440, 1440, 41), (720, 720, 21), (360, 360, 11), (180, 180, 5), (180, 180, 2),
    )  # fmt: skip
    assert voxel.bev_channels == residual.bev_channels == 256
    # by hand from the layer table: 27 offsets, both norms' scale and shift
    plain = 27 * (5 * 16 + 16 * 16 + 16 * 32 + 2 * 32 * 32 + 32 * 64 + 2 * 64 * 64 + 64 * 64 + 2 * 64 * 64)
    plain += 3 * 64 * 128 + 2 * (2 * 16 + 3 * 32 + 6 * 64 + 128)
    assert sum(p.numel() for p in SecondBackbone(voxel).parameters()) == plain
    assert SecondBackbone(residual).conv4[2].conv2.weight.shape == (27, 128, 128)


def test_json_round_trip():
    for spec in (SecondSpec.voxel(), SecondSpec.residual_voxel(4, (64, 48, 40), 0.5)):
        assert SecondSpec.from_json(spec.to_json()) == spec
    sparse = replace(SecondSpec.voxel(), stem=ConvSpec(5, 16, offsets=(1, 13, 25)))
    again = SecondSpec.from_json(sparse.to_json())
    assert again == sparse
    assert SecondBackbone(again).conv_input[0].weight.shape == (3, 5, 16)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", SecondSpec.voxel().to_json().replace("false", '"no"'),
             json.dumps(json.loads(SecondSpec.voxel().to_json()) | {"grid": [3, 4]})],
)  # fmt: skip
def test_text_that_is_no_spec(text):
    with pytest.raises(FormatError, match="not a SecondSpec"):
        SecondSpec.from_json(text)


def test_what_it_refuses(rng):
    spec = SecondSpec.residual_voxel(3, GRID)
    with pytest.raises(RangeError, match=r"width=0\.01 leaves a layer of 0 channels"):
        SecondSpec.voxel(width=0.01)
    with pytest.raises(RangeError, match=r"a grid of \(8, 8, 20\) cells leaves \(1, 1, 0\) at the end"):
        SecondSpec.voxel(3, (8, 8, 20))
    first, second, *others = spec.stages
    wide = replace(spec, stages=(first, replace(second, down=ConvSpec(17, 32)), *others))
    with pytest.raises(RangeError, match="stage 2, down of the Spec reads 17 channels, but 16 arrive"):
        SecondBackbone(wide)
    odd = replace(spec, stages=(replace(first, convs=first.convs[:3]), second, *others))
    with pytest.raises(RangeError, match="stage 1 of the Spec: residual blocks take convolutions by twos"):
        SecondBackbone(odd)
    with pytest.raises(RangeError, match="has 3"):
        SecondBackbone(replace(spec, stages=spec.stages[:3]))
    with pytest.raises(RangeError, match="set voxels to None"):
        SecondBackbone(replace(spec, stem=ConvSpec(3, 16, voxels=0.5)))
    x = cloud(rng, 1)
    outside = SparseTensor(x.feats, x.coords + torch.tensor([0, 0, 1, 0], dtype=torch.int32), batch_size=1)
    with pytest.raises(RangeError, match=r"do not lie within the grid of \(13, 10, 24\) cells"):
        backbone(residual=False)(outside)


def test_no_voxels_give_an_empty_map():
    model = backbone(residual=True)
    x = SparseTensor(torch.zeros(0, 3).double(), torch.zeros(0, 4, dtype=torch.int32), batch_size=2)
    bev = model(x)
    assert bev.shape == (2, model.spec.bev_channels, 2, 2)
    assert not bev.any()


def test_the_least_height_is_the_one_that_the_message_names():
    for height in (22, 23):
        with pytest.raises(RangeError, match="at least 24 along z"):
            SecondBackbone(SecondSpec.voxel(grid=(8, 8, height)))
    assert SecondSpec.voxel(grid=(8, 8, 24)).shapes[-1] == (1, 1, 1)
    SecondBackbone(SecondSpec.voxel(grid=(8, 8, 24)))
