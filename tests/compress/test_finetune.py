"""Fine-tuning: rounds, masks that hold through a fit, batch norms measured anew, distillation."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from pcsparse import SparseTensor
from pcsparse.compress.finetune import (
    Distillation,
    Rounds,
    distillation_loss,
    recalibrate,
    tune_channels,
    tune_weights,
)
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.weights import weight_layers
from pcsparse.errors import RangeError, ShapeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import BatchNorm
from tests.clouds import LINE, PLANE
from tests.compress.networks import HeadFirst


def _network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).eval()


def _inputs(n: int = 2) -> list[SparseTensor]:
    rng = torch.Generator().manual_seed(1)
    clouds = [PLANE, LINE][:n]
    return [SparseTensor(torch.randn(len(c.coords), 3, generator=rng), c.coords) for c in clouds]


class _Fit:
    """A few steps of AdamW towards fixed classes."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.widths: list[int] = []
        self.density: list[float] = []

    def __call__(self, model: nn.Module, lr: float) -> None:
        self.rates.append(lr)
        self.widths.append(model.encoder[3][0].conv1.c_out)
        weight = model.encoder[0][0].conv1.weight
        self.density.append(float((weight != 0).float().mean()))
        (x,) = _inputs(1)
        target = torch.arange(len(x)) % 5
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            functional.cross_entropy(model(x).feats, target).backward()
            optimizer.step()
        model.eval()


def test_one_round_prunes_all_at_once_and_more_approach_it():
    assert Rounds(0.1).shares() == (1.0,)
    shares = Rounds(0.1, n=4).shares()
    assert shares[-1] == 1.0
    assert list(shares) == sorted(shares)
    steps = [b - a for a, b in zip((0.0, *shares), shares, strict=False)]
    assert steps == sorted(steps, reverse=True)


@pytest.mark.parametrize("bad", [{"n": 0}, {"lr": 0.0}, {"lr_factor": 0.0}, {"lr_factor": 2.0}])
def test_bad_rounds_are_refused(bad):
    with pytest.raises(RangeError, match="rounds must be at least 1"):
        Rounds(**({"lr": 0.1} | bad))


def test_weights_stay_zero_through_every_round():
    model, fit = _network(), _Fit()
    before = copy.deepcopy(model)
    masks = tune_weights(model, 0.75, fit, Rounds(lr=0.02, n=3))
    assert fit.rates == pytest.approx([0.002] * 3)
    assert fit.density == pytest.approx([1 - 0.75 * share for share in Rounds(1.0, n=3).shares()], abs=0.01)
    for name, weight in weight_layers(model).items():
        assert not bool(weight[~masks.kept[name]].any())
        assert bool((weight != weight_layers(before)[name])[masks.kept[name]].any())
    with pytest.raises(RangeError, match=r"must be in \[0, 1\)"):
        tune_weights(model, 1.0, fit, Rounds(lr=0.02))
    assert len(fit.rates) == 3


