"""The tuner's part of `scripts/check_gpu.py`: what is wrong is told, and what was not reached."""

import pytest
import torch

from pcsparse.bench.clouds import small_cloud
from pcsparse.bench.device.scene import DeviceScene
from pcsparse.engine.choice import PASSES
from pcsparse.engine.output_stationary import OutputStationary
from pcsparse.programs import check_gpu_parts, check_gpu_tuner
from pcsparse.programs.bench_device import UNFINISHED
from pcsparse.programs.check_gpu_tuner import tuner

CPU = torch.device("cpu")


def scene(device: torch.device) -> DeviceScene:
    return DeviceScene.of(small_cloud(600), device)


def test_every_pass_is_tuned_and_the_network_runs_as_tuned(device, capsys, monkeypatch):
    used, tables = check_gpu_tuner.use_tuning, []
    monkeypatch.setattr(
        check_gpu_tuner, "use_tuning", lambda net, table: tables.append(table) or used(net, table)
    )
    assert tuner(scene(device), device) == 0
    said = capsys.readouterr().out
    assert said.count("group ") >= 3
    assert said.endswith("choices compared with the twin, 0 wrong\n")
    # once by the table that was stored, once in float64 without one
    assert tables[1] is None
    assert {of for _, of in tables[0].entries} == set(PASSES)


@pytest.mark.parametrize("fault", ["wrong", "crash", "memory"])
def test_a_choice_that_is_wrong_or_crashes_is_told_and_one_without_memory_is_neither(
    capsys, monkeypatch, fault
):
    right = OutputStationary.forward

    def forward(self, feats, weight, kmap, config, *epilogue):
        out = right(self, feats, weight, kmap, config, *epilogue)
        if config.panel != 4:
            return out
        if fault == "wrong":
            return out * 1.01
        # whatever an error says, a lack of memory is what its class or its library calls one
        crash = RuntimeError("no such panel; more memory than the device had left")
        raise crash if fault == "crash" else MemoryError("20 GiB")

    monkeypatch.setattr(OutputStationary, "forward", forward)
    assert tuner(scene(CPU), CPU) == (fault != "memory")
    said = capsys.readouterr().out
    assert ("WRONG: forward by output_stationary(" in said) == (fault != "memory")
    if fault != "memory":
        assert "panel=4,partials=0): " in said
        assert {"wrong": "against the twin", "crash": "RuntimeError: no such panel"}[fault] in said


def test_a_tuned_network_that_is_wrong_is_told(capsys, monkeypatch):
    used = check_gpu_tuner.use_tuning

    def wrong(net, table):
        if table is not None:
            net[-1].weight.data *= 1.01
        return used(net, table)

    monkeypatch.setattr(check_gpu_tuner, "use_tuning", wrong)
    assert tuner(scene(CPU), CPU) == 1
    assert "WRONG: output of the tuned network is off by 0.01, allowed is 0.0001\n" in capsys.readouterr().out


def test_what_the_time_did_not_reach_is_said(capsys, monkeypatch):
    monkeypatch.setattr(check_gpu_parts, "cloud_of", lambda *_, **__: small_cloud(600))
    assert check_gpu_parts.main(["tuner", "--device", "cpu", "--budget", "0"]) == UNFINISHED
    said = capsys.readouterr().out
    assert "groups from 2 on: not begun, 0 s were over\n" in said
    assert "choices compared with the twin, 0 wrong" in said
