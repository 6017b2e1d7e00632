"""The loop in one process: it learns, it goes on with the same bits, it survives sweeps without content."""

import csv
import json
import os
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pcsparse.data.collate import VoxelSettings, voxel_batch
from pcsparse.data.datasets.semantic_kitti import SemanticKitti
from pcsparse.data.label_map import LabelMap
from pcsparse.data.transforms import Augmentation, IntensityJitter, RandomYaw, SectorMix
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.train.fit import fit
from pcsparse.train.interrupt import StopRequest
from pcsparse.train.losses import segmentation_loss
from pcsparse.train.model_file import load_model
from pcsparse.train.settings import FitSettings, LossSettings, OptimSettings
from pcsparse.train.stepper import Stepper
from tests.streets import ROAD, TinyStreets, tiny_model, write_root

LABELS = LabelMap.load("semantickitti")
SETTINGS = FitSettings(
    epochs=2,
    batch_size=2,
    voxels=VoxelSettings(0.5),
    optim=OptimSettings(lr=5e-3),
    checkpoint_every=0,
    workers=0,
    progress="none",
)
AUGMENTATION = Augmentation((RandomYaw(), IntensityJitter()), SectorMix())


def run(folder, settings=SETTINGS, train_set=None, val_set=None, **kwargs):
    torch.manual_seed(0)
    kwargs.setdefault("augmentation", AUGMENTATION)
    return fit(tiny_model(), train_set or TinyStreets(6), val_set, settings, folder, labels=LABELS, **kwargs)


def noisy(folder, settings, train_set=None):
    """A run whose network draws random numbers, as dropout does."""
    torch.manual_seed(0)
    model = tiny_model()

    def perturb(module, inputs):
        (x,) = inputs
        return (x.replace(x.feats + 0.1 * torch.rand_like(x.feats)),) if module.training else None

    model.register_forward_pre_hook(perturb)
    return fit(model, train_set or TinyStreets(6), TinyStreets(1), settings, folder, labels=LABELS)


def column(folder, name, file="log.csv"):
    with (folder / file).open() as rows:
        return [row[name] for row in csv.DictReader(rows)]


class Failing(TinyStreets):
    """Calls `action` when a sweep is read for the nth time."""

    def __init__(self, n, reads, action):
        super().__init__(n)
        self.left, self.action = reads, action

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            self.action()
        return super().__getitem__(index)


class Killed(BaseException):
    """Not an Exception: nothing in the loop may catch it and tidy up."""


def kill():
    raise Killed


def test_a_short_run_learns_and_stores_a_model_that_loads(tmp_path):
    settings = replace(SETTINGS, epochs=12, loss=LossSettings(lovasz=1.0))
    result = run(tmp_path, settings, val_set=TinyStreets(2, first_seed=90), augmentation=Augmentation())
    assert (result.step, result.n_steps, result.stopped_by, result.n_skipped) == (36, 36, None, 0)
    losses = [float(v) for v in column(tmp_path, "loss")]
    assert len(losses) == 36
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    # three classes of nineteen; chance is far below
    assert result.best_miou > 0.5 * 3 / 19
    assert max(map(float, column(tmp_path, "miou", "val.csv"))) == result.best_miou
    model, card = load_model(tmp_path)
    assert card.metrics["miou"] == result.best_miou
    assert card.classes == LABELS.names
    assert card.voxels == SETTINGS.voxels
    assert card.input_spec.ground_height == pytest.approx(-1.7, abs=0.1)
    assert model.spec.n_classes == 19
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last.pt", "log.csv", "model.json", "model.safetensors", "val.csv",
    ]  # fmt: skip


