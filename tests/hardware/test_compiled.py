"""Compiled cycle models do not outlive their source."""

import importlib.util
import sys

import numpy as np
import pytest

MODEL = """
from pcsparse.hardware.compiled import jit_model

@jit_model
def step():
    return {value}

@jit_model
def run():
    return step()
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Write a model and import it anew, as a process after an edit would."""
    monkeypatch.setattr("pcsparse.hardware.compiled.code_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("pcsparse.kernels.cpu.code_cache.code_folder", lambda: tmp_path / "cache")
    path = tmp_path / "edited_model.py"

    def write(value: int):
        path.write_text(MODEL.format(value=value))
        spec = importlib.util.spec_from_file_location("edited_model", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "edited_model", module)
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
        return module

    return write


def test_an_edit_of_what_a_kernel_calls_compiles_it_again(load, tmp_path):
    assert load(1).run() == 1
    # the body of `run` and its line are the same, and so are its signature and name
    assert load(2).run() == 2
    kept = sorted(file.name for file in (tmp_path / "cache").glob("*run*.nbi"))
    assert len(kept) == 2
    # and what is kept is used again
    again = load(1)
    assert again.run() == 1
    assert np.sum(list(again.run.stats.cache_hits.values())) == 1
