"""The study of a quarter: differences on the same sweeps, and a study on tiny streets."""

import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.compress import cost as cost_module
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.data.synthetic import pool
from pcsparse.engine.tune_cache import Bucket
from pcsparse.errors import FormatError, RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn.tuning import conv_calls
from pcsparse.programs import bench_compress_quarter as quarter
from pcsparse.programs import bench_compress_quarter_cost as quarter_cost
from pcsparse.programs import bench_compress_quarter_jobs as jobs
from pcsparse.programs import bench_compress_quarter_networks as networks
from pcsparse.programs import bench_compress_quarter_rounds as rounds
from pcsparse.programs import bench_compress_streets as streets_module
from pcsparse.programs.bench_compress_quarter import run
from pcsparse.programs.bench_compress_quarter_before import take_over
from pcsparse.programs.bench_compress_quarter_jobs import Task
from pcsparse.programs.bench_compress_quarter_networks import held_path
from pcsparse.programs.bench_compress_quarter_study import ROWS, QuarterStudy
from pcsparse.programs.bench_compress_quarter_table import Tried, differences, table_text
from pcsparse.programs.bench_compress_streets import Place, Streets, Towns, Training, has_ended, train_on
from pcsparse.train.checkpoint import run_facts
from pcsparse.train.fit import FitResult
from pcsparse.train.model_file import load_model
from pcsparse.train.sweep_counts import SweepCounts
from tests.clouds import PLANE, UNSORTED
from tests.programs.compress_case import write_model
from tests.programs.counted_cost import counted_cost
from tests.streets import tiny_street


def _tried(name, right, seed=0):
    """Every sweep has 100 points of one class; `right` of them are told."""
    right = np.array(right)[:, None]
    truth = np.full_like(right, 100)
    return Tried(name, seed, SweepCounts(right, truth, truth), 1_500_000, 700)


def test_what_is_lost_is_counted_against_the_dense_start_on_the_same_sweeps():
    start = [40, 90, 10, 60]
    tried = [
        _tried("pruned, fine-tuned", [right - 1 for right in start], 1),
        _tried("pruned, fine-tuned", [right - 3 for right in start], 2),
        _tried("dense", start),
    ]
    found = differences(tried)
    assert found["pruned, fine-tuned"] == pytest.approx((-0.02, -0.02 - 0.01 * 2**0.5, -0.02 + 0.01 * 2**0.5))
    assert found["dense"] == (0.0, 0.0, 0.0)
    text = table_text(tried, {"pruned, fine-tuned": (10.0, 30.0), "dense": (40.0, 100.0)}, 0.25)
    row = next(line for line in text.splitlines() if line.startswith("| pruned"))
    gain = "48.0 | 47.0, 49.0 | -2.0 (-3.4 to -0.6)"
    assert row == f"| pruned, fine-tuned | 2 | 700 | 1.50 | 10.0 30.0 | 27.5% | {gain} |"


def _streets(root):
    """Two towns a set, of tiny streets; rendering finds all of them there."""
    sets = [Towns(name, 2, 1, 10 * i, 1.0) for i, name in enumerate(("train", "search", "held"))]
    streets = Streets(root, *sets, voxel_size=1.0, pooled=True)
    for towns in sets:
        # a record of who made them, as `render` leaves it
        pool._claim(streets.plan(towns), root / towns.name)
        for index in range(towns.towns):
            sweep = tiny_street(towns.seed + index, 400)
            rows = np.zeros(len(sweep.points), pool._ROW)
            rows["place"] = np.round(sweep.points / pool._STEP)
            rows["intensity"] = np.round(sweep.intensity * 255)
            rows["target"] = sweep.targets
            np.save(streets.plan(towns).path(root / towns.name, index), rows)
    return streets


def _study(out, **changes):
    training = Training(epochs=1, precision="float32", validate_every=0, resident=True)
    study = QuarterStudy(
        out, Streets(out), 0.25, training, share=0.9, method="random", evaluations=3, tuning_epochs=1, seeds=2
    )
    return replace(study, **changes)


