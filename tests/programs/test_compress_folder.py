"""What of an earlier compression is taken over, and what is refused or made anew."""

import json
from pathlib import Path

import pytest

from pcsparse.errors import FormatError
from pcsparse.programs.compress_folder import RECORD, RunFolder, Step

STEPS = (
    Step("cost", "cost.json"),
    Step("scan", "scan.csv", ("scan.jsonl",)),
    Step("search", "chosen.json", ("search.jsonl",), ("cost", "scan")),
    Step("tune", "tuned/model", ("tuned",), ("search",)),
    Step("control", "control"),
)
INPUTS = {
    "cost": {"model": "a", "threads": 1},
    "scan": {"model": "a", "ratios": (0.25, 0.5)},
    "search": {"budget": {"share": 0.5, "ms": None}},
    "tune": {"epochs": 2},
    "control": {"epochs": 2},
}


def opened(path, resume="auto", **changes):
    return RunFolder(path, STEPS, {**INPUTS, **changes}, resume)


def filled(path, steps=STEPS):
    folder = opened(path)
    for step in steps:
        with folder.running(step.name):
            for name in (*step.others, step.result):
                file = path / name
                if name != "tuned":
                    file.parent.mkdir(exist_ok=True)
                    file.write_text(step.name)
    return folder


def test_what_is_done_stays_done(tmp_path):
    folder = filled(tmp_path / "run")
    assert all(folder.done(step.name) for step in STEPS)
    again = opened(tmp_path / "run")
    assert all(again.done(step.name) for step in STEPS)
    assert again.file("tune") == tmp_path / "run/tuned/model"
    with pytest.raises(FormatError, match="already holds a compression"):
        opened(tmp_path / "run", "never")
    assert not any(opened(tmp_path / "new", "never").done(step.name) for step in STEPS)


def cut_off(folder, name, file):
    """Begin a step, and be killed in it."""
    with folder.running(name):
        file.write_text("half")
        raise KeyboardInterrupt


def test_a_step_that_was_cut_off_is_not_done_and_goes_on(tmp_path):
    filled(tmp_path, STEPS[:2])
    folder = opened(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cut_off(folder, "search", tmp_path / "search.jsonl")
    # nor does its result make it done, half of which may be there
    (tmp_path / "chosen.json").write_text("half")
    again = opened(tmp_path)
    assert [step.name for step in STEPS if again.done(step.name)] == ["cost", "scan"]
    assert (tmp_path / "search.jsonl").read_text() == "half"
    # other inputs would find its log
    with pytest.raises(FormatError, match=r"search: budget.share 0.5 then, 0.4 now"):
        opened(tmp_path, search={"budget": {"share": 0.4, "ms": None}})


def test_other_inputs_are_refused_with_what_differs_and_what_to_do(tmp_path):
    filled(tmp_path)
    with pytest.raises(FormatError) as refused:
        opened(tmp_path, scan={"model": "a", "ratios": [0.5]})
    said = str(refused.value)
    assert "scan: ratios [0.25, 0.5] then, [0.5] now" in said
    assert "search: follows scan; tune: follows search" in said
    assert "control" not in said
    assert "another name=" in said
    assert "resume=overwrite" in said


def test_overwriting_makes_anew_what_differs_and_what_follows(tmp_path):
    filled(tmp_path)
    folder = opened(tmp_path, "overwrite", search={"budget": {"share": 0.4, "ms": None}})
    assert [step.name for step in STEPS if folder.done(step.name)] == ["cost", "scan", "control"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "control", "cost.json", "scan.csv", "scan.jsonl", RECORD,
    ]  # fmt: skip


def test_a_result_that_was_removed_takes_what_follows_with_it(tmp_path):
    filled(tmp_path)
    (tmp_path / "cost.json").unlink()
    with pytest.raises(FormatError, match="search: follows cost; tune: follows search"):
        opened(tmp_path)
    folder = opened(tmp_path, "overwrite")
    assert [step.name for step in STEPS if folder.done(step.name)] == ["scan", "control"]
    # steps that are not asked for follow nothing
    filled(tmp_path, STEPS[:1])
    without = RunFolder(tmp_path, STEPS[1:2], INPUTS, "auto")
    assert without.done("scan")


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "steps": {"cost": {}}}'])
def test_a_record_that_is_none_is_named(tmp_path, content):
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(FormatError, match=RECORD):
        opened(tmp_path)


