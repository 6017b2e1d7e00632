"""SPVCNN: published size, its Spec, and how it treats voxels and clouds."""

import json

import pytest
import torch
from torch import nn

from pcsparse import SparseTensor, cat
from pcsparse.coords import cache as cache_module
from pcsparse.errors import FormatError, RangeError
from pcsparse.models import SPVCNN, MinkUNet, MinkUNetSpec, SPVCNNSpec
from pcsparse.nn import Linear, fuse, prepare
from pcsparse.train.model_file import arch_of, build_arch
from tests.clouds import CLOUDS, TWO_BATCHES, UNSORTED

SPEC = SPVCNNSpec(MinkUNetSpec.minkunet14(3, 5, width=1 / 8))


def _network(spec: SPVCNNSpec = SPEC) -> SPVCNN:
    torch.manual_seed(0)
    model = SPVCNN(spec).double()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return model.eval()


def _input(rng, cloud=UNSORTED) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), 3, generator=rng, dtype=torch.float64)
    return SparseTensor(feats, cloud.coords, batch_size=cloud.batch_size)


def test_the_published_size():
    # the paper says 21.8 M; by hand 54,688 of them are the points': weights, biases, scales and shifts
    with torch.device("meta"):
        model = SPVCNN(SPVCNNSpec.spvcnn18())
        unet = MinkUNet(MinkUNetSpec.minkunet18())
    points = sum(c_in * c_out + 3 * c_out for c_in, c_out in ((32, 256), (256, 128), (128, 96)))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, unet)]
    assert sizes == [21_778_003, 21_778_003 - points]
    layers = [part for part in model.points.modules() if isinstance(part, Linear)]
    assert [(part.in_features, part.out_features) for part in layers] == [(32, 256), (256, 128), (128, 96)]


def _interpolated(level: SparseTensor, voxel: list[int]) -> torch.Tensor:
    """Features of a level at a voxel of the input, from the definition."""
    span, total, sums = level.stride[0], 0.0, torch.zeros(level.feats.shape[1]).double()
    for (cloud, *cell), row in zip(level.coords.tolist(), level.feats, strict=True):
        weight = float(cloud == voxel[0])
        for at, place in zip(cell, voxel[1:], strict=True):
            weight *= max(0.0, 1.0 - abs(at * span - place) / span)
        total, sums = total + weight, sums + weight * row
    return sums / total