VARIANTS = {
    "plain": {},
    "accumulate": {"accumulate": 2, "batch_size": 1},
    "ema-lovasz": {"ema_decay": 0.9, "loss": LossSettings(lovasz=0.5), "keep": "last"},
    "bfloat16": {"precision": "bfloat16"},
    "sgd": {"optim": OptimSettings("sgd", lr=0.1)},
    "last-without-validation": {"keep": "last", "validate_every": 0},
    "workers": {"workers": 2},
}


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_resumed_run_repeats_the_unbroken_one_bit_for_bit(tmp_path, change):
    settings = replace(SETTINGS, checkpoint_every=2, **change)
    val = TinyStreets(1, first_seed=90)
    run(tmp_path / "whole", settings, val_set=val)
    # the survey reads 6 sweeps, each sample up to 2; so this dies after a checkpoint and before the end
    with pytest.raises(Killed):
        run(tmp_path / "broken", replace(settings, workers=0), Failing(6, 6 + 16, kill), val_set=val)
    done = column(tmp_path / "broken", "step")
    assert 0 < len(done) < len(column(tmp_path / "whole", "step"))
    # another generator state than the one that was left
    torch.rand(17)
    result = run(tmp_path / "broken", settings, val_set=val)
    assert result.step == result.n_steps
    for name in ("step", "epoch", "loss", "lr", "grad_norm", "voxels"):
        assert column(tmp_path / "broken", name) == column(tmp_path / "whole", name)
    assert (tmp_path / "broken/val.csv").read_bytes() == (tmp_path / "whole/val.csv").read_bytes()
    models = [load_model(tmp_path / name)[0].state_dict() for name in ("broken", "whole")]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_network_that_draws_random_numbers_goes_on_with_the_same_ones(tmp_path, workers):
    settings = replace(SETTINGS, checkpoint_every=2, workers=workers)
    noisy(tmp_path / "whole", settings)
    with pytest.raises(Killed):
        noisy(tmp_path / "broken", replace(settings, workers=0), Failing(6, 6 + 10, kill))
    torch.rand(17)
    noisy(tmp_path / "broken", settings)
    assert column(tmp_path / "broken", "loss") == column(tmp_path / "whole", "loss")


def test_losses_do_not_depend_on_the_loader(tmp_path):
    for workers in (0, 1, 2):
        run(tmp_path / str(workers), replace(SETTINGS, workers=workers))
    assert column(tmp_path / "0", "loss") == column(tmp_path / "1", "loss") == column(tmp_path / "2", "loss")


def test_the_seed_matters(tmp_path):
    run(tmp_path / "a")
    run(tmp_path / "b", replace(SETTINGS, seed=1))
    assert column(tmp_path / "a", "loss")[1:] != column(tmp_path / "b", "loss")[1:]


def test_accumulating_is_one_step_of_the_same_sweeps(tmp_path):
    result = run(tmp_path, replace(SETTINGS, batch_size=1, accumulate=3))
    assert result.n_steps == 4
    assert column(tmp_path, "sweeps") == ["3"] * 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_a_checkpoint(tmp_path, number):
    before = signal.getsignal(number)
    stopping = Failing(6, 6 + 3, lambda: os.kill(os.getpid(), number))
    result = run(tmp_path / "run", train_set=stopping, augmentation=Augmentation())
    assert result.stopped_by == number
    assert 0 < result.step < result.n_steps
    assert signal.getsignal(number) is before
    assert torch.load(tmp_path / "run/last.pt", weights_only=True)["step"] == result.step
    again = run(tmp_path / "run", augmentation=Augmentation())
    assert (again.step, again.stopped_by) == (again.n_steps, None)
    run(tmp_path / "whole", augmentation=Augmentation())
    assert column(tmp_path / "run", "loss") == column(tmp_path / "whole", "loss")


def test_a_second_signal_ends_the_process_as_usual():
    # a shell starts its background jobs with SIGINT ignored, and then that is the usual
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.signal_number == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_come_back_where_no_signal_came():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("keep", "kept"), [("best", 6.0), ("last", 9.0)])
def test_the_model_that_is_kept(tmp_path, monkeypatch, keep, kept):
    mious = iter([0.25, 0.5, 0.375])

    def validate(*_):
        return SimpleNamespace(mean_iou=next(mious), mean_iou_present=0.0, accuracy=0.0)

    monkeypatch.setattr("pcsparse.train.fit._validate", validate)
    result = run(tmp_path, replace(SETTINGS, epochs=3, keep=keep), val_set=TinyStreets(1))
    assert result.best_miou == 0.5
    assert load_model(tmp_path)[1].metrics["step"] == kept
    assert column(tmp_path, "miou", "val.csv") == ["0.25", "0.5", "0.375"]