def test_tuned_times_are_of_plans_that_were_found_for_each_network_and_sweep(monkeypatch):
    torch.manual_seed(0)
    spec = MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)
    net = MinkUNet(spec).eval()
    sweeps = [SparseTensor(torch.randn(len(c.coords), 3), c.coords) for c in (PLANE, UNSORTED)]
    given = []
    monkeypatch.setattr(quarter_cost, "use_tuning", lambda module, table: given.append(table) or module)
    for tuned in (False, True):
        times = quarter_cost.times_in_turns({"dense": net}, SimpleNamespace(inputs=sweeps), tuned=tuned)
        assert len(times["dense"]) == 2
    assert given[0] is None
    buckets = {Bucket.of(call.problem) for x in sweeps for call in conv_calls(net, x)}
    assert {bucket for bucket, _ in given[1].entries} == buckets
    assert {of for _, of in given[1].entries} == {"forward"}


def _by_parameters(nets, sweeps, *, tuned=False):
    return {name: (float(sum(p.numel() for p in net.parameters())),) for name, net in nets.items()}


@pytest.mark.slow
def test_a_study_goes_on_in_another_folder_and_without_weights_that_are_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(quarter_cost, "measure_cost", counted_cost)
    for module in (quarter_cost, quarter):
        monkeypatch.setattr(module, "times_in_turns", _by_parameters)
    here = _study(tmp_path / "here", streets=_streets(tmp_path / "streets"), tuning_epochs=2, rounds=2)
    with pytest.raises(RangeError, match="cannot be met: the smallest reachable is"):
        run(replace(here, out=tmp_path / "too small", share=0.001), ("cost",))
    assert run(here, ("cost",)) == 0
    assert {path.name for path in here.out.iterdir()} == {"cost.json", "budget.json", "study.txt"}

    # another machine, other folders
    (tmp_path / "there").mkdir()
    (tmp_path / "streets").rename(tmp_path / "there" / "streets")
    here.out.rename(tmp_path / "there" / "out")
    streets = replace(here.streets, root=tmp_path / "there" / "streets")
    there = replace(here, out=tmp_path / "there" / "out", streets=streets)
    load = cost_module.device_key
    monkeypatch.setattr(cost_module, "device_key", lambda device: "another processor")
    with pytest.raises(FormatError, match="no counts of the dense network and a pruned one, but of none"):
        run(there, ("table",))
    assert run(there, ("train",)) == 0
    dense, first, pruned = (
        load_model(there.out / name)[0] for name in ("dense", "pruned-1/round-1", "pruned-1")
    )
    assert dense.spec != first.spec
    widths = ChannelGraph.of(pruned).groups
    assert sum(group.width for group in widths) <= sum(group.width for group in ChannelGraph.of(first).groups)
    steps = {name: json.loads((there.out / "held" / f"{name}.json").read_text())["steps"]
             for name in there.networks}  # fmt: skip
    # what was trained from scratch had as many steps as both trainings of the pruned one
    assert steps["scratch-2"] == steps["dense"] + steps["pruned-2"] == 3
    assert (steps["control-2"], steps["cut"]) == (steps["pruned-2"], 0)

    # and back, without what is large
    there.out.rename(here.out)
    streets.root.rename(here.streets.root)
    monkeypatch.setattr(cost_module, "device_key", load)
    for path in [*here.out.rglob("*.safetensors"), *here.out.rglob("last.pt")]:
        path.unlink()
    held = {path: path.stat().st_mtime_ns for path in (here.out / "held").iterdir()}
    assert len(held) == 2 + 3 * 2
    run(here)
    assert {path: path.stat().st_mtime_ns for path in held} == held
    assert not list(here.out.rglob("*.safetensors"))
    lines = (here.out / "table.md").read_text().splitlines()
    names = [line.split(" | ")[0][2:] for line in lines if line.startswith("| ")]
    assert names == ["network", *ROWS.values()]
    # what was not reached in time is named, and the rest is told
    for path in (here.out / "held").glob("scratch-*"):
        path.unlink()
    assert run(here, ("table",)) == 1
    text = (here.out / "table.md").read_text()
    assert ROWS["scratch"] not in text
    assert text.endswith("\nNot there yet: scratch-1, scratch-2; --part train goes on with them.\n")
    with pytest.raises(FormatError, match="study of another network or of other streets"):
        run(replace(here, width=0.5))
    with pytest.raises(FormatError, match="networks of other trainings"):
        run(replace(here, rounds=1), ("table",))


@pytest.mark.parametrize(("epochs", "n", "split"), [(5, 1, (5,)), (24, 2, (12, 12)), (8, 3, (2, 3, 3))])
def test_rounds_share_the_epochs_of_the_tuning(tmp_path, epochs, n, split):
    study = _study(tmp_path, tuning_epochs=epochs, rounds=n)
    assert study.round_epochs == split
    assert study.tuning.epochs == epochs
    with pytest.raises(RangeError, match=f"from 1 to the {epochs} epochs that they share, got {epochs + 1}"):
        replace(study, rounds=epochs + 1)


