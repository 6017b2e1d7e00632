"""What a command line names for results is looked at before the work."""

import argparse
import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from pcsparse.cli import main
from pcsparse.programs import bench_device
from pcsparse.programs.output_file import output_file


def test_a_file_may_be_there_or_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    for name in ("there.json", "new.json", "new/folder/file.json", str(tmp_path / "a" / "b.json")):
        assert str(output_file(name)) == name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there.json"]


def test_what_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(argparse.ArgumentTypeError, match="is a folder; name a file in it"):
        output_file(str(tmp_path))
    with pytest.raises(argparse.ArgumentTypeError, match="/file is a file, not a folder"):
        output_file(str(tmp_path / "file/a/out.json"))


@pytest.fixture
def nobody():
    """A folder of the user whom the test is, who is not root."""
    # not tmp_path, which lies in folders that are root's alone
    with TemporaryDirectory() as mine:
        if os.geteuid() == 0:
            os.chown(mine, 65534, 65534)
            os.seteuid(65534)
            yield Path(mine)
            os.seteuid(0)
        else:
            yield Path(mine)
        Path(mine).chmod(0o700)


@pytest.mark.parametrize(
    ("mode", "name", "said"),
    [(0o500, "out.json", "write in"), (0o000, "out.json", "look for"), (0o000, "a/b.json", "look for")],
)
def test_a_folder_without_permission_is_refused(nobody, monkeypatch, mode, name, said):
    # access asks of the real user, whom a test that is root has not changed
    monkeypatch.setattr(os, "access", partial(os.access, effective_ids=True))
    nobody.chmod(mode)
    with pytest.raises(argparse.ArgumentTypeError, match=f"cannot be written: no permission to {said} "):
        output_file(str(nobody / name))


@pytest.mark.parametrize(
    "command",
    [
        lambda out: bench_device.main(["--device", "cpu", "--out", out]),
        lambda out: main(["tune", "--out", out]),
        lambda out: main(["bench", "--out", out]),
    ],
)
def test_a_folder_is_refused_before_anything_runs(tmp_path, capsys, command):
    with pytest.raises(SystemExit) as ended:
        command(str(tmp_path))
    assert ended.value.code == 2
    assert f"{tmp_path} is a folder; name a file in it" in capsys.readouterr().err
