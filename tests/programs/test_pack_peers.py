"""`scripts/pack_peers.py` with wheels that are made up here: no network, no GPU."""

import runpy
import shlex
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.programs import pack_peers
from pcsparse.programs.pack_peers import PEERS, Added, PackSettings, run
from tests.bench.test_fat_binary import NEW, OLD, binary, library

ROOT = Path(__file__).resolve().parents[2]
FAT, CUT = library(binary(OLD, NEW)), library(binary(NEW) + bytes(len(OLD)))


@pytest.fixture
def settings(tmp_path) -> PackSettings:
    work, out = tmp_path / "work", tmp_path / "out"
    return PackSettings("3.12", "2.11", "13.0", 90, False, tuple(PEERS), (), work, out)


@pytest.fixture
def download() -> Callable[[str, str, Path], Path]:
    """One wheel a requirement: a module, and in spconv's a library for two GPUs."""
    asked = []

    def make(requirement: str, python: str, folder: Path) -> Path:
        asked.append((requirement, python))
        name = requirement.partition("=")[0].partition(">")[0].replace("-", "_")
        path = folder / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr(f"{name}/__init__.py", f"name = {name!r}\n")
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\n")
            if name.startswith("spconv_cu"):
                wheel.writestr(f"{name}/core.so", FAT)
        return path

    make.asked = asked
    return make


def test_the_document_installs_the_same_wheels():
    text = (ROOT / "docs/benchmarks.md").read_text()
    lines = [shlex.split(line) for line in text.splitlines() if line.strip().startswith("pip install ")]
    assert all(line[:5] == ["pip", "install", "--no-deps", "--target", "PEERS"] for line in lines)
    assert sorted(sorted(line[5:]) for line in lines) == sorted(sorted(need) for need in PEERS.values())