def test_a_network_is_cut_in_rounds_and_each_goes_on_from_the_one_before(tmp_path, monkeypatch):
    study = _study(tmp_path, streets=_streets(tmp_path / "streets"), tuning_epochs=3, rounds=2, lr_factor=0.5)
    study = replace(study, training=replace(study.training, lr=2e-3), place=Place(until=1300.0))
    monkeypatch.setattr(streets_module.time, "time", lambda: 1000.0)
    dense = quarter_cost.dense_model(study)
    widths = {group.name: 8 for group in ChannelGraph.of(dense).free}
    began, seen, kept = [], [], {}

    def trained(streets, model, training, folder, taught, place):
        began.append((training.epochs, training.lr, training.seed, folder.name, place.until, taught))
        seen.append(
            (
                {group.width for group in ChannelGraph.of(model).free},
                {float(value) for part in model.parameters() for value in part.detach().unique()},
            )
        )
        # what is kept is another thing than what was trained last
        kept[folder] = deepcopy(model)
        for part in kept[folder].parameters():
            part.data.fill_(0.5)

    monkeypatch.setattr(rounds, "train_on", trained)
    monkeypatch.setattr(rounds, "load_model", lambda folder: (kept[folder], None))
    before = fingerprint(dense)
    rounds.train_in_rounds(study, dense, widths, 2, tmp_path / "pruned-2", None)
    # the first of three epochs may take a third of the time
    assert began == [(1, 1e-3, 2, "round-1", 1100.0, None), (2, 1e-3, 1002, "pruned-2", 1300.0, None)]
    assert max(seen[0][0]) == 16
    assert seen[1] == ({8}, {0.5})
    assert fingerprint(dense) == before
    assert rounds.folders_of(tmp_path / "pruned-2") == [tmp_path / "pruned-2"]


def test_a_search_that_is_done_is_not_done_again_on_another_machine(tmp_path):
    study = _study(tmp_path)
    for network in study.networks:
        path = held_path(study, network)
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    # no streets, no cost table and no weights are there
    run_here_without_rendering = [task for task in jobs.tasks_of(study) if not task.name.startswith("render")]
    assert len(run_here_without_rendering) == 1 + 1 + 3 * 2 + 2 + 3 * 2
    for task in run_here_without_rendering:
        jobs.do(study, task.name)


def test_a_folder_keeps_networks_of_one_training_and_takes_more_seeds(tmp_path, monkeypatch):
    done = []
    for name in ("measure", "run_here", "_table"):
        monkeypatch.setattr(quarter, name, lambda study, name=name: done.append(name))
    monkeypatch.setattr(Streets, "render", lambda *given: None)
    # what the machine is takes a while to find out
    environment = quarter.environment()
    monkeypatch.setattr(quarter, "environment", lambda: environment)
    study = _study(tmp_path / "here")
    run(study, ("train",))
    run(replace(study, seeds=5, jobs=1, place=Place("cuda", until=9.0)), ("train",))
    # it comes back from another machine
    study.out.rename(tmp_path / "back")
    study = replace(study, out=tmp_path / "back")
    trainings = [replace(study.training, **change) for change in (
        {"epochs": 2}, {"lr": 1e-3}, {"batch_size": 1}, {"precision": "bfloat16"},
    )]  # fmt: skip
    changes = [*({"training": training} for training in trainings), {"tuning_epochs": 2},
               {"tuning_epochs": 2, "rounds": 2}, {"lr_factor": 0.2},
               {"distill": 0.0}, {"method": "evolution"}, {"evaluations": 4}, {"score_steps": 2}]  # fmt: skip
    for change in changes:
        with pytest.raises(
            FormatError, match=r"back holds networks of other trainings .*; now .*another --out"
        ):
            run(replace(study, **change), ("train",))
        # milliseconds are those of any training
        run(replace(study, **change), ("cost",))
    assert done == ["run_here"] * 2 + ["measure"] * len(changes)


