"""What a run on an accelerator comes to: means of like cases beside their goals."""

import json
from dataclasses import replace

import pytest

from pcsparse.bench.device.cases import LAYERS, NETS, STEPS
from pcsparse.bench.device.outcome import PRODUCT, DeviceOutcome, DeviceResult
from pcsparse.bench.device.report import DeviceReport, result_lines, short_line, summary_lines
from pcsparse.bench.device.summary import means_lines, summary
from pcsparse.bench.verify import Check
from pcsparse.programs import bench_device
from pcsparse.timing import environment
from tests.bench.test_device import _result


def results(form: str, *seconds: tuple[float | None, float | None], precision: str = "fp16"):
    return [replace(_result(*times), form=form, precision=precision) for times in seconds]


def test_forms_and_precisions_are_never_mixed():
    sections = {
        "nets": [
            *results("recorded", (1e-3, 2e-3), (1e-3, 8e-3)),
            *results("fused", (1e-3, 1e-3)),
            *results("recorded", (1e-3, 1e-3), precision="tf32"),
        ],
        "steps": results("recorded training", (1e-3, 1.2e-3)),
        "layers": results("forward", (1e-3, 3e-3)),
    }
    found = {(m.section, m.form, m.precision): m for m in summary(sections)}
    assert {key: pytest.approx(m.value) for key, m in found.items()} == {
        ("nets", "recorded", "fp16"): 4.0,
        ("nets", "recorded", "tf32"): 1.0,
        ("nets", "recorded", "all"): 16 ** (1 / 3),
        ("nets", "fused", "fp16"): 1.0,
        ("steps", "recorded training", "fp16"): 1.2,
        ("layers", "forward", "fp16"): 3.0,
    }
    assert [(m.goal, m.verdict) for m in found.values()] == [
        (1.5, "reached"), (1.5, "short"), (1.5, "reached"), (1.5, "short"), (1.3, "short"), (None, ""),
    ]  # fmt: skip
    lines = means_lines(summary(sections)).splitlines()
    row = "nets recorded fp16 best peer / pcsparse 2 of 2 4.00 1.5 reached"
    assert " ".join(lines[2].split()) == row
    row = "layers forward fp16 best peer / pcsparse 1 of 1 3.00 -"
    assert " ".join(lines[-1].split()) == row


def test_a_goal_is_not_reached_where_the_package_has_no_time():
    (mean,) = summary({"steps": results("training", (1e-3, 9e-3), (None, 9e-3), (1e-3, None))})
    assert (mean.cases, mean.without, mean.untimed, mean.verdict) == (1, 2, 1, "short")
    assert "1 of 3  9.00   1.3  short (1 not timed)" in means_lines([mean])
    # no peer takes it: nothing is known
    (mean,) = summary({"steps": results("training", (1e-3, None))})
    assert (mean.value, mean.verdict) == (None, "not known")
    assert summary({"layers": results("forward", (1e-3, None))}) == ()
    (mean,) = summary({"steps": results("training", (1e-3, 9e-3))}, rehearsal=True)
    assert mean.verdict == "a rehearsal"


def test_the_dense_layer_of_256_channels_is_held_against_its_product():
    def dense(channels: int, product: float) -> DeviceResult:
        one = _result(1e-3, 2e-3)
        assert one.outcomes[2].reference
        named = replace(one.outcomes[2], name=PRODUCT, times=_result(product, None).outcomes[0].times)
        return replace(one, outcomes=(*one.outcomes[:2], named), form=f"C={channels}")

    found = summary({"dense": [dense(256, 0.61e-3), dense(128, 0.4e-3)]})
    assert [(m.form, m.what, round(m.value, 2), m.goal, m.verdict) for m in found] == [
        ("C=256", "best peer / pcsparse", 2.0, None, ""),
        ("C=256", "torch.mm / pcsparse", 0.61, 0.6, "reached"),
        ("C=128", "best peer / pcsparse", 2.0, None, ""),
        ("C=128", "torch.mm / pcsparse", 0.4, None, ""),
    ]
    (_, short) = summary({"dense": [dense(256, 0.59e-3)]})
    assert short.verdict == "short"


def test_maps_are_compared_with_those_who_do_the_same_work():
    names = ("pcsparse", "pcsparse with its row order", "spconv", "TorchSparse++")
    times = [_result(seconds, None).outcomes[0].times for seconds in (0.5e-3, 2e-3, 6e-3, 2e-3)]
    works = ("", "row order", "row order", "")
    outcomes = tuple(
        DeviceOutcome(name, (), taken, work=work)
        for name, taken, work in zip(names, times, works, strict=True)
    )
    one = DeviceResult("map", "", outcomes, form="from coordinates", judged=names[1])
    assert one.ours.name == names[1]
    assert one.ratio == pytest.approx(3.0)
    (mean,) = summary({"maps": [one]})
    assert (mean.name, mean.goal, mean.verdict) == ("maps from coordinates", 2.0, "reached")
    # each row of the package beside its own peers
    lines = result_lines([one], None).splitlines()[2:]
    assert [(" 4.00 " in line, " 3.00 " in line) for line in lines] == [
        (True, False), (False, True), (False, False), (False, False),
    ]  # fmt: skip
    assert short_line(one).endswith("TorchSparse++ 2.000 ms; ratio 3.00")


def test_a_wrong_package_reaches_nothing(tmp_path):
    report = DeviceReport(environment(), (), (), ())
    right = replace(_result(1e-3, 9e-3), form="recorded")
    wrong = DeviceOutcome("pcsparse", (Check("output", 1.0, 0.1),), None)
    report.sections["nets"] = [right, replace(right, outcomes=(wrong, *right.outcomes[1:]))]
    report.write(tmp_path / "report.json")
    (mean,) = json.loads((tmp_path / "report.json").read_text())["summary"]
    assert (mean["goal"], mean["untimed"], mean["verdict"]) == (1.5, 1, "short")
    assert "short (1 not timed)" in summary_lines(report)


@pytest.mark.parametrize(("form", "cases"), [("recorded", NETS), ("recorded training", STEPS)])
def test_what_is_recorded_runs_in_every_precision_and_float16_first(form, cases):
    for name in ("MinkUNet-18 x1.0", "CenterPoint backbone"):
        found = [case.precision.name for case in cases if case.form == form and name in case.name]
        assert found[0] == "fp16"
        assert set(found) == {"fp16", "bf16", "tf32"}


def test_layers_run_in_every_precision_and_wide_ones_make_their_map_too():
    backward = {case.precision.name for case in LAYERS if case.backward}
    assert backward == {"fp16", "bf16", "tf32"}
    mapped = [case for case in LAYERS if case.with_map]
    for kind in ("submanifold", "strided", "inverse", "generative"):
        assert {c.precision.name for c in mapped if c.kind == kind} == {"fp16", "bf16", "tf32"}
    wide = {(c.kind, c.precision.name) for c in mapped if c.channels == 256}
    assert wide == {
        (kind, name) for kind in ("strided", "inverse", "generative") for name in ("fp16", "tf32")
    }
    # what is not float16 of 64 channels waits for the rest
    assert all((case.precision.name, case.channels) == ("fp16", 64) for case in mapped[:5])
    assert [case.with_map for case in LAYERS[:20]] == [False] * 15 + [True] * 5


def test_sections_with_goals_run_before_the_others():
    with_goals = {"maps", "dense", "nets", "steps"}
    order = [name in with_goals for name in bench_device.SECTIONS if name != "launch"]
    assert order == sorted(order, reverse=True)
