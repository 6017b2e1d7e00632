"""Parts of `scripts/check_gpu.py` that no test or benchmark does: peaks, the rule of maps, host, tuner."""

import argparse
import sys
from collections.abc import Sequence
from math import inf
from pathlib import Path

import torch

from pcsparse.bench.device.launch_ways import eager_step, gpu_launch_ways, time_launch_ways
from pcsparse.bench.device.limits import measure_device
from pcsparse.bench.device.peers import PEERS, device_peers
from pcsparse.bench.device.scene import DeviceScene, cloud_of
from pcsparse.engine.map_tuning import WRONG, tune_maps
from pcsparse.errors import PcsparseError, UnsupportedError
from pcsparse.programs.check_gpu_tuner import tuner
from pcsparse.programs.tune_report import maps_report
from pcsparse.timing import environment

_RUNS, _SECONDS = 20, 20.0
_REHEARSED_WIDTH = 0.125


def main(arguments: Sequence[str]) -> int:
    """Run one part: 0, or 1 if something is wrong; of the tuner see there."""
    parser = argparse.ArgumentParser(description="One part of check_gpu.py.")
    parser.add_argument("part", choices=("peaks", "maps", "host", "tuner"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cloud", type=Path)
    parser.add_argument("--budget", type=float, default=inf, help="seconds of the tuner")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError(f"torch {torch.__version__} sees no CUDA device; --device cpu is a rehearsal")
    if given.part == "peaks":
        return peaks(device)
    scene = DeviceScene.of(cloud_of(given.cloud, quick=device.type == "cpu"), device)
    print(f"cloud: {scene}", flush=True)
    if given.part == "tuner":
        return tuner(scene, device, given.budget)
    return maps(scene) if given.part == "maps" else host(scene, device)


def peaks(device: torch.device) -> int:
    """The machine, what it allows, and which peers can be imported."""
    print(environment().header(), flush=True)
    print(f"limits: {measure_device(device, quick=True)}", flush=True)
    there, absent = device_peers(PEERS, device)
    for peer in there:
        print(f"peer: {peer.name}; {peer.remark}")
    for name, reason in absent:
        print(f"no peer: {name}: {reason}")
    return 0


def maps(scene: DeviceScene) -> int:
    """Every way to a map against the twin, their times, and the rule that follows; 1 where one is wrong."""
    tuning = tune_maps(scene.coords)
    print(maps_report(tuning))
    print(f"rule: {tuning.rule}")
    wrong = [
        f"{trial.name} by {way}"
        for trial in tuning.trials
        for way, why in trial.rejected.items()
        if why == WRONG
    ]
    for name in wrong:
        print(f"WRONG: {name}")
    return int(bool(wrong))


def host(scene: DeviceScene, device: torch.device) -> int:
    """What the host spends on an eager training step, by both ways to start a Triton kernel."""
    width = 1.0 if device.type == "cuda" else _REHEARSED_WIDTH
    run = eager_step(scene, device, width)
    times = time_launch_ways(gpu_launch_ways(), run, device, runs=_RUNS, seconds=_SECONDS)
    print(
        f"training step of MinkUNet-18 x{width:g}, eager, ms: the host until it returns, and the wall's clock"
    )
    for way, taken in times.items():
        print(f"  {way:<18} {1e3 * taken.host.median:9.2f} {1e3 * taken.wall.median:9.2f}")
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