def test_branches_meet_as_in_the_paper(rng):
    model, x = _network(), _input(rng, TWO_BATCHES)
    unet, voxels = model.unet, x.coords.tolist()

    def to_points(level):
        return torch.stack([_interpolated(level, voxel) for voxel in voxels])

    def to_voxels(points, level):
        cells = [[b, *(i // level.stride[0] for i in cell)] for b, *cell in voxels]
        places = [[i for i, found in enumerate(cells) if found == cell] for cell in level.coords.tolist()]
        return level.replace(torch.stack([points[mine].mean(dim=0) for mine in places]))

    def layer(i, points):
        linear, norm = model.points[i]
        out = points @ linear.weight.T + linear.bias
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        return ((out - norm.running_mean) * scale + norm.bias).clamp(min=0)

    with torch.no_grad():
        x0 = unet.stem(x)
        levels = [x0]
        for i in range(4):
            levels.append(unet.encoder[i](unet.down[i](levels[-1])))
        x0, x1, x2, x3, x4 = levels
        z1 = to_points(x4) + layer(0, x0.feats)
        y1 = unet.decoder[0](cat([unet.up[0](to_voxels(z1, x4)), x3]))
        y2 = unet.decoder[1](cat([unet.up[1](y1), x2]))
        z2 = to_points(y2) + layer(1, z1)
        y3 = unet.decoder[2](cat([unet.up[2](to_voxels(z2, y2)), x1]))
        y4 = unet.decoder[3](cat([unet.up[3](y3), x0]))
        expected = unet.classifier(x.replace(y4.feats + layer(2, z2))).feats
        out = model(x)
    torch.testing.assert_close(out.feats, expected)
    assert out.coords is x.coords


def test_the_order_of_voxels_does_not_matter(rng):
    model, x = _network(), _input(rng)
    order = torch.randperm(len(x), generator=rng)
    other = SparseTensor(x.feats[order], x.coords[order])
    torch.testing.assert_close(model(other).feats, model(x).feats[order])


def test_a_step_by_whole_coarse_voxels_changes_nothing_but_coordinates(rng):
    model, x = _network(), _input(rng)
    moved = SparseTensor(x.feats, x.coords + x.coords.new_tensor([0, 16, -32, 48]))
    torch.testing.assert_close(model(moved).feats, model(x).feats)


def test_a_batch_is_its_clouds(rng):
    model, x = _network(), _input(rng, TWO_BATCHES)
    out = model(x)
    for cloud in range(2):
        torch.testing.assert_close(model(x[cloud]).feats, out[cloud].feats)


@pytest.mark.parametrize("name", ["empty", "one", "empty-between"])
@pytest.mark.parametrize("training", [True, False])
def test_hardly_any_voxel(rng, name, training):
    model = _network().train(training)
    out = model(_input(rng, CLOUDS[name]))
    out.feats.square().sum().backward()
    assert out.feats.shape == (len(CLOUDS[name].coords), 5)
    assert bool(out.feats.isfinite().all())


def test_prepare_builds_every_map(rng, monkeypatch):
    model, x = _network(), _input(rng)
    expected = model(_input(torch.Generator().manual_seed(0)).replace(x.feats)).feats
    prepare(model, x)

    def no_more(*arguments, **options):
        raise AssertionError("forward built something that prepare had not")

    for name in ("build_kernel_map", "strided_levels", "build_corner_map"):
        monkeypatch.setattr(cache_module, name, no_more)
    assert torch.equal(model(x).feats, expected)


def test_fused_it_computes_the_same(rng):
    model, x = _network(), _input(rng)
    torch.testing.assert_close(fuse(model)(x).feats, model(x).feats)


def test_one_small_batch_is_learnt_by_heart():
    torch.manual_seed(0)
    model = SPVCNN(SPVCNNSpec(MinkUNetSpec.minkunet14(3, 4, width=1 / 4), dropout=0.0))
    x = SparseTensor(torch.randn(len(TWO_BATCHES.coords), 3), TWO_BATCHES.coords, batch_size=2)
    target = torch.arange(len(x)) % 4
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(13):
        loss = nn.functional.cross_entropy(model(x).feats, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    assert all(bool(parameter.grad.any()) for parameter in model.points.parameters())


def test_a_spec_and_a_checkpoint_come_back(rng):
    spec = SPVCNNSpec.spvcnn18(width=0.25).with_classes(7)
    assert spec.n_classes == 7
    assert SPVCNNSpec.from_json(spec.to_json()) == spec
    for text in ("{}", "[]", '{"unet": {}, "dropout": 0.1}', '{"unet": 3}'):
        with pytest.raises(FormatError, match="not an SPVCNNSpec"):
            SPVCNNSpec.from_json(text)
    model, x = _network(), _input(rng)
    again = build_arch(json.loads(json.dumps(arch_of(model, 5)))).double().eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(x).feats, model(x).feats)


def test_a_spec_takes_other_channels_and_offsets(rng):
    slim = SPEC.with_channels({"unet.stem.2": (4, 3), "points.0.0": (3, 32), "unet.down.0.0": (3, 4)})
    assert slim.points[0] == (3, 32)
    assert slim.unet.stem[1].c_out == 3
    sparser = SPEC.with_offsets({"unet.stem.0": (4, 13, 22)})
    assert _network(sparser).unet.stem[0].weight.shape[0] == 3
    for name in ("stem.0", "points.3.0", "unet.stem.1"):
        with pytest.raises(RangeError, match=r"has no layer .*(stem|points)"):
            SPEC.with_channels({name: (4, 4)})
    with pytest.raises(RangeError, match="has no layer"):
        SPEC.with_offsets({"points.0.0": (0,)})
