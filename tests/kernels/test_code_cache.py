"""First use in a fresh process: said once, kept, and survived where nothing can be kept."""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("fcntl")

_PROGRAM = """
import torch
from pcsparse.kernels import cpu
unique, inverse, first = cpu.unique_keys(torch.tensor([3, 1, 3, 2]))
assert unique.tolist() == [1, 2, 3] and inverse.tolist() == [2, 0, 2, 1] and first.tolist() == [1, 3, 0]
print("right")
"""
_ANNOUNCEMENT = "pcsparse: compiling CPU kernels for their first use"


def _first_use(cache: Path, program: str = _PROGRAM, **limits) -> list[str]:
    """Lines on stderr of a new process whose kernels are kept in `cache`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CACHE")}
    environment |= {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-W", "default", "-c", program]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False, **limits
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "right\n"
    return [line for line in done.stderr.splitlines() if line.strip()]


def _stored(cache: Path, ending: str) -> list[Path]:
    return sorted(cache.glob(f"pcsparse/numba/*/*{ending}"))


def test_compiling_is_said_once_and_kept_and_a_broken_file_is_made_again(tmp_path):
    [said] = _first_use(tmp_path)
    assert said.startswith(_ANNOUNCEMENT)
    index, code = _stored(tmp_path, ".nbi"), _stored(tmp_path, ".nbc")
    assert len(index) == len(code) > 0
    assert str(index[0].parent) in said

    assert _first_use(tmp_path) == []

    # a disk that was full leaves anything behind
    for path in (*index, *code):
        path.write_bytes(path.read_bytes()[:20])
    said = _first_use(tmp_path)
    assert any("cannot be read" in line and "are made again" in line for line in said)
    assert min(path.stat().st_size for path in (*index, *code)) > 20


def test_where_nothing_can_be_kept_it_works_and_warns(tmp_path):
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    said = _first_use(no_folder)

    [warning] = [line for line in said if "RuntimeWarning" in line]
    assert "cannot be kept" in warning
    assert str(no_folder) in warning
    assert "set XDG_CACHE_HOME to a folder that can be written" in warning


def test_a_full_disk_is_no_crash(tmp_path):
    # the operating system refuses every byte
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    said = _first_use(tmp_path, preexec_fn=full)

    assert len([line for line in said if "RuntimeWarning" in line and "cannot be kept" in line]) == 1
    assert _stored(tmp_path, ".nbc") == []


def test_one_process_writes_at_a_time(tmp_path, monkeypatch):
    from pcsparse.kernels.cpu import code_cache

    monkeypatch.setattr(code_cache, "code_folder", lambda: tmp_path / "code")
    second_is_in = threading.Event()

    def second() -> None:
        with code_cache._sole_writer():
            second_is_in.set()

    with code_cache._sole_writer():
        other = threading.Thread(target=second)
        other.start()
        assert not second_is_in.wait(0.2)
    assert second_is_in.wait(10)
    other.join()


def test_the_folder_is_named_by_what_shapes_the_code(tmp_path, monkeypatch):
    from pcsparse.kernels.cpu import code_cache

    folder = code_cache.code_folder.__wrapped__
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = folder()
    assert here.parent == tmp_path / "pcsparse" / "numba"
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    assert folder().name != here.name
    monkeypatch.delenv("NUMBA_CPU_NAME")
    # an edit of any source, not only that of the function
    edited = tmp_path / "kernels" / "cpu"
    edited.mkdir(parents=True)
    real = Path(code_cache.__file__).parent
    for copy, folder_of in ((edited, real), (edited.parent, real.parent)):
        for source in folder_of.glob("*.py"):
            (copy / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(code_cache, "__file__", str(edited / "code_cache.py"))
    assert folder().name == here.name
    (edited / "microkernel.py").write_text("# changed\n")
    assert folder().name != here.name
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "other"))
    assert folder().is_relative_to(tmp_path / "other")


def test_names_follow_from_the_file_of_a_function(tmp_path):
    from pcsparse.kernels.cpu import code_cache

    # a caller's bytecode stays as it is when a function that it calls is edited
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    first.write_text("def callee(x): return x + 1\n")
    second.write_text("def callee(x): return x + 2\n")
    names = [
        code_cache._Locator.from_function(test_names_follow_from_the_file_of_a_function, str(file))
        for file in (first, second, first, tmp_path / "gone.py")
    ]
    one, two, again, gone = (name.get_disambiguator() for name in names)
    assert one == again
    assert len({one, two, gone}) == 3


def test_a_user_without_a_home_gets_a_folder_that_cannot_be_made(monkeypatch):
    from pcsparse.kernels.cpu import code_cache

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(OSError, match=os.devnull):
        code_cache.code_folder.__wrapped__().mkdir(parents=True)