def test_channels_shrink_round_by_round():
    model, fit = _network(), _Fit()
    before = copy.deepcopy(model.state_dict())
    widths = {group.name: max(1, group.width // 4) for group in ChannelGraph.of(model).free}
    tuned = tune_channels(model, widths, fit, Rounds(lr=0.02, n=2), multiple=1, batches=_inputs)
    assert {g.name: g.width for g in ChannelGraph.of(tuned).free} == widths
    # 7 of 8 parts of the way from 32 to 8, then all of it
    assert fit.widths == [11, 8]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_graph_of_each_round_is_read_as_one_says():
    x = SparseTensor(torch.ones(1, 2), torch.zeros(1, 4, dtype=torch.int32))
    found: list[int] = []

    def graph_of(model: nn.Module) -> ChannelGraph:
        return ChannelGraph.of(model, x)

    def fit(model: nn.Module, lr: float) -> None:
        found.append(model.conv.c_out)

    tuned = tune_channels(HeadFirst(), {"conv": 1}, fit, Rounds(lr=0.1, n=2), multiple=1, graph_of=graph_of)
    assert found == [2, 1]
    assert tuned.head.in_features == 1


def test_widths_that_no_group_can_keep_are_refused_before_training():
    model, fit = _network(), _Fit()
    for widths in ({"stem.0": 5}, {"stem.0": 0}, {"classifier": 2}, {"stem": 2}):
        with pytest.raises(RangeError, match=r"cannot keep|there is no group"):
            tune_channels(model, widths, fit, Rounds(lr=0.02, n=3), multiple=1)
    assert not fit.rates


def test_recalibrate_takes_means_over_all_batches():
    model = _network()
    batches = _inputs()
    model.stem[1].momentum = 0.3
    before = copy.deepcopy(dict(model.named_parameters()))
    recalibrate(model, batches)
    with torch.no_grad():
        outs = [model.stem[0](x).feats for x in batches]
    mean = sum(out.mean(dim=0) for out in outs) / 2
    var = sum(out.var(dim=0) for out in outs) / 2
    torch.testing.assert_close(model.stem[1].running_mean, mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.stem[1].running_var, var, rtol=1e-4, atol=1e-6)
    assert model.stem[1].momentum == 0.3
    assert not any(part.training for part in model.modules())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    # deep layers see the batch as it is normalised in training
    model.train()
    copied = copy.deepcopy(model)
    recalibrate(model, iter(batches[:1]))
    assert all(part.training for part in model.modules())
    for part in copied.modules():
        if isinstance(part, BatchNorm):
            part.momentum = 1.0
    copied(batches[0])
    torch.testing.assert_close(
        model.decoder[3][0].norm2.running_var, copied.decoder[3][0].norm2.running_var, rtol=1e-4, atol=1e-6
    )


def test_recalibrate_gives_a_tuple_as_arguments(rng):
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, a, b):
            return self.norm(a + b)

    model, pair = Sum(), tuple(torch.randn(2, 6, 2, generator=rng))
    recalibrate(model, [pair])
    torch.testing.assert_close(model.norm.running_mean, (pair[0] + pair[1]).mean(dim=0))


def test_recalibrate_without_batches_changes_nothing():
    model = _network()
    model.stem[1].running_mean.fill_(3.0)
    with pytest.raises(RangeError, match="at least one batch"):
        recalibrate(model, [])
    assert bool((model.stem[1].running_mean == 3.0).all())
    recalibrate(nn.Linear(2, 2), [])


def test_recalibrate_that_is_cut_off_changes_nothing():
    model = _network().train()
    model.stem[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def batches():
        yield from _inputs()
        raise OSError("a sweep cannot be read")

    with pytest.raises(OSError, match="cannot be read"):
        recalibrate(model, batches())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert {name for name, part in model.named_modules() if not part.training} == {"stem.1"}


def test_recalibrate_of_torchs_norms_is_cut_off_by_a_single_row(rng):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model[1].running_mean.fill_(3.0)
    with pytest.raises(ValueError, match="more than 1 value"):
        recalibrate(model, [torch.randn(8, 4, generator=rng), torch.randn(1, 4, generator=rng)])
    assert bool((model[1].running_mean == 3.0).all())
    assert int(model[1].num_batches_tracked) == 0


def test_recalibrate_leaves_norms_that_saw_no_variance():
    model = _network()
    before = model.encoder[3][0].norm1
    before.running_mean.fill_(3.0)
    # one voxel at every level
    recalibrate(model, [SparseTensor(torch.ones(1, 3), torch.zeros(1, 4, dtype=torch.int32))])
    assert bool((before.running_mean == 3.0).all())


def test_distillation_is_the_divergence_of_softened_probabilities(rng):
    student = torch.randn(7, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(7, 5, generator=rng, dtype=torch.float64, requires_grad=True)
    loss = distillation_loss(student, teacher, temperature=3.0)
    p, q = ((logits / 3).softmax(dim=1) for logits in (teacher, student))
    expected = 9 * (p * (p / q).log()).sum(dim=1).mean()
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert teacher.grad is None
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ShapeError, match="teacher must have shape"):
        distillation_loss(student, teacher[:3])
    with pytest.raises(RangeError, match="temperature"):
        distillation_loss(student, teacher, temperature=0.0)


def test_a_distillation_runs_its_teacher_on_the_students_maps():
    teacher, (x,) = _network(), _inputs(1)
    term = Distillation(teacher, weight=3.0, temperature=1.5)
    logits = torch.randn(len(x), 5, requires_grad=True)
    loss = term(x, logits)
    with torch.no_grad():
        told = teacher(x).feats
    assert loss.item() == pytest.approx(3.0 * distillation_loss(logits, told, 1.5).item(), rel=1e-4)
    loss.backward()
    assert logits.grad is not None
    assert all(parameter.grad is None for parameter in teacher.parameters())
    # no map was built that was not there
    known = len(x.cache)
    term(x, logits)
    assert len(x.cache) == known > 0
    # a run goes on with the same teacher only
    assert repr(term) == repr(Distillation(_network(), 3.0, 1.5))
    with torch.no_grad():
        teacher.classifier.bias += 1.0
    assert repr(term) != repr(Distillation(teacher, 3.0, 1.5))
    for bad in ({"weight": 0.0}, {"weight": 1.0, "temperature": 0.0}):
        with pytest.raises(RangeError, match="weight and temperature"):
            Distillation(teacher, **bad)