def _ended_study(tmp_path):
    """A study whose trainings and judgements are done, by their files alone, and one that goes on from it."""
    first = _study(tmp_path / "first", streets=_streets(tmp_path / "streets"), tuning_epochs=2)
    first.claim()
    first.claim_trainings()
    files = {
        "cost.json": "cost", "budget.json": "budget", "widths.json": "[8, 16]",
        "held/dense.json": json.dumps({"parameters": 7, "steps": 1, "counts": [1]}),
        "held/control-1.json": json.dumps({"parameters": 7, "steps": 2, "counts": [2]}),
    }  # fmt: skip
    for name, text in files.items():
        (first.out / name).parent.mkdir(exist_ok=True)
        (first.out / name).write_text(text)
    write_model(first.out / "control-1" / "model.safetensors")
    training = replace(first.training, epochs=3)
    return first, replace(first, out=tmp_path / "second", after=first.out, training=training)


def test_a_study_begins_where_another_ended(tmp_path):
    first, second = _ended_study(tmp_path)
    take_over(second)
    taken = load_model(second.out / "dense")[0]
    assert fingerprint(taken) == fingerprint(load_model(first.out / "control-1")[0])
    for name in ("cost.json", "budget.json", "widths.json"):
        assert (second.out / name).read_text() == (first.out / name).read_text()
    # those of the start and of its control
    assert json.loads(held_path(second, "dense").read_text()) == {"parameters": 7, "steps": 3, "counts": [2]}
    assert networks.search_widths(second) == (8, 16)
    names = [task.name for task in jobs.left_of(second)]
    assert not {"train-dense", "judge-dense", "search"} & set(names)
    assert {"train-pruned-1", "train-control-2", "train-scratch-1"} <= set(names)
    assert second.longer.epochs == 5
    # the networks of the first are not mistaken for these, nor for those of a study without a first
    assert first.training_facts in second.training_facts
    with pytest.raises(FormatError, match=r"other trainings.* give --after the folder of that study"):
        replace(second, after=None).claim_trainings()
    # nothing is searched here
    assert replace(second, method="evolution", score_steps=9).training_facts == second.training_facts
    with pytest.raises(FormatError, match="says what --after goes on from"):
        replace(second, out=tmp_path / "third", after=tmp_path / "none").claim_trainings()
    # another machine has not the first
    first.out.rename(tmp_path / "gone")
    take_over(second)
    second.claim_trainings()


def test_what_a_study_cannot_begin_from_is_refused_before_anything_is_written(tmp_path):
    first, second = _ended_study(tmp_path)
    with pytest.raises(
        RangeError, match="had 3 steps, 3 epochs of 1 steps, and the study says 4; give --epo"
    ):
        take_over(replace(second, training=replace(second.training, epochs=4)))
    with pytest.raises(FormatError, match=r"first holds another study .* same network, streets and share"):
        take_over(replace(second, share=0.5))
    (first.out / "held" / "control-1.json").unlink()
    (first.out / "widths.json").unlink()
    with pytest.raises(FormatError, match=r"first lacks widths\.json, held/control-1\.json; --after takes"):
        take_over(second)
    assert not second.out.exists()


@pytest.mark.parametrize("found", ["dense", "widths.json", "held", "scratch-1"])
def test_networks_without_a_word_of_their_trainings_are_not_taken_over(tmp_path, found):
    study = _study(tmp_path)
    if found == "widths.json":
        (tmp_path / found).write_text("[8]")
    else:
        (tmp_path / found).mkdir()
    with pytest.raises(FormatError, match=rf"holds {found} and no trainings\.txt, .*another --out") as error:
        study.claim_trainings()
    assert study.training_facts in str(error.value)
    assert not (tmp_path / "trainings.txt").exists()
    # as the text says
    (tmp_path / "trainings.txt").write_text(study.training_facts)
    study.claim_trainings()


def test_a_second_call_starts_no_process_for_what_the_first_has_done(tmp_path):
    study = _study(tmp_path, seeds=1, jobs=2, place=Place("cuda"))
    assert jobs.left_of(study) == jobs.tasks_of(study)
    study = replace(study, streets=_streets(tmp_path / "streets"))
    assert not [task for task in jobs.left_of(study) if task.name.startswith("render")]
    for network in ("dense", "control-1"):
        held_path(study, network).parent.mkdir(exist_ok=True)
        held_path(study, network).write_text("{}")
    (tmp_path / "widths.json").write_text("[8]")
    for name in ("dense/log.csv", "scratch-1/ended.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert {task.name: task.after for task in jobs.left_of(study)} == {
        "train-pruned-1": (), "judge-cut": (), "judge-scratch-1": (), "judge-pruned-1": ("train-pruned-1",),
    }  # fmt: skip


