"""The state of a run on disk: nothing is lost, no code is run, no other run is continued."""

import io
import pickle
from dataclasses import fields, replace

import pytest
import torch

from pcsparse.errors import FormatError
from pcsparse.train.checkpoint import (
    TrainState,
    load_state,
    rng_state,
    run_facts,
    save_state,
    seconds_spent,
    set_rng_state,
)
from pcsparse.train.settings import FitSettings, OptimSettings

CPU = torch.device("cpu")
FACTS = {"epochs": "3", "n_train": "8"}


def state_after(steps=3):
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(steps):
        layer(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return TrainState(steps, 0.25, 1, FACTS, layer.state_dict(), optimizer.state_dict(), {}, rng_state(CPU))


def same(one, two):
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and one == two


def test_a_state_comes_back_bit_for_bit(tmp_path):
    state = state_after()
    save_state(tmp_path / "last.pt", state)
    loaded = load_state(tmp_path / "last.pt", FACTS, CPU)
    for field in fields(TrainState):
        assert same(getattr(loaded, field.name), getattr(state, field.name)), field.name
    expected = torch.rand(5)
    set_rng_state(loaded.rng, CPU)
    assert torch.equal(torch.rand(5), expected)


def test_the_seconds_of_a_run_are_told_where_there_is_one(tmp_path):
    assert seconds_spent(tmp_path) == 0.0
    save_state(tmp_path / "last.pt", replace(state_after(), seconds=12.5))
    assert seconds_spent(tmp_path) == 12.5
    (tmp_path / "last.pt").write_bytes(b"PK")
    assert seconds_spent(tmp_path) == 0.0


def test_the_seconds_of_a_run_are_read_without_its_weights(tmp_path, monkeypatch):
    save_state(tmp_path / "last.pt", replace(state_after(), seconds=12.5))
    read, mapped = torch.load, []

    def load(*given, **more):
        mapped.append(more.get("mmap"))
        return read(*given, **more)

    monkeypatch.setattr(torch, "load", load)
    assert seconds_spent(tmp_path) == 12.5
    # a state that torch wrote before its files were archives cannot be mapped
    content = {"seconds": 3.5, "model": {"w": torch.zeros(2)}}
    torch.save(content, tmp_path / "last.pt", _use_new_zipfile_serialization=False)
    assert seconds_spent(tmp_path) == 3.5
    assert mapped == [True, True, None]


def test_a_killed_write_leaves_the_old_state(tmp_path, monkeypatch):
    path = tmp_path / "last.pt"
    save_state(path, state_after(1))
    monkeypatch.setattr("pcsparse.whole_file.os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_state(path, state_after(2))
    assert load_state(path, FACTS, CPU).step == 1


def test_another_run_is_not_continued(tmp_path):
    save_state(tmp_path / "last.pt", state_after())
    with pytest.raises(FormatError, match=r"epochs: 3 then, 4 now.*seed: nothing then, 1 now.*overwrite"):
        load_state(tmp_path / "last.pt", {"epochs": "4", "n_train": "8", "seed": "1"}, CPU)


@pytest.mark.parametrize("size", [0, 10, 1000])
def test_a_truncated_state_is_named(tmp_path, size):
    path = tmp_path / "last.pt"
    save_state(path, state_after())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FormatError, match=r"last\.pt is not the state of a run"):
        load_state(path, FACTS, CPU)


def test_code_in_a_state_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    buffer = io.BytesIO()
    torch.save({"format": 1, "step": Bomb()}, buffer)
    for content in (buffer.getvalue(), pickle.dumps(Bomb(), protocol=2)):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(FormatError, match="not the state of a run"):
            load_state(tmp_path / "last.pt", FACTS, CPU)


def test_another_format_or_content_is_named(tmp_path):
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(FormatError, match="format 99"):
        load_state(tmp_path / "last.pt", FACTS, CPU)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "last.pt")
    with pytest.raises(FormatError, match="KeyError"):
        load_state(tmp_path / "last.pt", FACTS, CPU)


def test_facts_hold_what_shapes_the_numbers_and_nothing_else():
    base = FitSettings()
    assert run_facts(base, n_train=3) == run_facts(replace(base, workers=7, progress="none"), n_train=3)
    assert run_facts(base, n_train=3) != run_facts(base, n_train=4)
    for change in (
        {"seed": 1},
        {"optim": OptimSettings(lr=1.0)},
        {"precision": "bfloat16"},
        {"accumulate": 2},
    ):
        assert run_facts(base) != run_facts(replace(base, **change))
