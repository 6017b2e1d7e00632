"""PointNet++: against loops, its published size, its Spec, batches, order of points, threads, learning."""

import copy
import itertools
import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcsparse.errors import DtypeError, FormatError, RangeError, ShapeError
from pcsparse.models import PointNet2, PointNet2Spec
from pcsparse.models.pointnet2 import AbstractionSpec, LayerSpec, ScaleSpec
from pcsparse.nn.point_set import BallQuery, FarthestPoints, NearestNeighbours, PointSet, SetAbstraction

LayersOf = tuple[LayerSpec, ...]


def _chain(*widths: int) -> LayersOf:
    return tuple(LayerSpec(a, b) for a, b in itertools.pairwise(widths))


def _small(task: str, in_channels: int = 2) -> PointNet2Spec:
    levels = (
        AbstractionSpec(24, (
            ScaleSpec(0.4, 6, _chain(3 + in_channels, 6, 8)), ScaleSpec(0.8, 9, _chain(3 + in_channels, 7)),
        )),
        AbstractionSpec(7, (ScaleSpec(1.0, 8, _chain(18, 11)),)),
    )  # fmt: skip
    if task == "classification":
        return PointNet2Spec(in_channels, levels, _chain(14, 16), (), _chain(16, 12, 5))
    ways = _chain(11 + 15, 13), _chain(13 + in_channels, 9)
    return PointNet2Spec(in_channels, levels, (), ways, _chain(9, 8, 4))