class _Process:
    def __init__(self, status):
        self.status, self.looks, self.ended = status, 2, False

    def poll(self):
        self.looks -= 1
        return self.status if self.looks <= 0 else None

    def terminate(self):
        self.ended = True

    def wait(self):
        return self.status


def test_tasks_wait_for_those_before_them_and_a_failed_training_is_tried_once_more(monkeypatch):
    monkeypatch.setattr(jobs, "_LOOK", 0.0)
    tasks = [
        Task("warm", optional=True), Task("render"), Task("train-dense", ("render", "warm")),
        Task("search", ("train-dense",)), Task("train-pruned", ("search",)), Task("judge", ("train-dense",)),
    ]  # fmt: skip
    status = {"warm": [1], "train-dense": [1, 0], "search": [1]}
    begun = []

    def start(task, again):
        begun.append((task.name, again))
        return _Process(status.get(task.name, [0]).pop(0) if task.name in status else 0)

    assert jobs.schedule(tasks, 2, start, retries=True) == ["search", "train-pruned"]
    assert begun == [
        ("warm", False), ("render", False), ("train-dense", False), ("train-dense", True),
        ("search", False), ("judge", False),
    ]  # fmt: skip
    begun.clear()
    status.update({"warm": [0], "train-dense": [2, 2], "search": [0]})
    lost = ["train-dense", "search", "train-pruned", "judge"]
    assert jobs.schedule(tasks, 1, start, retries=True) == lost
    # a processor has no graphs to do without
    begun.clear()
    status.update({"warm": [0], "train-dense": [2, 0]})
    assert jobs.schedule(tasks, 1, start, retries=False) == lost
    assert ("train-dense", True) not in begun


def test_what_only_prepares_is_ended_when_nothing_is_left_to_prepare_for(monkeypatch):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        assert len(looks) < 20, "waits for ever"

    monkeypatch.setattr(jobs.time, "sleep", sleep)
    warm = _Process(None)
    tasks = [Task("warm", optional=True), Task("render"), Task("train-dense", ("render", "warm"))]

    def start(task, again):
        return warm if task.name == "warm" else _Process(1)

    # the warm one waits for sweeps that nobody renders
    assert jobs.schedule(tasks, 2, start, retries=True) == ["render", "train-dense"]
    assert warm.ended


@pytest.mark.parametrize(("device", "retries"), [("cpu", False), ("cuda", True)])
def test_trainings_are_tried_again_on_a_gpu_alone(tmp_path, monkeypatch, device, retries):
    asked = []
    monkeypatch.setattr(jobs, "schedule", lambda *given, **more: asked.append(more) or [])
    jobs.run_processes(_study(tmp_path, place=Place(device), jobs=2), [])
    assert asked == [{"retries": retries}]


def test_processes_end_with_the_one_that_started_them(monkeypatch):
    monkeypatch.setattr(jobs, "_LOOK", 0.0)
    running = _Process(None)

    def start(task, again):
        if task.name == "second":
            raise KeyboardInterrupt
        return running

    with pytest.raises(KeyboardInterrupt):
        jobs.schedule([Task("first"), Task("second")], 2, start, retries=True)
    assert running.ended


def test_the_longest_trainings_begin_first_and_narrow_ones_may_be_fewer(tmp_path):
    names = [task.name for task in jobs.tasks_of(_study(tmp_path, seeds=3, narrow_seeds=1))]
    seeded = [f"{name}-{seed}" for name in ("control", "pruned") for seed in (1, 2, 3)]
    assert [name for name in names if name.startswith("train-")] == [
        "train-dense", "train-scratch-1", *(f"train-{network}" for network in seeded)
    ]  # fmt: skip
    assert {name for name in names if name.startswith("judge-")} == {
        "judge-dense", "judge-cut", "judge-scratch-1", *(f"judge-{network}" for network in seeded)
    }  # fmt: skip
    assert _study(tmp_path, seeds=2).networks[-2:] == ["scratch-1", "scratch-2"]
    fewer = _study(tmp_path, seeds=3, control_seeds=1)
    assert [name for name in fewer.seeded if name.startswith("control")] == ["control-1"]
    assert len(fewer.seeded) == 7
    for name in ("narrow_seeds", "control_seeds"):
        with pytest.raises(RangeError, match=rf"{name} must be in 0 \.\.\. 2, the seeds, got 3"):
            _study(tmp_path, seeds=2, **{name: 3})


