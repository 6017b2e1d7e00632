"""A file is there whole or not at all."""

import errno
import os
import subprocess
import sys

import pytest

from pcsparse.whole_file import remove_leftovers, write_whole


def test_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_whole(target, b"old")

    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr("pcsparse.whole_file.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("pcsparse.whole_file.os.fsync", full)
    with pytest.raises(OSError, match=rf"No space left on device: '{tmp_path}/file'$"):
        write_whole(tmp_path / "file", b"new")
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/nowhere/file'$"):
        write_whole(tmp_path / "nowhere/file", b"new")


def test_a_disk_where_nothing_can_be_removed_is_told_as_it_was(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pcsparse.whole_file.Path.unlink", refuse)
    monkeypatch.setattr("pcsparse.whole_file.os.fsync", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_whole(tmp_path / "file", b"new")


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    killed = subprocess.run(
        [
            sys.executable, "-c",
            "import os, sys; from pathlib import Path; from pcsparse.whole_file import whole_file\n"
            "with whole_file(Path(sys.argv[1])) as name:\n"
            "    name.write_bytes(b'half'); os._exit(1)",
            str(tmp_path / "last.pt"),
        ],
        check=False,
    )  # fmt: skip
    assert killed.returncode == 1
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".last.")
    for name in ("last.pt", ".hidden", ".notes.tmp", ".a.12.tmp.pt"):
        (tmp_path / name).write_bytes(b"")
    living = f".model.{os.getppid()}.7.tmp.json"
    for name in (living, f".model.{os.getpid()}.7.tmp.json", ".last.99999999999999999999.7.tmp.pt"):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "last.pt", ".hidden", ".notes.tmp", ".a.12.tmp.pt", living,
    }  # fmt: skip
