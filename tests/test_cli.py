"""The console command: verbs, versions, and errors in one line."""

import subprocess
import sys

import numpy as np
import pytest

from pcsparse import __version__, cli
from pcsparse.cli import main
from pcsparse.errors import FormatError


def test_version_and_help(capsys):
    for option, said in (("--version", __version__), ("--help", "infer")):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert said in capsys.readouterr().out


def test_the_help_says_what_each_verb_does(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    said = {line[0] for line in lines if len(line) == 2}
    assert {"infer", "inspect", "view", "synth", "train", "evaluate", "compress", "tune", "bench"} <= said


@pytest.mark.parametrize("verb", ["infer", "inspect", "view", "synth", "tune", "bench"])
def test_a_verb_calls_itself_by_its_name(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: pcsparse {verb} ")


@pytest.mark.parametrize("verb", ["train", "evaluate", "compress"])
def test_a_verb_of_hydra_calls_itself_by_its_name(verb, capsys):
    pytest.importorskip("hydra")
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"{verb} is powered by Hydra")


@pytest.mark.parametrize("arguments", [[], ["segment"]])
def test_an_unknown_verb_is_bad_use(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "VERB" in capsys.readouterr().err


def test_an_error_of_a_program_is_one_line(tmp_path, capsys):
    assert main(["infer", str(tmp_path / "nowhere.bin")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("pcsparse infer: ")
    assert "nowhere.bin" in errors
    assert errors.count("\n") == 1


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.ones((5, 4), np.float32))
    assert main(["view", str(tmp_path / "a.npy"), "--out", "/proc/page.html"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("pcsparse view: ")
    assert "'/proc/page.html'" in errors
    assert errors.count("\n") == 1


def test_a_missing_key_is_one_line(capsys, tmp_path, monkeypatch):
    pytest.importorskip("hydra")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate"]) == 2
    assert capsys.readouterr().err == (
        "pcsparse evaluate: data.root has no value; give one with data.root=VALUE\n"
    )


@pytest.mark.parametrize("text", ["1,2", "1,2,three"])
def test_a_wrong_vector_says_what_is_wanted(text, capsys):
    with pytest.raises(SystemExit):
        main(["infer", "a.bin", f"--origin={text}"])
    assert f"X,Y,Z are three numbers with commas, got '{text}'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_a_missing_hydra_names_the_extra(verb, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "hydra", None)
    monkeypatch.setitem(sys.modules, "hydra.core.config_store", None)
    assert main([verb]) == 2
    assert "pcsparse[train]" in capsys.readouterr().err


def test_the_module_runs_too():
    done = subprocess.run(
        [sys.executable, "-m", "pcsparse.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"pcsparse {__version__}"


def test_what_else_went_wrong_is_told_too(capsys, monkeypatch):
    error = FormatError("a sweep is broken")
    error.add_note("the last state was not written: disk full")

    def inspect(arguments):
        raise error

    monkeypatch.setitem(cli._VERBS, "inspect", (inspect, "look"))
    assert main(["inspect", "x"]) == 2
    assert capsys.readouterr().err == (
        "pcsparse inspect: a sweep is broken\nthe last state was not written: disk full\n"
    )


def test_an_error_of_no_file_keeps_its_traceback(monkeypatch):
    def inspect(arguments):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setitem(cli._VERBS, "inspect", (inspect, "look"))
    with pytest.raises(BrokenPipeError):
        main(["inspect", "x"])