@pytest.mark.parametrize(("distill", "waits"), [(1.0, True), (0.0, False)])
def test_a_narrow_network_waits_for_the_dense_one_only_where_that_teaches_it(tmp_path, distill, waits):
    tasks = {task.name: task for task in jobs.tasks_of(_study(tmp_path, distill=distill, jobs=2))}
    assert ("train-dense" in tasks["train-scratch-1"].after) is waits
    # without a teacher it waits for the streets itself
    assert waits or {"render-0-2", "render-1-2"} <= set(tasks["train-scratch-1"].after)
    assert "train-dense" in tasks["train-control-1"].after


def test_a_narrow_network_that_nobody_teaches_needs_no_dense_one(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(networks, "costs_of", lambda study: None)
    monkeypatch.setattr(networks, "narrow_model", lambda costs, seed: seed)
    monkeypatch.setattr(networks, "train_on", lambda *given: made.append(given))
    networks.train_network(_study(tmp_path, distill=0.0), "scratch-2")
    ((_, model, training, folder, teacher, _),) = made
    assert (model, training.seed, folder.name, teacher) == (102, 102, "scratch-2", None)


def test_kernels_are_compiled_ahead_where_there_is_a_gpu_and_processes(tmp_path):
    def warm(**changes):
        return [task.name for task in jobs.tasks_of(_study(tmp_path, **changes)) if task.optional]

    assert warm() == warm(jobs=4) == warm(place=Place("cuda")) == []
    assert warm(jobs=4, place=Place("cuda")) == ["warm-dense", "warm-scratch", "warm-cpu"]


def test_a_gpu_stores_the_network_at_the_end_alone_and_changes_nothing_else(tmp_path):
    settings = Training(epochs=7, resident=True).settings(0.2)
    assert Place().of(settings) == settings
    gpu = Place("cuda", "never").of(settings)
    assert (gpu.store_every, gpu.checkpoint_every, gpu.time_limit) == (7, 0, 0.0)
    assert run_facts(gpu) == run_facts(settings)


def test_a_training_may_take_what_is_left_and_what_it_took_before(monkeypatch):
    monkeypatch.setattr(streets_module.time, "time", lambda: 1000.0)
    settings = Training().settings(0.2)
    assert Place(until=1090.0).of(settings).time_limit == 90.0
    assert Place(until=1090.0).of(settings, spent=40.0).time_limit == 130.0
    # a time that has passed is no lack of a limit
    assert Place(until=990.0).of(settings).time_limit == 1.0
    assert Place(until=1090.0).part(1 / 3).until == 1030.0
    assert Place(until=990.0).part(0.5).until == 1000.0
    assert Place().part(0.5).of(settings, spent=40.0).time_limit == 0.0


def test_a_training_that_goes_on_has_all_the_time_until_the_end_and_ends_once(tmp_path, monkeypatch):
    limits = []

    def fit(model, source, val_set, settings, folder, **more):
        limits.append(settings.time_limit)
        return FitResult(5, 9, None, 0, None, timed_out=settings.time_limit > 0)

    monkeypatch.setattr(streets_module, "fit", fit)
    streets, training = _streets(tmp_path / "streets"), Training(validate_every=0)
    monkeypatch.setattr(streets_module.time, "time", lambda: 1000.0)
    for name, place in (("old", Place(until=1009.0)), ("new", Place(until=1009.0)), ("free", Place())):
        (tmp_path / name).mkdir()
        if name != "new":
            torch.save({"seconds": 40.0}, tmp_path / name / "last.pt")
        for _ in range(2):
            assert train_on(streets, None, training, tmp_path / name, place=place) == tmp_path / name
    # nothing that has begun from a network finds another one later
    assert limits == [49.0, 9.0, 0.0, 0.0]
    assert [has_ended(tmp_path / name) for name in ("old", "new", "free")] == [True, True, False]
    monkeypatch.setattr(streets_module, "fit", lambda *given, **more: FitResult(9, 9, None, 0, None))
    train_on(streets, None, training, tmp_path / "free")
    assert has_ended(tmp_path / "free")
    with pytest.raises(FormatError, match="of other settings"):
        train_on(streets, None, replace(training, epochs=training.epochs + 1), tmp_path / "free")


def test_a_study_is_the_same_wherever_its_files_are(tmp_path):
    study = _study(tmp_path / "a")
    moved = replace(study, out=tmp_path / "b", streets=Streets(tmp_path / "c"), place=Place("cuda"), jobs=9)
    assert moved.facts == study.facts
    assert str(tmp_path) not in study.facts
    assert replace(study, share=0.5).facts != study.facts
