"""PillarBEV against loops over points, its published sizes, and what it does with awkward clouds."""

import json
import math
from dataclasses import replace

import pytest
import torch

from pcsparse.coords.pillars import PillarGrid, to_pillars
from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError
from pcsparse.models import PillarBEV, PillarBEVSpec
from pcsparse.models.pillar_bev import BlockSpec2d

GRID = PillarGrid((-4.0, 4.0), (-2.0, 2.0), (-2.0, 2.0), 0.5)
SPEC = PillarBEVSpec.of(GRID, 5, channels=8, convs=(1, 2), head=(12, 8))


def cloud(rng: torch.Generator, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    half = torch.tensor([4.0, 2.0, 2.0])
    return (2 * torch.rand(n, 3, generator=rng) - 1) * half, torch.rand(n, generator=rng)


def network(spec: PillarBEVSpec = SPEC) -> PillarBEV:
    torch.manual_seed(0)
    model = PillarBEV(spec).eval()
    # statistics of a network that has seen something
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model


def test_points_are_described_as_in_the_paper(rng):
    points, intensity = cloud(rng, 120)
    pillars = to_pillars(points, GRID)
    described = network().pillars.describe(points, intensity, pillars)
    cells = [(math.floor((x + 4) / 0.5), math.floor((y + 2) / 0.5)) for x, y, _ in points.tolist()]
    for i, cell in enumerate(cells):
        mine = points[[j for j, other in enumerate(cells) if other == cell]].double().mean(dim=0)
        x, y, z = points[i].double().tolist()
        middle = (-4 + 0.5 * (cell[0] + 0.5), -2 + 0.5 * (cell[1] + 0.5))
        expected = [x, y, z, float(intensity[i]), *(points[i].double() - mine).tolist()]
        expected += [x - middle[0], y - middle[1]]
        torch.testing.assert_close(described[i].double(), torch.tensor(expected).double(), atol=1e-5, rtol=0)


def test_the_map_holds_each_pillars_maximum_and_zero_elsewhere(rng):
    points, intensity = cloud(rng, 150)
    batch = torch.randint(2, (150,), generator=rng) * 2
    model = network()
    canvas = model.scatter(points, intensity, batch, 3)
    pillars = to_pillars(points, GRID, batch=batch)
    layer = model.pillars
    # plain torch, so that what the layers of rows do is checked, too
    norm = torch.nn.functional.batch_norm(
        layer.describe(points, intensity, pillars) @ layer.linear.weight.T,
        layer.norm.running_mean, layer.norm.running_var, layer.norm.weight, layer.norm.bias, eps=1e-3,
    )  # fmt: skip
    rows = norm.relu()
    expected = torch.zeros(3, 8, 16, 8)
    for i, ((x, y, _), b) in enumerate(zip(points.tolist(), batch.tolist(), strict=True)):
        cell = expected[b, :, math.floor((x + 4) / 0.5), math.floor((y + 2) / 0.5)]
        cell.copy_(torch.maximum(cell, rows[i]))
    torch.testing.assert_close(canvas, expected)
    assert not canvas[1].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@torch.no_grad()
def test_a_network_of_another_dtype_takes_points_of_float32(rng, dtype):
    points, intensity = cloud(rng, 80)
    batch = torch.zeros(80, dtype=torch.int64)
    expected = network()(points, intensity, batch, 1)
    found = network().to(dtype)(points, intensity, batch, 1)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=0.05 * float(expected.abs().max()), rtol=0.05)