def test_the_record_says_what_it_was_made_from(tmp_path):
    filled(tmp_path)
    content = json.loads((tmp_path / RECORD).read_text())
    cost, search = (content["steps"][name] for name in ("cost", "search"))
    assert cost["inputs"] == {"model": "a", "threads": 1}
    assert (cost["done"], cost["of"]) == (True, {})
    assert search["of"] == {"cost": cost["made"], "scan": content["steps"]["scan"]["made"]}


@pytest.mark.parametrize("deleted", [0, 1, 2])
def test_killed_while_it_overwrites_nothing_that_is_left_is_trusted(tmp_path, monkeypatch, deleted):
    filled(tmp_path)
    other = {"scan": {"model": "b", "ratios": [0.5]}}
    inner, calls = Path.unlink, []

    def unlink(path, *given, **named):
        calls.append(path)
        if len(calls) > deleted:
            raise KeyboardInterrupt
        inner(path, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path, "overwrite", **other)
    for changes in (other, {}):
        with pytest.raises(FormatError, match=r"scan: was being removed.*only resume=overwrite goes on"):
            opened(tmp_path, **changes)
    opened(tmp_path, "overwrite", **other)
    assert not (tmp_path / "scan.jsonl").exists()
    assert not (tmp_path / "chosen.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "last.pt", "config.yaml"])
def test_the_folder_of_another_run_is_refused_however_it_is_resumed(tmp_path, name):
    (tmp_path / name).write_text("of a training")
    for resume in ("auto", "never", "overwrite"):
        with pytest.raises(FormatError, match=f"holds {name} of another run; choose another name="):
            opened(tmp_path, resume)
    assert (tmp_path / name).read_text() == "of a training"
    # what was begun and killed goes on
    (tmp_path / name).unlink()
    with opened(tmp_path).running("cost"):
        (tmp_path / name).write_text("of a compression")
    assert opened(tmp_path)


def test_a_step_of_results_that_were_made_anew_without_it_is_stale(tmp_path):
    filled(tmp_path)
    other = {"search": {"budget": {"share": 0.4, "ms": None}}}
    # a run that does not tune
    shorter = RunFolder(
        tmp_path,
        STEPS[:3],
        {name: {**INPUTS, **other}[name] for name in ("cost", "scan", "search")},
        "overwrite",
    )
    with shorter.running("search"):
        shorter.file("search").write_text("another")
    with pytest.raises(FormatError, match="tune: follows search"):
        opened(tmp_path, **other)
    # nor is it good again with the first inputs, whose results are gone
    with pytest.raises(FormatError, match=r"search: budget.share 0.4 then, 0.5 now; tune: follows search"):
        opened(tmp_path)
    folder = opened(tmp_path, "overwrite", **other)
    assert [step.name for step in STEPS if folder.done(step.name)] == ["cost", "scan", "search", "control"]
    assert not (tmp_path / "tuned").exists()


def test_what_is_made_again_of_equal_inputs_is_another(tmp_path):
    filled(tmp_path)
    # times are measured once more, and what follows is made of them
    (tmp_path / "cost.json").unlink()
    shorter = RunFolder(
        tmp_path, STEPS[:3], {name: INPUTS[name] for name in ("cost", "scan", "search")}, "overwrite"
    )
    for name in ("cost", "search"):
        assert not shorter.done(name)
        with shorter.running(name):
            shorter.file(name).write_text("another")
    with pytest.raises(FormatError, match="tune: follows search"):
        opened(tmp_path)


def test_a_record_from_before_says_nothing_of_what_was_taken(tmp_path):
    filled(tmp_path)
    content = json.loads((tmp_path / RECORD).read_text())
    for entry in content["steps"].values():
        del entry["made"], entry["of"]
    (tmp_path / RECORD).write_text(json.dumps(content))
    folder = opened(tmp_path)
    assert all(folder.done(step.name) for step in STEPS)