def contents(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as file:
        return {one.name: file.extractfile(one).read() for one in file.getmembers()}


def test_an_archive_holds_all_wheels_side_by_side_and_says_what_they_are(settings, download):
    assert run(settings, download) == 0
    held = contents(settings.out / "peers-cp312-cu130-sm90.tar.xz")

    names = [r.partition("=")[0].partition(">")[0].replace("-", "_") for need in PEERS.values() for r in need]
    assert {f"{name}/__init__.py" for name in names} <= held.keys()
    assert "spconv_triton-1.0.dist-info/METADATA" in held
    assert held["spconv_cu126/core.so"] == CUT
    lines = held["PEERS.txt"].decode().splitlines()
    assert lines[:3] == [
        "peers for Python 3.12, torch 2.11, CUDA 13.0, sm_90",
        "here: spconv",
        "here: spconv_triton",
    ]
    wheel = settings.work / "wheels-3.12" / "spconv_cu126-1.0-py3-none-any.whl"
    note = f"wheel {wheel.name} sha256 {sha256(wheel.read_bytes()).hexdigest()}"
    place = lines.index(note)
    before, after = sha256(FAT).hexdigest(), sha256(CUT).hexdigest()
    of_two = "sm_90 alone of sm_80, sm_90"
    assert lines[place + 1] == f"  spconv_cu126/core.so: {of_two}; sha256 {before} before, {after} after"


def test_what_is_done_is_not_done_again(settings, download, monkeypatch, capsys):
    run(settings, download)
    first, asked = settings.archive.read_bytes(), len(download.asked)
    monkeypatch.setattr(pack_peers, "write_archive", None)
    capsys.readouterr()
    assert run(settings, download) == 0
    assert "as it was" in capsys.readouterr().out
    assert len(download.asked) == asked

    monkeypatch.undo()
    settings.archive.unlink()
    assert run(settings, download) == 0
    assert settings.archive.read_bytes() == first
    # for another Python it is done
    run(replace(settings, python="3.11"), download)
    assert download.asked[asked:] == [(requirement, "3.11") for requirement, _ in download.asked[:asked]]


def test_libraries_stay_whole_where_that_is_asked_for(settings, download):
    run(settings, download)
    run(replace(settings, whole=True), download)
    held = contents(settings.archive)
    assert held["spconv_cu126/core.so"] == FAT
    assert b"alone of" not in held["PEERS.txt"]


def test_a_part_that_cannot_be_had_is_named_and_the_others_are_packed(settings, download, capsys):
    def refusing(requirement: str, python: str, folder: Path) -> Path:
        if requirement == "pccm":
            raise UnsupportedError("no wheel of pccm")
        return download(requirement, python, folder)

    assert run(settings, refusing) == 1
    held = contents(settings.archive)
    assert "spconv_triton/__init__.py" in held
    assert not any(name.startswith(("spconv_cu", "cumm")) for name in held)
    assert "absent: spconv: no wheel of pccm" in held["PEERS.txt"].decode().splitlines()
    assert "absent: spconv: no wheel of pccm" in capsys.readouterr().out

    assert run(replace(settings, peers=("spconv",), out=settings.out / "none"), refusing) == 1
    assert not (settings.out / "none").exists()


def test_a_gpu_that_a_wheel_has_no_code_for_is_named(settings, download, capsys):
    assert run(replace(settings, arch=120), download) == 1
    assert "absent: spconv: spconv_cu126/core.so: no code for sm_120" in capsys.readouterr().out


def test_folders_are_added_under_the_version_that_is_given(settings, download, tmp_path):
    folder = tmp_path / "ready"
    (folder / "other" / "__pycache__").mkdir(parents=True)
    (folder / "other" / "__init__.py").write_text("")
    (folder / "other" / "__pycache__" / "left.pyc").write_text("")
    (folder / "other" / "backend.so").write_bytes(FAT)
    added = replace(settings, added=(Added.of(f"other@1234abc={folder}"),))
    assert run(added, download) == 0
    held = contents(settings.archive)
    assert held["other/backend.so"] == CUT
    assert "other/__pycache__/left.pyc" not in held
    assert "folder other 1234abc sha256 " in held["PEERS.txt"].decode()

    # what is new in it is seen
    (folder / "other" / "more.py").write_text("")
    run(added, download)
    assert "other/more.py" in contents(settings.archive)


def test_two_files_of_one_name_are_refused(settings, download, tmp_path):
    (tmp_path / "ready" / "pccm").mkdir(parents=True)
    (tmp_path / "ready" / "pccm" / "__init__.py").write_text("another one")
    with pytest.raises(FormatError, match=r"pccm/__init__\.py is in .* and, another one, in .*; pack one"):
        run(replace(settings, added=(Added("mine", "1", tmp_path / "ready"),)), download)
    assert not settings.archive.exists()


def test_an_empty_folder_is_named(settings, download, tmp_path, capsys):
    (tmp_path / "ready").mkdir()
    assert run(replace(settings, added=(Added("mine", "1", tmp_path / "ready"),)), download) == 1
    assert "absent: mine: " in capsys.readouterr().out


@pytest.mark.parametrize("text", ["mine", "mine=here", "mine@=here", "@1=here", "mine@1", "mine@1="])
def test_a_folder_without_name_or_version_is_refused(text):
    with pytest.raises(RangeError, match="NAME@VERSION=FOLDER"):
        Added.of(text)


def test_the_script_hands_its_line_on(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(pack_peers, "run", lambda settings: seen.append(settings) or 0)
    line = [
        "--python",
        "3.11",
        "--arch",
        "80",
        "--whole",
        "--peers",
        "--add",
        f"a@1={tmp_path}",
        "--out",
        "o",
    ]
    monkeypatch.setattr(sys, "argv", ["pack_peers.py", *line])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(ROOT / "scripts" / "pack_peers.py"), run_name="__main__")
    assert seen[0].archive == Path("o/peers-cp311-cu130-sm80.tar.xz")
    assert (seen[0].whole, seen[0].peers, seen[0].added) == (True, (), (Added("a", "1", tmp_path),))


def test_pip_says_why_there_is_no_wheel(tmp_path, monkeypatch):
    class Done:
        returncode, stdout, stderr = 1, "", "one\nno matching distribution\n"

    monkeypatch.setattr(pack_peers.subprocess, "run", lambda *given, **options: Done)
    with pytest.raises(
        UnsupportedError, match=r"no wheel of pccm for Python 3\.12: no matching distribution"
    ):
        pack_peers._pip("pccm", "3.12", tmp_path)
    assert not list(tmp_path.iterdir())
