"""Scans for other processes, and one to be killed: python -m tests.compress.scan_cases LOG WORKERS."""

import sys
import time
from pathlib import Path

import torch

from pcsparse import SparseTensor
from pcsparse.compress.search.executor import SpawnedProcesses
from pcsparse.compress.sensitivity import scan
from pcsparse.compress.sensitivity_table import Evaluation, SensitivityTable
from pcsparse.models import MinkUNet, MinkUNetSpec
from tests.clouds import PLANE

NAMES = ("stem.0", "encoder.0.0.conv1", "classifier")
RATIOS = (0.25, 0.5, 0.75)


def network() -> MinkUNet:
    torch.manual_seed(0)
    return MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 8)).eval()


class Closeness:
    """How near the logits are to those of another network; leaves traces in the network, as training would.

    Args:
        model: the other network.
        pause: seconds to wait, as a longer evaluation would take.
    """

    def __init__(self, model: MinkUNet, pause: float = 0.0) -> None:
        feats = torch.randn(len(PLANE.coords), 3, generator=torch.Generator().manual_seed(3))
        self.x, self.pause = SparseTensor(feats, PLANE.coords), pause
        with torch.no_grad():
            self.expected = model(self.x).feats

    def __call__(self, model: MinkUNet) -> Evaluation:
        time.sleep(self.pause)
        with torch.no_grad():
            error = (model(self.x).feats - self.expected).abs().mean(dim=1)
            model.classifier.bias.fill_(7.0)
        halves = tuple(1.0 - float(part.mean()) for part in error.chunk(2))
        return Evaluation(sum(halves) / 2, loss=float(error.mean()), per_sweep=halves)


def killed(log: Path, workers: int) -> SensitivityTable:
    """A scan of some seconds that says what it has."""
    model = network()
    with SpawnedProcesses(workers, threads=1) as executor:
        return scan(
            model,
            Closeness(model, 0.05),
            names=NAMES[:2],
            ratios=[i / 40 for i in range(40)],
            log=log,
            on_point=lambda point: print(point.name, point.kept, flush=True),
            executor=executor,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed(Path(sys.argv[1]), int(sys.argv[2]))
