"""A file is there whole or not at all."""

import pytest

from pcsparse.whole_file import write_whole


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
