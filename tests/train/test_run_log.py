"""The tables of a run: exact numbers, and a continuation that cuts what came after the checkpoint."""

import pytest
import torch

from pcsparse.errors import FormatError
from pcsparse.train.run_log import CsvLog

COLUMNS = ("step", "loss")


def lines(path):
    return path.read_bytes().split(b"\n")


def test_a_float32_comes_back_as_the_same_bits(tmp_path, rng):
    values = torch.randn(50, generator=rng)
    with CsvLog(tmp_path / "log.csv", COLUMNS, resume_step=None) as log:
        for step, value in enumerate(values):
            log.write(step + 1, value.item())
    rows = [line.split(b",") for line in lines(tmp_path / "log.csv")[1:-1]]
    assert torch.equal(torch.tensor([float(loss) for _, loss in rows]), values)


def test_rows_are_on_disk_as_soon_as_they_are_written(tmp_path):
    with CsvLog(tmp_path / "log.csv", COLUMNS, resume_step=None) as log:
        log.write(1, 0.5)
        assert lines(tmp_path / "log.csv") == [b"step,loss", b"1,0.5", b""]


def test_a_continued_log_loses_later_rows_and_half_a_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,loss\n1,0.5\n2,0.25\n3,0.125\n4,0.06")
    with CsvLog(path, COLUMNS, resume_step=2) as log:
        assert log.last_step == 2
        log.write(3, 9.0)
        assert log.last_step == 3
    assert lines(path) == [b"step,loss", b"1,0.5", b"2,0.25", b"3,9.0", b""]


def test_half_a_line_of_a_kept_step_is_not_kept(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,loss\n1,0.5\n2,0.2")
    with CsvLog(path, COLUMNS, resume_step=2):
        pass
    assert lines(path) == [b"step,loss", b"1,0.5", b""]


def test_a_new_log_replaces_an_old_one(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"step,loss\n1,0.5\n")
    with CsvLog(path, COLUMNS, resume_step=None):
        pass
    assert lines(path) == [b"step,loss", b""]


def test_a_log_that_cannot_be_continued_is_an_error(tmp_path):
    with pytest.raises(FormatError, match=r"log\.csv is missing.*resume=overwrite"):
        CsvLog(tmp_path / "log.csv", COLUMNS, resume_step=2)
    (tmp_path / "log.csv").write_bytes(b"step,error\n1,0.5\n")
    with pytest.raises(FormatError, match="'step,error'"):
        CsvLog(tmp_path / "log.csv", COLUMNS, resume_step=2)


def test_a_row_of_another_width_is_an_error(tmp_path):
    with CsvLog(tmp_path / "log.csv", COLUMNS, resume_step=None) as log, pytest.raises(FormatError):
        log.write(1)
