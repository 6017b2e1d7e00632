"""Dataflows beside each other: each is what it is called, and a wrong one has no time."""

import pytest

from pcsparse.bench.cases import DATAFLOW_CASES, tagged
from pcsparse.bench.dataflows import run_dataflows
from pcsparse.engine import gather_scatter
from pcsparse.engine.plan import DATAFLOWS
from pcsparse.kernels import cpu
from tests.bench.scenes import small_scene

CASES = tagged(DATAFLOW_CASES, ["ci"])


@pytest.mark.slow
@pytest.mark.parametrize("n", [300, None], ids=["sector", "whole"])
def test_every_dataflow_is_verified_and_timed_beside_the_rules_choice(n):
    scene = small_scene()
    results = run_dataflows(CASES, scene, n, 1)
    assert len(results) == len(CASES)
    for case, result in zip(CASES, results, strict=True):
        assert result.case == f"{case.name}, {n or len(scene.coords):,} voxels"
        assert result.passed
        assert result.ours.name == "pcsparse"
        assert [peer.name for peer in result.peers] == [
            name for name, flow in DATAFLOWS.items() if "cpu" in flow.devices
        ]
        for outcome in (result.ours, *result.peers):
            assert len(outcome.checks) == (3 if case.backward else 1)
            assert outcome.time is not None


def test_each_runs_the_dataflow_of_its_name(monkeypatch):
    # one value off in what only gather-scatter calls
    multiply = gather_scatter.gather_gemm_scatter

    def wrong(*arguments, **options):
        out = multiply(*arguments, **options)
        out[0, 0] += out.abs().max()
        return out

    monkeypatch.setattr(gather_scatter, "gather_gemm_scatter", wrong)
    (result,) = run_dataflows(CASES[:1], small_scene(), None, 1)
    assert result.passed
    assert result.peer("output_stationary").time is not None
    assert result.peer("gather_scatter").failed
    assert result.peer("gather_scatter").time is None


def test_where_the_rules_choice_is_wrong_nothing_is_timed(monkeypatch):
    kernel = cpu.output_stationary
    monkeypatch.setattr(cpu, "output_stationary", lambda *given, **options: kernel(*given, **options).flip(0))
    (result,) = run_dataflows(CASES[:1], small_scene(), None, 1)
    assert not result.passed
    assert not result.peer("gather_scatter").failed
    assert all(outcome.time is None for outcome in (result.ours, *result.peers))