class Slow(TinyStreets):
    """Each sweep takes a second of the clock that `monkeypatch` put in place."""

    def __init__(self, n, monkeypatch):
        super().__init__(n, points=60)
        self.now, self.left = 100.0, -1
        monkeypatch.setattr("pcsparse.train.clock.time.monotonic", lambda: self.now)

    def __getitem__(self, index):
        self.now += 1.0
        self.left -= 1
        if not self.left:
            kill()
        return super().__getitem__(index)


def test_a_run_without_time_does_one_step_and_has_a_model(tmp_path):
    settings = replace(SETTINGS, epochs=500, time_limit=1e-6, validate_every=0)
    result = run(tmp_path, settings=settings)
    assert result.step == 1
    assert (tmp_path / "model.safetensors").is_file()


def test_a_time_limit_ends_the_run_with_its_rate_annealed(tmp_path, monkeypatch):
    settings = replace(SETTINGS, epochs=500, time_limit=22.0, validate_every=0, checkpoint_every=3)
    arguments = {"settings": settings, "augmentation": Augmentation()}
    source = Slow(6, monkeypatch)
    result = run(tmp_path / "whole", train_set=source, **arguments)
    # two sweeps a step
    assert (result.step, result.timed_out, result.stopped_by) == (11, True, None)
    rates = [float(v) for v in column(tmp_path / "whole", "lr")]
    assert rates.index(max(rates)) <= 2
    assert max(rates) > 0.9 * settings.optim.lr
    assert rates[-1] < 0.03 * settings.optim.lr
    assert load_model(tmp_path / "whole")[1].metrics["step"] == 11.0
    assert run(tmp_path / "whole", train_set=source, **arguments).step == 11
    # the seconds before a kill count: 6 of them are in the checkpoint of step 3
    cut = Slow(6, monkeypatch)
    # six looks at the set come first, then three steps and a sweep of the fourth
    cut.left = 14
    with pytest.raises(Killed):
        run(tmp_path / "cut", train_set=cut, **arguments)
    cut.now += 1000.0
    again = run(tmp_path / "cut", train_set=cut, **arguments)
    assert (again.step, again.timed_out) == (11, True)
    assert column(tmp_path / "cut", "loss")[:3] == column(tmp_path / "whole", "loss")[:3]


