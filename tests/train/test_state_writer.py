"""States that are written beside a training: whole, the last one too, and never of a later step."""

import threading

import pytest
import torch

from pcsparse.train import state_writer
from pcsparse.train.checkpoint import TrainState, load_state, save_state
from pcsparse.train.state_writer import StateWriter

CPU = torch.device("cpu")


def _state(step):
    weights = {"w": torch.full((3,), float(step)), "n": torch.tensor(step)}
    moments = {
        "state": {0: {"m": torch.full((2,), float(step))}},
        "param_groups": [{"lr": 0.1, "params": [0]}],
    }
    return TrainState(step, -1.0, 0, {}, weights, moments, {}, {"cpu": torch.get_rng_state()}, 1.5)


@pytest.fixture
def slow_disk(monkeypatch):
    """Writes wait for it to be set; the steps that were written, with their weights."""
    goes_on, steps = threading.Event(), []

    def save(path, state):
        assert goes_on.wait(10.0)
        save_state(path, state)
        steps.append((state.step, state.model["w"].tolist()))

    monkeypatch.setattr(state_writer, "save_state", save)
    return goes_on, steps


def test_a_copy_is_written_and_a_step_later_changes_nothing(tmp_path, slow_disk):
    live = _state(1)
    with StateWriter(tmp_path / "last.pt", beside=True) as states:
        states.offer(lambda: live, due=True, ends=False)
        for value in (live.model["w"], live.model["n"], live.optimizer["state"][0]["m"]):
            value.fill_(7)
        slow_disk[0].set()
    stored = load_state(tmp_path / "last.pt", {}, CPU)
    assert stored.model["w"].tolist() == [1.0, 1.0, 1.0]
    assert int(stored.model["n"]) == 1
    assert stored.optimizer["state"][0]["m"].tolist() == [1.0, 1.0]
    assert (stored.step, stored.seconds) == (1, 1.5)
    assert stored.optimizer["param_groups"] == live.optimizer["param_groups"]
    assert torch.equal(stored.rng["cpu"], live.rng["cpu"])


def test_a_slow_disk_holds_no_step_up_and_the_next_step_that_can_is_stored(tmp_path, slow_disk):
    goes_on, steps = slow_disk
    with StateWriter(tmp_path / "last.pt", beside=True) as states:
        for step in (1, 2, 3):
            states.offer(lambda step=step: _state(step), due=step < 3, ends=False)
        goes_on.set()
        states.wait()
        # the second was due and had to wait
        states.offer(lambda: _state(4), due=False, ends=False)
        states.wait()
        states.offer(lambda: _state(5), due=False, ends=False)
    assert steps == [(step, [float(step)] * 3) for step in (1, 4)]


def test_the_last_state_waits_for_the_one_before(tmp_path, slow_disk):
    goes_on, steps = slow_disk
    threading.Timer(0.05, goes_on.set).start()
    with StateWriter(tmp_path / "last.pt", beside=True) as states:
        states.offer(lambda: _state(1), due=True, ends=False)
        states.offer(lambda: _state(2), due=True, ends=True)
    # in the same memory, one after the other
    assert steps == [(step, [float(step)] * 3) for step in (1, 2)]
    assert load_state(tmp_path / "last.pt", {}, CPU).step == 2


def test_an_error_of_the_training_leaves_the_state_that_was_under_way(tmp_path, slow_disk):
    def break_down():
        with StateWriter(tmp_path / "last.pt", beside=True) as states:
            states.offer(lambda: _state(3), due=True, ends=False)
            slow_disk[0].set()
            raise KeyError

    with pytest.raises(KeyError):
        break_down()
    assert load_state(tmp_path / "last.pt", {}, CPU).step == 3


def test_an_error_of_the_training_says_that_the_disk_refused_a_state_too(tmp_path, monkeypatch):
    def save(path, state):
        raise OSError("full")

    monkeypatch.setattr(state_writer, "save_state", save)

    def break_down(*, due):
        with StateWriter(tmp_path / "last.pt", beside=True) as states:
            states.offer(lambda: _state(3), due=due, ends=False)
            raise KeyError("sweep 7")

    with pytest.raises(KeyError, match="sweep 7") as error:
        break_down(due=True)
    (note,) = error.value.__notes__
    assert note == f"the state that was under way to {tmp_path / 'last.pt'} was not written: OSError: full"
    with pytest.raises(KeyError) as error:
        break_down(due=False)
    assert not hasattr(error.value, "__notes__")


def test_a_refused_state_that_was_raised_is_no_note_on_itself(tmp_path, monkeypatch):
    def save(path, state):
        raise OSError("full")

    monkeypatch.setattr(state_writer, "save_state", save)

    def wait():
        with StateWriter(tmp_path / "last.pt", beside=True) as states:
            states.offer(lambda: _state(1), due=True, ends=False)
            states.wait()

    with pytest.raises(OSError, match="full") as error:
        wait()
    assert not hasattr(error.value, "__notes__")


@pytest.mark.parametrize("later", [True, False])
def test_what_the_disk_refuses_is_told(tmp_path, later):
    def offer_twice():
        with StateWriter(tmp_path / "none" / "last.pt", beside=True) as states:
            states.offer(lambda: _state(1), due=True, ends=False)
            if later:
                states.offer(lambda: _state(2), due=True, ends=True)

    with pytest.raises(FileNotFoundError):
        offer_twice()


def test_the_last_state_is_written_though_the_disk_refused_the_one_before(tmp_path, monkeypatch):
    refused = []

    def save(path, state):
        if not refused:
            refused.append(state.step)
            raise OSError("full")
        save_state(path, state)

    monkeypatch.setattr(state_writer, "save_state", save)
    with StateWriter(tmp_path / "last.pt", beside=True) as states:
        states.offer(lambda: _state(1), due=True, ends=False)
        states.offer(lambda: _state(2), due=False, ends=True)
    assert refused == [1]
    assert load_state(tmp_path / "last.pt", {}, CPU).step == 2


def test_a_refused_state_is_told_at_the_next_step(tmp_path, monkeypatch):
    def save(path, state):
        raise OSError("full")

    monkeypatch.setattr(state_writer, "save_state", save)
    states = StateWriter(tmp_path / "last.pt", beside=True)
    states.offer(lambda: _state(1), due=True, ends=False)
    with pytest.raises(OSError, match="full"):
        states.wait()
    with pytest.raises(OSError, match="full"):
        states.offer(lambda: _state(2), due=False, ends=False)
