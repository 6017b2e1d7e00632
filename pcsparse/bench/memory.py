"""Peak memory of a training step, in a process of its own."""

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pcsparse.allocation import keep_freed_memory
from pcsparse.bench.cases import MEMORY_GOAL, REFERENCE_VOXELS, NetCase
from pcsparse.bench.nets import targets, training_step
from pcsparse.bench.scene import Scene
from pcsparse.errors import UnsupportedError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.sparse_tensor import SparseTensor

_STEPS = 3


@dataclass(frozen=True)
class MemoryResult:
    """Peak of the resident set of a fresh process.

    Attributes:
        case: name of the training case.
        peak: bytes, everything included: interpreter, libraries, network, optimiser, maps, features.
        before: bytes at the peak before the first step: interpreter, libraries, network, input.
        goal: bytes on the reference sweep.
        scaled_goal: the goal, grown with the voxels where this cloud has more.
    """

    case: str
    peak: int
    before: int
    goal: float
    scaled_goal: float

    def __str__(self) -> str:
        """One line with units."""
        return (
            f"{self.case}: peak {self.peak:,} bytes = {self.peak / 1e9:.2f} GB, of which "
            f"{self.before / 1e9:.2f} GB before the first step; to reach {self.goal / 1e9:.2f} GB, "
            f"here {self.scaled_goal / 1e9:.2f} GB"
        )


def run_memory_case(case: NetCase, scene: Scene) -> MemoryResult:
    """Train a few steps in a fresh process with this process's number of threads.

    Raises:
        UnsupportedError: the process failed; the text ends with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.pt"
        torch.save((scene.tensor.feats, scene.coords), path)
        narrow = case.dtype == torch.bfloat16
        settings = [str(path), case.spec.to_json(), str(torch.get_num_threads()), str(int(narrow))]
        command = [sys.executable, "-m", "pcsparse.bench.memory", *settings]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnsupportedError(f"{case.name} in a fresh process failed: {done.stderr[-500:]}")
    before, peak = json.loads(done.stdout.splitlines()[-1])
    scaled = MEMORY_GOAL * max(len(scene.coords) / REFERENCE_VOXELS, 1.0)
    return MemoryResult(case.name, peak, before, MEMORY_GOAL, scaled)


def peak_bytes() -> int:
    """Largest resident set of this process so far."""
    # ru_maxrss outlives exec, so a child would report its parent's peak; VmHWM belongs to the new program
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    # kilobytes, but on macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _train(arguments: Sequence[str]) -> tuple[int, int]:
    """What the fresh process does: the peaks before the first and after the last step."""
    path, spec, threads, narrow = arguments
    # as the program does that times the same step
    keep_freed_memory()
    torch.set_num_threads(int(threads))
    feats, coords = torch.load(path, weights_only=True)
    torch.manual_seed(0)
    model = MinkUNet(MinkUNetSpec.from_json(spec)).train()
    scene = Scene("", len(feats), 1.0, SparseTensor(feats, coords, batch_size=1))
    labels = targets(scene, model.spec.n_classes)
    dtype = torch.bfloat16 if int(narrow) else torch.float32
    step = training_step(model, lambda: model(scene.fresh()).feats, labels, dtype)
    before = peak_bytes()
    for _ in range(_STEPS):
        step()
    return before, peak_bytes()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_train(sys.argv[1:])) + "\n")
