"""Sparse heads on small tasks: scores by hand, batches, the file's check, and a miniature run."""

import copy
import csv
import json
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from pcsparse.compress.heads import EIESettings, TwoFourSettings, save_heads, sparsify_heads
from pcsparse.coords.pillars import PillarGrid
from pcsparse.data.bev_labels import bev_targets
from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic.objects import Objects
from pcsparse.errors import FormatError, RangeError, ShapeError
from pcsparse.models import PillarBEVSpec, PointNet2, PointNet2Spec
from pcsparse.programs.sparse_heads import main
from pcsparse.programs.sparse_heads_objects import ObjectTask, in_unit_sphere, small_pointnet2
from pcsparse.programs.sparse_heads_run import FineTuning, check_file, run_head
from pcsparse.programs.sparse_heads_score import accuracy, gain
from pcsparse.programs.sparse_heads_streets import GROUPS, Ground, StreetTask, _group_table
from pcsparse.programs.sparse_heads_tasks import Batch, commonest_share, count_right, train


class Corners:
    """Four classes by the signs of two of eight numbers: learnt in a second."""

    name, classes, n_groups, n_batches, lr, head = "corners", ("a", "b", "c", "d"), 50, 6, 1e-2, "head"

    def __init__(self) -> None:
        self.x = torch.randn(242, 8, generator=torch.Generator().manual_seed(3))
        self.y = (self.x[:, 0] > 0) + 2 * (self.x[:, 1] > 0)

    def network(self) -> nn.Module:
        head = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
        return nn.Sequential(OrderedDict(body=nn.Linear(8, 16), act=nn.ReLU(), head=head))

    def train_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        for rows in torch.randperm(192, generator=generator).view(6, 32):
            yield Batch((self.x[rows],), self.y[rows], rows)

    def test_batches(self, size: int | None = None) -> Iterator[Batch]:
        for rows in torch.arange(192, 242).split(size or 20):
            yield Batch((self.x[rows],), self.y[rows], rows - 192)


def learnt(task: Corners) -> nn.Module:
    torch.manual_seed(0)
    model = task.network()
    train(model, task, 12, task.lr, seed=0)
    return model


def test_accuracy_is_counted_and_its_interval_covers_what_chance_gives():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        right = rng.random(200) < 0.8
        score = accuracy(torch.from_numpy(np.stack([right, np.ones(200)], 1).astype(np.int64)))
        assert score.value == pytest.approx(right.mean())
        assert 0.03 < score.high - score.value < 0.09
        covered += score.low <= 0.8 <= score.high
    assert covered >= 52
    # cells of one town are no independent samples: the interval is that of towns
    towns = torch.tensor([[90, 100], [50, 100], [0, 0], [99, 100], [61, 100]])
    assert accuracy(towns).value == pytest.approx(0.75)
    assert accuracy(towns).high - accuracy(towns).low > 0.2
    # groups that count nothing say nothing, and no draw holds only them
    sparse = torch.cat([towns, torch.zeros(50, 2, dtype=torch.int64)])
    assert accuracy(sparse) == accuracy(towns)
    assert str(accuracy(torch.tensor([[1, 2]]))) == "50.0 (50.0 to 50.0)"


def test_a_gain_is_paired():
    rng = np.random.default_rng(1)
    counted = np.ones(300, np.int64)
    before = rng.random(300) < 0.8
    after = before.copy()
    after[np.flatnonzero(~before)[:10]] = True
    first, second = (torch.from_numpy(np.stack([r.astype(np.int64), counted], 1)) for r in (before, after))
    found = gain(first, second)
    assert found.value == pytest.approx(10 / 300)
    # nothing got worse, so no draw loses; two independent intervals would overlap
    assert found.low > 0
    assert found.high < 0.06
    assert gain(first, first).high == 0
    with pytest.raises(ShapeError, match="after"):
        gain(first, second[:5])
    with pytest.raises(RangeError, match="no held-out item has a label"):
        accuracy(torch.zeros(3, 2, dtype=torch.int64))


def test_cells_without_a_label_do_not_count():
    class Cells(Corners):
        n_groups = 2

        def test_batches(self, size=None):
            targets = torch.tensor([[[0, 1], [-1, 2]], [[-1, -1], [0, 0]], [[1, -1], [-1, -1]]])
            yield Batch((torch.tensor([[[0, 0], [2, 2]]] * 3),), targets, torch.tensor([0, 1, 1]))

    class Told(nn.Module):
        def forward(self, wanted):
            return nn.functional.one_hot(wanted, 4).permute(0, 3, 1, 2).float()

    assert count_right(Told(), Cells()).tolist() == [[2, 3], [0, 3]]
    assert commonest_share(Cells()) == pytest.approx(3 / 6)