def test_clouds_of_a_batch_do_not_see_each_other(rng):
    model = network()
    first, second = cloud(rng, 80), cloud(rng, 50)
    batch = torch.tensor([0] * 80 + [1] * 50)
    # mixed, for the order of the points is nobody's business
    order = torch.randperm(130, generator=rng)
    points, intensity = (torch.cat(pair)[order] for pair in zip(first, second, strict=True))
    together = model(points, intensity, batch[order], 2)
    assert together.shape == (2, 5, 8, 4)
    for i, (p, r) in enumerate((first, second)):
        alone = model(p, r, torch.zeros(len(p), dtype=torch.int64), 1)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_step_along_the_grid_moves_the_logits(rng):
    """Pillars see absolute x and y by one weight each: without those, moving by whole cells moves the map."""
    spec = replace(SPEC, grid=PillarGrid((-16.0, 16.0), (-16.0, 16.0), (-2.0, 2.0), 0.5))
    model = network(spec)
    with torch.no_grad():
        model.pillars.linear.weight[:, :2] = 0
    points, intensity = cloud(rng, 100)
    batch = torch.zeros(100, dtype=torch.int64)
    here = model(points, intensity, batch, 1)
    # two strides of two, so four cells come back as two cells of the map
    there = model(points + torch.tensor([2.0, -4.0, 0.0]), intensity, batch, 1)
    torch.testing.assert_close(there[:, :, 8:24, 6:22], here[:, :, 6:22, 10:26], atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter_and_are_repeatable(rng):
    points, intensity = cloud(rng, 200)
    batch = torch.zeros(200, dtype=torch.int64)
    model = network().train()
    found = []
    for _ in range(2):
        model.zero_grad()
        model(points, intensity, batch, 1).square().mean().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(bool(grad.any()) for grad in found[0])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_published_network_has_the_published_layers():
    spec = PillarBEVSpec.pointpillars(n_classes=3)
    assert spec.grid.shape == (432, 496)
    assert spec.cells.shape == (216, 248)
    model = PillarBEV(spec)
    convs = [m for m in model.blocks.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convs] == [
        *[(64, 64, 2), *[(64, 64, 1)] * 3],
        *[(64, 128, 2), *[(128, 128, 1)] * 5],
        *[(128, 256, 2), *[(256, 256, 1)] * 5],
    ]
    ups = [m for m in model.up.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in ups] == [
        (64, 128, 1), (128, 128, 2), (256, 128, 4),
    ]  # fmt: skip


def test_a_spec_survives_json():
    for spec in (SPEC, PillarBEVSpec.pointpillars(), replace(SPEC, head=())):
        assert PillarBEVSpec.from_json(spec.to_json()) == spec
    assert SPEC.with_classes(7).n_classes == 7
    broken = json.loads(SPEC.to_json())
    del broken["blocks"][0]["c_up"]
    for text in (json.dumps(broken), "[]", "{", "3", json.dumps({**broken, "grid": None})):
        with pytest.raises(FormatError, match="not a PillarBEVSpec"):
            PillarBEVSpec.from_json(text)


def test_a_spec_of_one_width_a_block_is_read():
    older = json.loads(SPEC.to_json())
    for block in older["blocks"]:
        convs = block.pop("convs")
        block.update(c_out=convs[-1], n_convs=len(convs))
    assert PillarBEVSpec.from_json(json.dumps(older)) == SPEC


def test_a_spec_takes_other_channels():
    named = {
        "pillars.linear": (9, 6), "blocks.1.0": (8, 10), "up.0.0": (8, 12), "head.0": (28, 7),
        "head.6": (8, 5),
    }  # fmt: skip
    slim = SPEC.with_channels(named)
    assert slim.blocks == (BlockSpec2d(6, (8,), 2, 12), BlockSpec2d(8, (10, 16), 2, 16))
    assert (slim.head, slim.n_classes) == ((7, 8), 5)
    PillarBEV(slim)
    with pytest.raises(RangeError, match=r"has no layer blocks\.1\.6"):
        SPEC.with_channels({"blocks.1.6": (8, 8)})


def test_specs_that_do_not_fit_are_refused():
    first, second = SPEC.blocks
    with pytest.raises(RangeError, match=r"blocks\.1 of the Spec reads 9 channels, but 8 arrive"):
        PillarBEV(replace(SPEC, blocks=(first, replace(second, c_in=9))))
    with pytest.raises(RangeError, match="at least 1"):
        PillarBEV(replace(SPEC, head=(0,)))
    for blocks in ((), (first, replace(second, convs=()))):
        with pytest.raises(RangeError, match="at least one block, and a convolution in each"):
            PillarBEV(replace(SPEC, blocks=blocks))
    with pytest.raises(RangeError, match="16 x 8 cells has no coarser one by 3"):
        PillarBEV(replace(SPEC, blocks=(BlockSpec2d(8, (8,), 3, 8),)))


def test_points_that_the_grid_cannot_hold_are_not_dropped_silently(rng):
    model = network()
    points, intensity = cloud(rng, 10)
    batch = torch.zeros(10, dtype=torch.int64)
    points[3, 0] = 4.0
    with pytest.raises(RangeError, match=r"1 of 10 points lie outside .* row 3"):
        model(points, intensity, batch, 1)
    inside = GRID.inside(points)
    model(points[inside], intensity[inside], batch[inside], 1)


def test_awkward_inputs(rng):
    model = network()
    nothing = torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    logits = model(*nothing, 2)
    assert logits.shape == (2, 5, 8, 4)
    assert torch.equal(logits[0], logits[1])
    points, intensity = cloud(rng, 10)
    batch = torch.zeros(10, dtype=torch.int64)
    with pytest.raises(RangeError, match="batch must lie in 0 to 0, got 0 to 1"):
        model(points, intensity, torch.arange(10) // 5, 1)
    with pytest.raises(RangeError, match="n_clouds must be at least 1"):
        model(*nothing, 0)
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(RangeError, match="1 of 10 intensities are not finite"):
            model(points, torch.where(torch.arange(10) == 4, wrong, intensity), batch, 1)
    with pytest.raises(ShapeError, match="intensity"):
        model(points, intensity[:9], batch, 1)
    with pytest.raises(DtypeError, match="points"):
        model(points.double(), intensity, batch, 1)
