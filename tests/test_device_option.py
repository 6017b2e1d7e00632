"""What `--device cuda` changes in a run of the tests, and how waits are counted there; without a GPU."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from pcsparse.kernels import gpu_libraries
from tests import conftest, emulation
from tests.emulation import gpu_kernels
from tests.host_waits import host_waits


def _item(name: str, *asked: str, mark: str | None = None) -> SimpleNamespace:
    marks = {mark: mark}
    return SimpleNamespace(nodeid=name, fixturenames=list(asked), get_closest_marker=marks.get)


def _select(items: list[SimpleNamespace], **options: object) -> tuple[list[str], list[str]]:
    """What stays, and what is left out."""
    left_out = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left_out.extend(items))
    given = {"--device": "cpu"} | {f"--{name}": value for name, value in options.items()}
    given["numprocesses"] = given.pop("--processes", None)
    config = SimpleNamespace(getoption=lambda name, default=None: given.get(name, default), hook=hook)
    conftest.pytest_collection_modifyitems(config, items)
    return [item.nodeid for item in items], [item.nodeid for item in left_out]


@pytest.mark.parametrize(("option", "kept"), [("cpu", "abcde"), ("cuda", "bcd")])
def test_what_touches_no_device_is_left_to_the_cpu(option, kept):
    items = [
        _item("a", "rng"), _item("b", "rng", "device"), _item("c", "gpu_or_emulated"), _item("d", mark="gpu"),
        _item("e", mark="slow"),
    ]  # fmt: skip
    assert _select(items, device=option) == (list(kept), [c for c in "abcde" if c not in kept])


@pytest.mark.parametrize("missing", ["cupy", "triton"])
def test_a_gpu_without_its_libraries_is_refused_before_any_test(monkeypatch, missing):
    config = SimpleNamespace(getoption=lambda _: "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(pytest.UsageError, match=r"--device cuda: torch .* sees no CUDA device"):
        conftest.pytest_configure(config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_libraries, "find_spec", lambda name: None if name == missing else sys)
    with pytest.raises(pytest.UsageError, match=rf"--device cuda: .* need {missing}, .*'pcsparse\[gpu13\]'"):
        conftest.pytest_configure(config)


@pytest.mark.parametrize("interpreted", [True, False])
def test_cupy_has_a_stand_in_only_where_kernels_are_emulated(monkeypatch, interpreted):
    # as on a machine without it
    monkeypatch.setattr(emulation, "find_spec", lambda name: None if name == "cupy" else sys)
    monkeypatch.setattr(emulation.importlib, "import_module", lambda name: sys.modules.get("cupy"))
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    if interpreted:
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    else:
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert (gpu_kernels() is not None) == interpreted


def _grid() -> list[SimpleNamespace]:
    return [_item(f"x.py::{test}[{i}-{j}]", "device") for test in "ab" for i in range(10) for j in range(4)]


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({"device": "cpu"}, 40),
        ({"device": "cuda"}, 8),
        ({"device": "cuda", "processes": 4}, 40),
        ({"device": "cuda", "cases": 0}, 40),
        ({"device": "cpu", "cases": 3}, 3),
    ],
)
def test_some_cases_of_each_test_stand_for_all(options, each):
    kept, left_out = _select(_grid(), **options)
    assert [sum(name.startswith(f"x.py::{test}[") for name in kept) for test in "ab"] == [each, each]
    assert sorted(kept + left_out) == sorted(item.nodeid for item in _grid())
    # neither one row of the grid nor one column of it
    assert each == 40 or min(len({name[i] for name in kept}) for i in (8, 10)) > 1
    assert _select(_grid(), **options)[0] == kept


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


@pytest.fixture
def modes(monkeypatch):
    """What torch's switch was set to, with a stand-in for it."""
    modes = []

    def switch(mode):
        modes.append(mode)
        # once a process
        warnings.warn("a prototype that does not yet detect all synchronizing operations", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", switch)
    return modes


def test_waits_of_a_gpu_are_those_that_torch_warns_of(modes):
    with host_waits(torch.device("cuda")) as waits:
        found = [len(waits.places)]
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        found.append(len(waits.places))
        warnings.warn("something else", stacklevel=1)
    assert found == [0, 1]
    assert waits.places == [f"{__file__}:{waits.places[0].rpartition(':')[2]}"]
    assert modes == ["warn", 0]


def test_a_letter_that_is_long_in_coming_is_one_wait(modes, monkeypatch):
    gpu_kernels()
    from pcsparse.kernels.gpu.mailbox import Mailbox

    monkeypatch.setattr(
        Mailbox, "read", lambda box, words: warnings.warn("called a synchronizing one", stacklevel=1) or [5]
    )
    with host_waits(torch.device("cuda")) as waits:
        assert Mailbox.read(None, 1) == [5]
    assert len(waits.places) == 1