def test_dropout_draws_from_the_seed_and_from_nobody_else():
    task, found = Corners(), []
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 4))
    for before in (1, 2):
        torch.manual_seed(before)
        copied, state = copy.deepcopy(model), torch.get_rng_state()
        train(copied, task, 1, task.lr, seed=7)
        found.append(copied[0].weight)
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(*found)


def test_training_learns_and_is_repeatable():
    task = Corners()
    one, other = learnt(task), learnt(task)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    score = accuracy(count_right(one, task))
    assert score.value > 0.75
    assert commonest_share(task) < 0.5
    with_gaps = Corners()
    with_gaps.y[:96] = -1
    assert accuracy(count_right(learnt(with_gaps), task)).value > 0.6
    with pytest.raises(RangeError, match="corners: the loss is nan at step 0"):
        train(nn.Sequential(OrderedDict(head=nn.Linear(8, 4).requires_grad_())), _Broken(), 1, 0.1, 0)


class _Broken(Corners):
    def train_batches(self, generator):
        for batch in super().train_batches(generator):
            yield Batch((batch.inputs[0] * float("nan"),), batch.targets, batch.groups)


@pytest.mark.parametrize("method", [EIESettings(0.3), TwoFourSettings()], ids=["eie", "2:4"])
def test_a_head_runs_through_its_stages_and_its_file_is_read_back(method, tmp_path):
    task = Corners()
    model = learnt(task)
    before = copy.deepcopy(model.state_dict())
    found = run_head(task, model, method, FineTuning(4), tmp_path, timed_runs=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    stages = [stage.name for stage in found.report.stages]
    assert stages[:2] == ["dense", "dense, fine-tuned"]
    assert stages[-1] == "packed"
    assert len(found.scores) == len(stages)
    for stage, score in zip(found.report.stages, found.scores, strict=True):
        assert score.value == pytest.approx(stage.accuracy)
    assert found.score("dense") == accuracy(count_right(model, task))
    assert found.score("packed").value >= 0.75
    assert found.score("never") is None
    control = found.score("dense, fine-tuned")
    assert found.cost.value == pytest.approx(found.score("packed").value - control.value)
    assert found.file_bytes == found.file.stat().st_size
    assert (found.huffman_file_bytes is None) == (found.method == "2:4")
    assert set(found.products) == {"head.0", "head.3"}
    assert all(len(said) >= 1 for said in found.products.values())
    assert found.dense.median > 0
    assert found.packed.median > 0


def test_a_file_that_holds_another_head_is_found_out(tmp_path):
    task = Corners()
    model = learnt(task)
    other = copy.deepcopy(model)
    train(other, task, 1, 0.05, seed=5)
    for one in (model, other):
        sparsify_heads(one, EIESettings(0.3), heads=("head",))
    save_heads(other, tmp_path / "other.safetensors")
    with pytest.raises(FormatError, match="predicts otherwise"):
        check_file(task, model, tmp_path / "other.safetensors")
    save_heads(model, tmp_path / "own.safetensors")
    check_file(task, model, tmp_path / "own.safetensors")


def test_mirrored_sweeps_have_mirrored_labels(rng):
    grid = PillarGrid((-4.0, 4.0), (-4.0, 4.0), (-2.0, 2.0), 1.0)
    spec = PillarBEVSpec.of(grid, 3, channels=4, convs=(1,), head=())
    points = (torch.rand(60, 3, generator=rng) * 2 - 1) * torch.tensor([4.0, 4.0, 2.0])
    targets = torch.randint(-1, 3, (60,), generator=rng)
    ground = Ground(points, torch.rand(60, generator=rng), bev_targets(points, targets, spec.cells), 0)
    task = StreetTask(spec, ("a", "b", "c"), [ground] * 8, [ground], batch_size=4)
    seen = set()
    for batch in task.train_batches(torch.Generator().manual_seed(0)):
        mixed, intensity, clouds, n = batch.inputs
        assert n == 4
        for i in range(4):
            mine = mixed[clouds == i]
            assert torch.equal(mine.abs(), points.abs())
            assert torch.equal(intensity[clouds == i], ground.intensity)
            assert torch.equal(batch.targets[i], bev_targets(mine, targets, spec.cells))
            seen.add(tuple((mine[0, :2] / points[0, :2]).tolist()))
    assert len(seen) > 2
    (test,) = task.test_batches()
    assert torch.equal(test.inputs[0], points)
    assert task.n_groups == 1


def test_every_class_of_the_streets_has_a_group():
    names = LabelMap.load("synthetic").names
    table = _group_table(names)
    assert table[-1] == -1
    found = {name: list(GROUPS)[table[i]] for i, name in enumerate(names)}
    assert found["road"] == found["parking"] == "drivable"
    assert found["terrain"] == "other ground"
    assert found["person"] == found["truck"] == "traffic"
    assert sum(map(len, GROUPS.values())) == len(names)


@pytest.mark.parametrize(
    ("task", "network", "layers", "groups"),
    [
        ("streets", "PillarBEV", ["head.0", "head.3", "head.6"], 2),
        pytest.param("objects", "PointNet2", ["head.0", "head.4", "head.8"], 30, marks=pytest.mark.slow),
    ],
)
def test_a_quick_run_writes_its_figures_and_heads(task, network, layers, groups, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["--quick", "--tasks", task, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{network}: 1 epochs" in said
    assert "accuracy on held-out data" in said
    content = json.loads((out / "results.json").read_text())
    assert [(run["task"], run["method"]) for run in content["runs"]] == [(task, "eie"), (task, "2:4")]
    assert content["dense"][0]["groups"] == groups
    for run in content["runs"]:
        assert (out / run["file"]).stat().st_size == run["file_bytes"]
        assert len(run["scores"]) == len(run["report"]["stages"])
        assert [layer["name"] for layer in run["report"]["layers"]] == layers
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["eie", "2:4"]
    assert rows[0]["shared"] != ""
    assert rows[1]["shared"] == ""
    assert not list(tmp_path.rglob("*.tmp"))


def test_objects_are_turned_about_the_vertical_and_fill_the_unit_sphere(rng):
    points = torch.randn(8, 20, 3, generator=rng) * torch.tensor([3.0, 1.0, 0.5]) + 7
    intensity = torch.rand(8, 20, generator=rng)
    made = Objects(points.numpy(), intensity.numpy(), np.arange(8), np.ones(8, np.float32), np.full(8, 20))
    task = ObjectTask(small_pointnet2(8), made, made, batch_size=4)

    def clouds(batch: Batch) -> torch.Tensor:
        flat, feats, owners = batch.inputs
        # metres and intensity, which turn and mirror as the places do
        metres = feats[:, :3].view(-1, 20, 3) * 10
        assert torch.allclose(metres[..., 2], points[batch.targets][..., 2])
        assert torch.equal(feats[:, 3].view(-1, 20), intensity[batch.targets])
        assert torch.allclose(in_unit_sphere(metres), flat.view(-1, 20, 3), atol=0.011)
        assert torch.equal(owners, torch.arange(len(flat)) // 20)
        return flat.view(-1, 20, 3)

    (test,) = task.test_batches()
    assert torch.allclose(clouds(test).mean(dim=1), torch.zeros(8, 3), atol=1e-6)
    assert torch.allclose(clouds(test).norm(dim=2).amax(dim=1), torch.ones(8))
    batches = list(task.train_batches(torch.Generator().manual_seed(0)))
    assert sorted(torch.cat([batch.targets for batch in batches]).tolist()) == list(range(8))
    signs = set()
    for batch in batches:
        plain, turned = clouds(test)[batch.targets], clouds(batch)
        # heights and distances from the axis stay, to within the jitter
        assert torch.allclose(turned[..., 2], plain[..., 2], atol=0.011)
        assert torch.allclose(turned[..., :2].norm(dim=2), plain[..., :2].norm(dim=2), atol=0.015)
        way = torch.linalg.lstsq(plain, turned).solution
        signs |= set(torch.linalg.det(way).sign().tolist())
        assert not torch.allclose(way, torch.eye(3), atol=0.1)
    assert signs == {1.0, -1.0}


def test_the_small_pointnet_keeps_the_published_head():
    spec = small_pointnet2(15)
    published = PointNet2Spec.classification(4, n_classes=15)
    assert spec.head == published.head
    assert [(layer.c_in, layer.c_out) for layer in spec.head] == [(1024, 512), (512, 256), (256, 15)]
    assert spec.pooled[-1].c_out == published.pooled[-1].c_out
    for level, whole in zip(spec.abstractions, published.abstractions, strict=True):
        assert level.n_samples * 4 == whole.n_samples
        assert [2 * layer.c_out for layer in level.scales[0].layers] == [
            layer.c_out for layer in whole.scales[0].layers
        ]
    PointNet2(spec)
