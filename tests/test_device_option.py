"""What `--device cuda` changes in a run of the tests, and how waits are counted there; without a GPU."""

import warnings
from types import SimpleNamespace

import pytest
import torch

from tests import conftest
from tests.host_waits import host_waits


def _item(name: str, *asked: str, mark: str | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        fixturenames=list(asked),
        get_closest_marker=lambda wanted: mark if wanted == mark else None,
    )


@pytest.mark.parametrize(("option", "kept"), [("cpu", "abcde"), ("cuda", "bcd")])
def test_what_touches_no_device_is_left_to_the_cpu(option, kept):
    items = [
        _item("a", "rng"), _item("b", "rng", "device"), _item("c", "gpu_or_emulated"), _item("d", mark="gpu"),
        _item("e", mark="slow"),
    ]  # fmt: skip
    left_out = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    conftest.pytest_collection_modifyitems(SimpleNamespace(getoption=lambda _: option, hook=hook), items)
    assert "".join(item.name for item in items) == kept
    assert "".join(item.name for item in left_out) == "".join(c for c in "abcde" if c not in kept)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [("def test_x(rng): ...", True), ("def test_x(rng, device): ...", None), ("@pytest.mark.gpu", None)],
)
def test_a_file_that_names_no_device_is_not_imported(tmp_path, text, left_out):
    file = tmp_path / "test_x.py"
    file.write_text(text)
    found = [
        conftest.pytest_ignore_collect(path, SimpleNamespace(getoption=lambda _, option=option: option))
        for path, option in ((file, "cuda"), (file, "cpu"), (tmp_path, "cuda"))
    ]
    assert found == [left_out, None, None]


def test_waits_of_a_gpu_are_those_that_torch_warns_of(monkeypatch):
    modes = []

    def switch(mode):
        modes.append(mode)
        # once a process
        warnings.warn("a prototype that does not yet detect all synchronizing operations", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switch)
    with host_waits(torch.device("cuda")) as waits:
        found = [len(waits.places)]
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        found.append(len(waits.places))
        warnings.warn("something else", stacklevel=1)
    assert found == [0, 1]
    assert waits.places == [f"{__file__}:{waits.places[0].rpartition(':')[2]}"]
    assert modes == ["warn", 0]
