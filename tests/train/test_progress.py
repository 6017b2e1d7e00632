"""What a person sees: rates and time to go, lines without a terminal, a bar on one."""

import sys

import pytest

from pcsparse.errors import UnsupportedError
from pcsparse.train.progress import Throughput, open_progress


def throughput(n_steps=100):
    rate = Throughput(n_steps)
    for _ in range(3):
        rate.update(0.5, n_sweeps=2, n_voxels=100_000)
    return rate


def test_rates_and_time_to_go():
    assert throughput().text(40) == "4.00 sweeps/s 200 k voxels/s, 0:30 to go"
    assert throughput(100_000).text(0).endswith("13:53:20 to go")
    assert Throughput(10).text(0) == ""


def test_rates_forget_the_start():
    rate = Throughput(1000)
    rate.update(1000.0, 2, 100)
    for _ in range(50):
        rate.update(1.0, 2, 100_000)
    assert rate.text(500).startswith("2.00 sweeps/s 100 k")


def test_without_a_terminal_there_are_lines_now_and_then(capsys):
    with open_progress("auto") as progress:
        for step in range(1, 101):
            progress.step(step, 0, 0.25, throughput())
        progress.note("epoch 1: done")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["1/100", "100/100"]
    assert "loss 0.2500" in lines[0]
    assert lines[-1] == "epoch 1: done"


def test_none_is_silent(capsys):
    with open_progress("none") as progress:
        progress.step(1, 0, 0.25, throughput())
        progress.note("x")
    assert capsys.readouterr().out == ""


def test_the_bar_shows_the_same_facts(capsys):
    pytest.importorskip("rich")
    with open_progress("rich") as progress:
        progress.step(40, 2, 0.25, throughput())
        progress.note("kept [as it is]")
    shown = capsys.readouterr().out
    for part in ("epoch 3", "40/100", "loss 0.2500", "4.00 sweeps/s", "kept [as it is]"):
        assert part in shown


def test_a_terminal_gets_the_bar(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert type(open_progress("auto")) is type(open_progress("rich"))


def test_a_missing_rich_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(UnsupportedError, match=r"pcsparse\[train\]"):
        open_progress("rich")