def _network(task: str, in_channels: int = 2) -> PointNet2:
    torch.manual_seed(0)
    network = PointNet2(_small(task, in_channels))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def _cloud(rng, n: int, in_channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(n, 3, generator=rng) * 2 - 1, torch.randn(n, in_channels, generator=rng)


TASKS = ["classification", "segmentation"]
PUBLISHED = {
    # (c_in, c_out) of every layer, in order
    "classification": [
        (3, 64), (64, 64), (64, 128), (131, 128), (128, 128), (128, 256), (259, 256), (256, 512), (512, 1024),
        (1024, 512), (512, 256), (256, 40),
    ],
    "classification_msg": [
        (3, 32), (32, 32), (32, 64), (3, 64), (64, 64), (64, 128), (3, 64), (64, 96), (96, 128),
        (323, 64), (64, 64), (64, 128), (323, 128), (128, 128), (128, 256),
        (323, 128), (128, 128), (128, 256), (643, 256),
        (256, 512), (512, 1024), (1024, 512), (512, 256), (256, 40),
    ],
    "segmentation": [
        (3, 32), (32, 32), (32, 64), (67, 64), (64, 64), (64, 128), (131, 128), (128, 128), (128, 256),
        (259, 256), (256, 256), (256, 512), (768, 256), (256, 256), (384, 256), (256, 256), (320, 256),
        (256, 128), (128, 128), (128, 128), (128, 128), (128, 128), (128, 13),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "millions"), [("classification", 1.48), ("classification_msg", 1.75), ("segmentation", 0.97)]
)
def test_the_published_layers(name, millions):
    with torch.device("meta"):
        network = PointNet2(getattr(PointNet2Spec, name)())
    linears = [module for module in network.modules() if isinstance(module, nn.Linear)]

    assert [(layer.in_features, layer.out_features) for layer in linears] == PUBLISHED[name]
    # weight and bias, and scale and shift of a norm but after the last
    expected = sum(a * b + 3 * b for a, b in PUBLISHED[name]) - 2 * PUBLISHED[name][-1][1]
    assert sum(parameter.numel() for parameter in network.parameters()) == expected
    assert round(expected / 1e6, 2) == millions


def test_the_published_groups():
    ssg, msg, rooms = (
        getattr(PointNet2Spec, name)()
        for name in ("classification", "classification_msg", "segmentation")
    )  # fmt: skip

    def groups(spec):
        return [
            (level.n_samples, [(scale.radius, scale.limit) for scale in level.scales])
            for level in spec.abstractions
        ]

    assert groups(ssg) == [(512, [(0.2, 32)]), (128, [(0.4, 64)])]
    assert groups(msg) == [
        (512, [(0.1, 16), (0.2, 32), (0.4, 128)]), (128, [(0.2, 32), (0.4, 64), (0.8, 128)])
    ]  # fmt: skip
    assert groups(rooms) == [(1024, [(0.1, 32)]), (256, [(0.2, 32)]), (64, [(0.4, 32)]), (16, [(0.8, 32)])]
    assert (ssg.n_classes, rooms.n_classes) == (40, 13)
    # its code keeps 0.4 in the classifier of several scales, and half in the others
    assert [spec.dropout for spec in (ssg, msg, rooms)] == [0.5, 0.6, 0.5]


def test_the_head_is_of_plain_layers():
    network = PointNet2(_small("classification"))

    assert [type(layer) for layer in network.head if isinstance(layer, nn.Linear)] == [nn.Linear] * 2
    assert isinstance(network.head[1], nn.BatchNorm1d)


def test_set_abstraction_is_a_loop_over_groups(rng):
    points, feats = _cloud(rng, 60)
    level = _network("classification").abstractions[0]
    out = level(PointSet(points, torch.zeros(60, dtype=torch.int64), feats))

    chosen, far = [0], torch.full((60,), torch.inf)
    while len(chosen) < 24:
        far = torch.minimum(far, ((points - points[chosen[-1]]) ** 2).sum(dim=1))
        chosen.append(int(far.argmax()))
    assert torch.equal(out.points, points[chosen])
    for row, centre in zip(out.feats, points[chosen], strict=True):
        scales = []
        for (radius, limit), layers in zip(((0.4, 6), (0.8, 9)), level.layers, strict=True):
            distances = (points - centre).norm(dim=1)
            inside = [i for i in distances.argsort().tolist() if distances[i] < radius][:limit]
            x = torch.cat([points[inside] - centre, feats[inside]], dim=1)
            for layer in layers:
                linear, norm = layer
                x = functional.linear(x, linear.weight, linear.bias)
                x = functional.batch_norm(
                    x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
                ).relu()
            scales.append(x.amax(dim=0))
        torch.testing.assert_close(row, torch.cat(scales), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("in_channels", [0, 2])
def test_shapes(rng, task, in_channels):
    network = _network(task, in_channels)
    points, feats = _cloud(rng, 90, in_channels)
    batch = torch.arange(90) % 3
    logits = network(points, feats if in_channels else None, batch)

    assert logits.shape == ((3, 5) if task == "classification" else (90, 4))
    # one cloud, and one of fewer points than any level samples
    alone = network(points[:4], feats[:4] if in_channels else None)
    assert alone.shape == ((1, 5) if task == "classification" else (4, 4))
    assert bool(alone.isfinite().all())


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_of_two_is_two_batches_of_one(rng, task):
    network = _network(task)
    (points, feats), (more, more_feats) = _cloud(rng, 80), _cloud(rng, 65)
    batch = torch.cat([torch.zeros(80), torch.ones(65)]).long()
    # clouds mixed with each other, each in its own order
    mixed = _interleaved(80, 65)
    both = network(torch.cat([points, more])[mixed], torch.cat([feats, more_feats])[mixed], batch[mixed])
    apart = network(points, feats), network(more, more_feats)

    if task == "classification":
        torch.testing.assert_close(both, torch.cat(apart), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(both, torch.cat(apart)[mixed], rtol=1e-4, atol=1e-5)


def _interleaved(n: int, m: int) -> torch.Tensor:
    """Rows 0 to n - 1 and n to n + m - 1 in turn, each ascending."""
    places = torch.cat([torch.arange(n) * 2, torch.arange(m) * 2 + 1])
    return places.argsort()


@pytest.mark.parametrize("task", TASKS)
def test_the_order_of_points_does_not_matter_if_the_same_one_begins(rng, task):
    network = _network(task)
    points, feats = _cloud(rng, 100)
    shuffle = torch.randperm(100, generator=rng)
    begin = shuffle.argsort()[:1]
    logits, again = network(points, feats), network(points[shuffle], feats[shuffle], first=begin)

    torch.testing.assert_close(
        again, logits if task == "classification" else logits[shuffle], rtol=1e-4, atol=1e-5
    )
    assert begin != 0
    other = network(points[shuffle], feats[shuffle])
    assert not torch.allclose(other, again, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_all_gradients_flow(rng, task):
    network = _network(task).train().double()
    points, feats = _cloud(rng, 120)
    feats = feats.double().requires_grad_()
    logits = network(points, feats, torch.arange(120) % 4)
    logits.square().sum().backward()

    assert logits.dtype == torch.float64
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        # a bias before a norm moves nothing
        assert bool(parameter.grad.abs().max() > 1e-9) or name.endswith(".bias"), name
    assert bool(feats.grad.any())


def test_small_clouds_are_learnt_by_heart(rng):
    points, feats = _cloud(rng, 160)
    batch = torch.arange(160) // 20
    targets = torch.arange(8) % 5
    torch.manual_seed(0)
    network = PointNet2(replace(_small("classification"), dropout=0.0))
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-2)
    losses = []
    for _ in range(20):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(points, feats, batch), targets)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[0] > 1.0
    assert losses[-1] < 0.3


def test_hooks_see_every_mapping_operation_in_order(rng):
    network, seen = _network("segmentation"), []
    for module in network.modules():
        if isinstance(module, (FarthestPoints, BallQuery, NearestNeighbours, nn.Linear)):
            module.register_forward_hook(lambda module, inputs, output: seen.append((module, inputs, output)))
    points, feats = _cloud(rng, 90)
    network(points, feats)

    def described(module, inputs, output):
        if isinstance(module, FarthestPoints):
            return "fps", len(inputs[0]), len(output)
        if isinstance(module, nn.Linear):
            return "linear", len(inputs[0]), module.in_features, module.out_features
        kind = "ball" if isinstance(module, BallQuery) else "knn"
        return kind, len(inputs[0]), len(inputs[2]), output.rows.shape[1]

    assert [described(*call) for call in seen] == [
        ("fps", 90, 24), ("ball", 90, 24, 6), ("linear", 144, 5, 6), ("linear", 144, 6, 8),
        ("ball", 90, 24, 9), ("linear", 216, 5, 7), ("fps", 24, 7), ("ball", 24, 7, 8),
        ("linear", 56, 18, 11),
        ("knn", 7, 24, 3), ("linear", 24, 26, 13), ("knn", 24, 90, 3), ("linear", 90, 15, 9),
        ("linear", 90, 9, 8), ("linear", 90, 8, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "spec",
    [
        PointNet2Spec.classification(), PointNet2Spec.classification_msg(3, 10), PointNet2Spec.segmentation(),
        _small("segmentation"),
    ],
    ids=["ssg", "msg", "segmentation", "small"],
)  # fmt: skip
def test_json_round_trip(spec):
    again = PointNet2Spec.from_json(spec.to_json())

    assert again == spec
    assert hash(again) == hash(spec)
    assert json.loads(spec.to_json()) == json.loads(again.to_json())
    assert again.with_classes(3).n_classes == 3
    with pytest.raises(FrozenInstanceError):
        again.dropout = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "null",
        _small("segmentation").to_json().replace("pooled", "pool"),
        _small("segmentation").to_json().replace("c_in", "c_inn", 1),
        _small("segmentation").to_json().replace("0.4", "[]", 1),
    ],
)  # fmt: skip
def test_text_that_is_no_spec(text):
    with pytest.raises(FormatError, match="not a PointNet2Spec"):
        PointNet2Spec.from_json(text)


@pytest.mark.parametrize(
    ("part", "task"),
    [
        ("abstractions.0.1.0", "segmentation"), ("abstractions.1.0.0", "segmentation"),
        ("pooled.0", "classification"), ("propagations.1.0", "segmentation"), ("head.1", "classification"),
    ],
)  # fmt: skip
def test_widths_that_do_not_meet_are_named(part, task):
    data = json.loads(_small(task).to_json())
    where = data
    for name in part.split("."):
        # the names of a message leave out those of the fields in between
        where = where.get("scales", where.get("layers", where)) if isinstance(where, dict) else where
        where = where[int(name)] if name.isdigit() else where[name]
    where["c_in"] += 1
    with pytest.raises(RangeError, match=rf"{part} of the Spec reads \d+ channels, but \d+ arrive"):
        PointNet2(PointNet2Spec.from_json(json.dumps(data)))


def test_a_spec_takes_other_channels():
    spec = _small("classification")
    first = spec.abstractions[0].scales[0].layers
    # the head's linear layers stand between norms, ReLUs and dropouts
    last = f"head.{4 * len(spec.head) - 4}"
    slim = spec.with_channels({"abstractions.0.layers.0.0.0": (first[0].c_in, 2), last: (9, 5)})
    assert slim.abstractions[0].scales[0].layers == (LayerSpec(first[0].c_in, 2), *first[1:])
    assert slim.head == (*spec.head[:-1], LayerSpec(9, 5))
    points = _small("segmentation")
    slim = points.with_channels({f"head.{2 * len(points.head) - 2}": (9, 5)})
    assert slim.head == (*points.head[:-1], LayerSpec(9, 5))
    for other, name in ((spec, "head.1"), (spec, "propagations.0.layers.0.0"), (points, "pooled.layers.0.0")):
        with pytest.raises(RangeError, match=f"this PointNet2 has no layer {name}"):
            other.with_channels({name: (4, 4)})


def test_a_spec_for_both_tasks_or_none_is_refused():
    spec = _small("segmentation")
    for wrong in (
        replace(spec, propagations=()),
        replace(spec, pooled=_chain(14, 16)),
        replace(spec, head=()),
    ):
        with pytest.raises(RangeError, match="needs abstractions, a head, and either pooled layers"):
            PointNet2(wrong)
    with pytest.raises(RangeError, match="2 abstractions need as many propagations, the Spec has 1"):
        PointNet2(replace(spec, propagations=spec.propagations[:1]))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("task", TASKS)
def test_no_points(rng, task, training):
    network = _network(task).train(training)
    points, feats = _cloud(rng, 0)

    assert network(points, feats).shape == (0, network.spec.n_classes)
    if task == "classification":
        with pytest.raises(RangeError, match=r"clouds \[0, 1\] of 2 have no points to classify"):
            network(points, feats, clouds=2)


def test_levels_without_groups_or_layers_are_refused():
    spec = _small("classification")
    coarse = spec.abstractions[1]
    with pytest.raises(RangeError, match=r"abstractions.1 of the Spec has no scale"):
        PointNet2(replace(spec, abstractions=(spec.abstractions[0], replace(coarse, scales=()))))
    empty = replace(coarse, scales=(replace(coarse.scales[0], layers=()),))
    with pytest.raises(RangeError, match=r"abstractions.1.0 of the Spec has no layer"):
        PointNet2(replace(spec, abstractions=(spec.abstractions[0], empty)))


def test_inputs_that_are_refused(rng):
    network = _network("classification")
    points, feats = _cloud(rng, 9)
    with pytest.raises(RangeError, match="reads 2 features a point beside its place, got none"):
        network(points)
    with pytest.raises(ShapeError, match=r"feats must have shape \(9, 2\), got \(8, 2\)"):
        network(points, feats[:8])
    with pytest.raises(RangeError, match=r"clouds \[0, 2\] of 4 have no points to classify"):
        network(points, feats, torch.tensor([1] * 5 + [3] * 4))
    with pytest.raises(RangeError, match="clouds=1, but the batch has points of cloud 1"):
        network(points, feats, torch.arange(9) % 2, clouds=1)
    with pytest.raises(DtypeError, match="batch must be int32, int64"):
        network(points, feats, torch.zeros(9))
    points[2, 0] = torch.nan
    with pytest.raises(RangeError, match="1 of 9 points are not finite"):
        network(points, feats)


def test_state_dict_round_trip(rng):
    network, (points, feats) = _network("segmentation"), _cloud(rng, 50)
    again = PointNet2(copy.deepcopy(network.spec)).eval()
    again.load_state_dict(network.state_dict())

    assert torch.equal(again(points, feats), network(points, feats))
    assert isinstance(again.abstractions[0], SetAbstraction)


_PROGRAM = """
import hashlib, json, sys
import torch
from pcsparse.models import PointNet2, PointNet2Spec

def digest(tensors):
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()[:16]

rng = torch.Generator().manual_seed(3)
points, batch = torch.rand(3000, 3, generator=rng) * 2 - 1, torch.arange(3000) % 5
answers = []
for threads in (1, 2, 4, 2):
    torch.set_num_threads(threads)
    found = {}
    for spec in (PointNet2Spec.classification(), PointNet2Spec.segmentation()):
        torch.manual_seed(0)
        network = PointNet2(spec)
        if spec.pooled:
            # torch's own layers follow, whose BLAS rounds as its threads divide the work
            network.head = torch.nn.Identity()
        out = network(points, batch=batch)
        out.square().mean().backward()
        name = "cloud" if spec.pooled else "point"
        found[name + " training"] = digest([out])
        found[name + " gradients"] = digest([parameter.grad for parameter in network.parameters()])
        found[name + " statistics"] = digest(network.buffers())
        with torch.no_grad():
            found[name + " evaluation"] = digest([network.eval()(points, batch=batch)])
    answers.append(found)
json.dump(answers, sys.stdout)
"""


@pytest.mark.slow
def test_bits_do_not_depend_on_the_threads():
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        env=os.environ | {"NUMBA_NUM_THREADS": "4", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, *others = json.loads(done.stdout)
    assert len(first) == 8
    assert others == [first] * 3