@pytest.mark.parametrize("before", [0, 1])
def test_a_stopped_run_that_is_out_of_time_leaves_the_model_of_its_last_step(tmp_path, before):
    settings = replace(SETTINGS, epochs=9, keep="last", validate_every=0, store_every=9 if not before else 1)
    # six looks at the set come first, then three steps an epoch
    stopping = Failing(6, 6 + 6 * before + 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    step = run(tmp_path, settings, stopping, augmentation=Augmentation()).step
    assert step % 3
    assert (tmp_path / "model.safetensors").is_file() == bool(before)
    again = run(tmp_path, replace(settings, time_limit=1e-6), augmentation=Augmentation())
    assert (again.step, again.timed_out) == (step, True)
    model, card = load_model(tmp_path)
    assert card.metrics["step"] == step
    state = torch.load(tmp_path / "last.pt", weights_only=True)["model"]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("mious", [[0.5, 0.25], [0.25, 0.5]], ids=["worse", "better"])
def test_a_run_that_ran_out_of_time_is_validated_once(tmp_path, monkeypatch, mious):
    left = iter(mious)

    def validate(*_):
        return SimpleNamespace(mean_iou=next(left), mean_iou_present=0.0, accuracy=0.0)

    monkeypatch.setattr("pcsparse.train.fit._validate", validate)
    settings = replace(SETTINGS, epochs=9)
    # six looks at the set come first, then three steps an epoch: a step into the second
    stopping = Failing(6, 6 + 6 + 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    step = run(tmp_path, settings, stopping, TinyStreets(1), augmentation=Augmentation()).step
    assert step % 3
    ended = []
    for _ in range(2):
        again = run(
            tmp_path, replace(settings, time_limit=1e-6), None, TinyStreets(1), augmentation=Augmentation()
        )
        assert (again.step, again.timed_out, again.best_miou) == (step, True, 0.5)
        ended.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert column(tmp_path, "step", "val.csv") == ["3", str(step)]
    assert load_model(tmp_path)[1].metrics["step"] == (3 if mious[0] == 0.5 else step)
    assert ended[0] == ended[1]


def test_a_finished_run_out_of_time_is_not_validated_again(tmp_path, monkeypatch):
    left = iter([0.5, 0.25])

    def validate(*_):
        return SimpleNamespace(mean_iou=next(left), mean_iou_present=0.0, accuracy=0.0)

    monkeypatch.setattr("pcsparse.train.fit._validate", validate)
    run(tmp_path, val_set=TinyStreets(1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(tmp_path, replace(SETTINGS, time_limit=1e-6), val_set=TinyStreets(1))
    assert (result.step, result.timed_out, result.best_miou) == (6, False, 0.5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_finished_run_is_left_alone(tmp_path):
    run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert run(tmp_path).step == 6
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_resume_says_what_it_will_not_do(tmp_path):
    run(tmp_path)
    with pytest.raises(FormatError, match="already holds a run"):
        run(tmp_path, replace(SETTINGS, resume="never"))
    with pytest.raises(FormatError, match=r"another run \(epochs: 2 then, 3 now\)"):
        run(tmp_path, replace(SETTINGS, epochs=3))
    with pytest.raises(FormatError, match="n_train: 6 then, 5 now"):
        run(tmp_path, train_set=TinyStreets(5))
    run(tmp_path, replace(SETTINGS, epochs=1, resume="overwrite"))
    assert column(tmp_path, "step") == ["1", "2", "3"]


def test_a_run_on_other_files_is_not_continued(tmp_path):
    roots = {
        name: write_root(tmp_path / name, {"00": 3, "08": 1}, points)
        for name, points in {"here": 300, "moved": 300, "other": 301}.items()
    }

    def on(train_root, val_root, folder=tmp_path / "run"):
        sets = SemanticKitti(roots[train_root], "train"), SemanticKitti(roots[val_root], "val")
        return run(folder, SETTINGS, *sets)

    assert on("here", "here").step == 4
    assert on("moved", "moved").step == 4
    with pytest.raises(FormatError, match=r"\(train_files: '00/000000 to 00/000002, 3 in all, .* then, '00/"):
        on("other", "here")
    with pytest.raises(FormatError, match="val_files: '08/000000 to"):
        on("here", "other")
    # a state from before they were noted
    state = torch.load(tmp_path / "run/last.pt", weights_only=True)
    del state["facts"]["train_files"], state["facts"]["val_files"]
    torch.save(state, tmp_path / "run/last.pt")
    assert on("here", "here").step == 4


class Pull:
    """An extra loss that pulls logits to 0 and counts the inputs that it saw."""

    def __init__(self, weight):
        self.weight, self.voxels = weight, []

    def __call__(self, x, logits):
        assert logits.requires_grad
        self.voxels.append((len(x), len(logits)))
        return self.weight * logits.square().mean()

    def __repr__(self):
        return f"Pull({self.weight})"


def test_an_extra_loss_is_added_and_belongs_to_the_run(tmp_path):
    pull = Pull(100.0)
    run(tmp_path / "pulled", replace(SETTINGS, epochs=1), extra_loss=pull)
    run(tmp_path / "none", replace(SETTINGS, epochs=1))
    assert len(pull.voxels) == 3
    assert all(n == rows for n, rows in pull.voxels)
    plain, pulled = (column(tmp_path / name, "loss") for name in ("none", "pulled"))
    assert float(pulled[0]) > float(plain[0])
    assert float(pulled[-1]) < 0.8 * float(pulled[0])
    # an older run knows of none
    assert "extra_loss" not in torch.load(tmp_path / "none/last.pt", weights_only=True)["facts"]
    with pytest.raises(FormatError, match=r"extra_loss: Pull\(100\.0\) then, Pull\(1\.0\) now"):
        run(tmp_path / "pulled", replace(SETTINGS, epochs=1), extra_loss=Pull(1.0))


class Shrink:
    """A penalty: half the squares of the last layer's weights, times a factor."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, model):
        weight = model.classifier.weight
        weight.grad.add_(weight.detach(), alpha=self.factor)
        return 0.5 * self.factor * weight.detach().square().sum()

    def __repr__(self):
        return f"Shrink({self.factor})"


def test_a_penalty_is_added_once_a_step_and_belongs_to_the_run(tmp_path):
    settings = replace(SETTINGS, epochs=1, batch_size=1, accumulate=2)
    for name, factor in (("plain", None), ("shrunk", 10.0)):
        run(tmp_path / name, settings, penalty=None if factor is None else Shrink(factor))
    torch.manual_seed(0)
    first = 5.0 * float(tiny_model().classifier.weight.detach().square().sum())
    losses, norms = (
        [column(tmp_path / name, of) for name in ("plain", "shrunk")] for of in ("loss", "grad_norm")
    )
    assert float(losses[1][0]) - float(losses[0][0]) == pytest.approx(first, rel=1e-3)
    # before the norm of the gradients is taken
    assert float(norms[1][0]) > 1.5 * float(norms[0][0])
    assert "penalty" not in torch.load(tmp_path / "plain/last.pt", weights_only=True)["facts"]
    with pytest.raises(FormatError, match=r"penalty: Shrink\(10\.0\) then, Shrink\(1\.0\) now"):
        run(tmp_path / "shrunk", settings, penalty=Shrink(1.0))


class Odd(TinyStreets):
    """Some sweeps are empty, without any label that counts, or a single point."""

    def __getitem__(self, index):
        sweep = super().__getitem__(index)
        match index:
            case 0:
                return replace(
                    sweep, points=sweep.points[:0], intensity=sweep.intensity[:0], targets=sweep.targets[:0]
                )
            case 1:
                return replace(sweep, targets=np.full_like(sweep.targets, -1))
            case 2:
                rows = slice(0, 1)
                return replace(
                    sweep,
                    points=sweep.points[rows],
                    intensity=sweep.intensity[rows],
                    targets=np.array([ROAD]),
                )
        return sweep


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_empty_and_unlabelled_sweeps_are_counted_and_harmless(tmp_path, batch_size):
    settings = replace(SETTINGS, batch_size=batch_size, loss=LossSettings(lovasz=1.0), ema_decay=0.5)
    result = run(tmp_path, settings, Odd(6), val_set=Odd(3), augmentation=Augmentation((RandomYaw(),)))
    assert np.isfinite([float(v) for v in column(tmp_path, "loss")]).all()
    if batch_size == 1:
        assert result.n_skipped == 4
        assert sum(map(int, column(tmp_path, "skipped"))) == 4
        rows = zip(column(tmp_path, "loss"), column(tmp_path, "skipped"), strict=True)
        assert [loss for loss, skipped in rows if skipped == "1"] == ["0.0"] * 4
    model, _ = load_model(tmp_path)
    assert all(bool(torch.isfinite(t).all()) for t in model.state_dict().values())


def test_a_batch_without_voxels_goes_forward_and_backward():
    empty = Odd(1)[0]
    batch = voxel_batch(empty, VoxelSettings())
    model = tiny_model().train()
    logits = model(batch.tensor()).feats
    assert logits.shape == (0, 19)
    loss = segmentation_loss(logits, batch.targets, LossSettings(lovasz=1.0), None)
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    assert all(bool(torch.isfinite(b).all()) for b in model.buffers())


@pytest.mark.parametrize(
    ("name", "said"), [("weight", "loss nan"), ("bias", "loss inf, gradient norm [0-9]")]
)
def test_a_loss_that_is_not_finite_stops_the_run_before_the_weights_are_hurt(tmp_path, name, said):
    torch.manual_seed(0)
    model = tiny_model()
    with torch.no_grad():
        if name == "weight":
            model.classifier.weight.fill_(float("inf"))
        else:
            # the loss is infinite, its gradients are not
            model.classifier.bias[ROAD] = float("-inf")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(RangeError, match=rf"step 0: {said}.*lower optim\.lr"):
        fit(model, TinyStreets(6), None, SETTINGS, tmp_path, labels=LABELS)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_training_without_any_label_is_refused(tmp_path):
    class Unlabelled(TinyStreets):
        def __getitem__(self, index):
            sweep = super().__getitem__(index)
            return replace(sweep, targets=np.full_like(sweep.targets, -1))

    class Bare(TinyStreets):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), targets=None)

    with pytest.raises(RangeError, match="not one point"):
        run(tmp_path, train_set=Unlabelled(2))
    with pytest.raises(FormatError, match="has no labels"):
        run(tmp_path, train_set=Bare(2))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("targets", [None, "ignored"])
def test_validation_without_any_label_is_refused_before_the_first_step(tmp_path, targets):
    class Unlabelled(TinyStreets):
        def __getitem__(self, index):
            sweep = super().__getitem__(index)
            return replace(sweep, targets=None if targets is None else np.full_like(sweep.targets, -1))

    class HalfLabelled(TinyStreets):
        def __getitem__(self, index):
            return Unlabelled(2)[index] if index == 0 else super().__getitem__(index)

    with pytest.raises(FormatError, match=r"2 sweeps of validation.*street/000000.*data\.val=null"):
        run(tmp_path, val_set=Unlabelled(2))
    assert not list(tmp_path.iterdir())
    settings = replace(SETTINGS, epochs=1)
    assert run(tmp_path / "none", replace(settings, validate_every=0), val_set=Unlabelled(2)).step == 3
    assert run(tmp_path / "half", settings, val_set=HalfLabelled(2)).step == 3


def test_validation_without_a_label_inside_the_crop_is_refused(tmp_path):
    settings = replace(SETTINGS, epochs=1, voxels=VoxelSettings(0.5, [-60, -60, -4, 60, 60, 3]))

    class Beyond(TinyStreets):
        """The road alone is labelled, and lies 20 m deep."""

        def __getitem__(self, index):
            sweep = super().__getitem__(index)
            road = sweep.targets == ROAD
            points = np.where(road[:, None], sweep.points - np.float32([0, 0, 20]), sweep.points)
            return replace(sweep, points=points, targets=np.where(road, ROAD, -1))

    with pytest.raises(FormatError, match=r"not one labelled point that is shown \(crop"):
        run(tmp_path, settings, val_set=Beyond(2))
    assert run(tmp_path, settings, val_set=TinyStreets(2)).step == 3


def test_an_error_in_a_loader_process_comes_through_and_ends_the_run(tmp_path):
    class Far(TinyStreets):
        def __getitem__(self, index):
            sweep = super().__getitem__(index)
            return replace(sweep, points=sweep.points * np.float32(1e6)) if index == 5 else sweep

    with pytest.raises(RangeError, match="street/000005"):
        run(tmp_path, replace(SETTINGS, workers=2), Far(6), augmentation=Augmentation())


def test_tensorboard_curves_are_written_where_asked_for(tmp_path):
    pytest.importorskip("tensorboard")
    run(tmp_path, replace(SETTINGS, epochs=1, tensorboard=True))
    events = list((tmp_path / "tensorboard").glob("events.*"))
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()


def test_a_missing_tensorboard_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboard", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[train\]"):
        run(tmp_path, replace(SETTINGS, tensorboard=True))


def test_averaged_weights_are_the_ones_that_are_stored(tmp_path):
    run(tmp_path / "average", replace(SETTINGS, ema_decay=0.9))
    run(tmp_path / "plain")
    average, plain = (load_model(tmp_path / name)[0].state_dict() for name in ("average", "plain"))
    assert column(tmp_path / "average", "loss") == column(tmp_path / "plain", "loss")
    assert not torch.equal(average["classifier.weight"], plain["classifier.weight"])


def test_provenance_and_config_are_written(tmp_path):
    run(tmp_path, replace(SETTINGS, epochs=1), provenance={"data": "tiny"}, config_text="epochs: 1\n")
    assert json.loads((tmp_path / "model.json").read_text())["provenance"] == {"data": "tiny"}
    assert (tmp_path / "config.yaml").read_text() == "epochs: 1\n"


@pytest.mark.parametrize("epoch", [1, 2], ids=["first", "last"])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_validation_that_fails_costs_no_step(tmp_path, monkeypatch, keep, epoch):
    settings = replace(SETTINGS, keep=keep)
    val_set = TinyStreets(1, first_seed=90)
    whole = run(tmp_path / "whole", settings, val_set=val_set)

    def fail():
        raise FormatError("08/000000.bin is truncated")

    # the check of the labels reads it once, then each validation
    broken = Failing(1, reads=1 + epoch, action=fail)
    broken.first_seed = 90
    with pytest.raises(FormatError, match="truncated"):
        run(tmp_path / "broken", settings, val_set=broken)
    seen = []
    advance = Stepper.advance
    monkeypatch.setattr(Stepper, "advance", lambda self, batches: seen.append(1) or advance(self, batches))
    result = run(tmp_path / "broken", settings, val_set=val_set)
    assert len(seen) == 3 * (2 - epoch)
    assert result.best_miou == whole.best_miou
    for name in ("step", "miou", "accuracy"):
        assert column(tmp_path / "broken", name, "val.csv") == column(tmp_path / "whole", name, "val.csv")
    assert column(tmp_path / "broken", "loss") == column(tmp_path / "whole", "loss")
    cards = [json.loads((tmp_path / name / "model.json").read_text()) for name in ("whole", "broken")]
    assert cards[0] == cards[1]
    one, two = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_removes_what_a_killed_one_left(tmp_path):
    # a process of this number cannot be
    left = tmp_path / f".last.{2**22 + 1}.7.tmp.pt"
    left.write_bytes(b"half")
    run(tmp_path)
    assert not left.exists()
    assert (tmp_path / "last.pt").exists()


def test_a_run_that_is_done_validates_no_more(tmp_path, monkeypatch):
    settings = replace(SETTINGS, keep="last", store_every=9)
    run(tmp_path, settings, val_set=TinyStreets(1, first_seed=90))
    monkeypatch.setattr("pcsparse.train.fit._validate", None)
    run(tmp_path, settings, val_set=TinyStreets(1, first_seed=90))
    assert column(tmp_path, "step", "val.csv") == ["3", "6"]


def test_a_run_goes_on_with_its_own_label_map_only(tmp_path):
    rows = LABELS.rows()
    rows["raw"] = [row | {"train": 0} if row["id"] == 252 else row for row in rows["raw"]]
    other = LabelMap.from_rows("semantickitti", **rows)
    run(tmp_path)
    torch.manual_seed(0)
    with pytest.raises(FormatError, match=r"label_map"):
        fit(tiny_model(), TinyStreets(6), None, SETTINGS, tmp_path, labels=other, augmentation=AUGMENTATION)
    assert run(tmp_path).step == 6


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_model_that_could_not_be_stored_is_stored_by_the_resumed_run(tmp_path, monkeypatch, keep):
    settings = replace(SETTINGS, epochs=1, keep=keep)
    val_set = TinyStreets(1, first_seed=90)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("pcsparse.train.fit.save_model", full)
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path, settings, val_set=val_set)
    monkeypatch.undo()
    assert run(tmp_path, settings, val_set=val_set).step == 3
    assert load_model(tmp_path)[1].metrics["step"] == 3


def test_a_run_whose_card_has_no_map_of_its_own_goes_on(tmp_path):
    labels = LabelMap.from_rows("yard", **LABELS.rows())
    settings = replace(SETTINGS, epochs=1)

    def go():
        torch.manual_seed(0)
        return fit(tiny_model(), TinyStreets(6), None, settings, tmp_path, labels=labels)

    go()
    card = json.loads((tmp_path / "model.json").read_text())
    # as an older version wrote it
    del card["labels"]
    (tmp_path / "model.json").write_text(json.dumps(card))
    assert go().step == 3
