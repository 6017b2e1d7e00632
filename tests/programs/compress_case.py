"""A compression of a tiny network on tiny streets, and a process that can be killed in it.

python -m tests.programs.compress_case FOLDER PAUSE_MS AXIS
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from pcsparse.compress.pruning_channels import ChannelPruning
from pcsparse.compress.pruning_joint import JointPruning
from pcsparse.compress.pruning_offsets import OffsetPruning
from pcsparse.compress.search.random_search import RandomSearch
from pcsparse.compress.settings import (
    BudgetSettings,
    CostSettings,
    EvaluationSettings,
    MeasureSettings,
    ScanSettings,
)
from pcsparse.config import CompressSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.input_spec import CloudFacts, InputSpec
from pcsparse.data.label_map import LabelMap
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.models.minkunet import BlockSpec, ConvSpec, StageSpec
from pcsparse.programs import compress_evaluation
from pcsparse.programs.compress import compress
from pcsparse.programs.compress_job import Job
from pcsparse.train.model_file import ModelCard, arch_of, load_model, save_model
from tests.streets import TinyStreets, tiny_street

LABELS = LabelMap.load("semantickitti")
POINTS = 150
AXES = {
    "channels": ChannelPruning((0.0, 0.5), 4),
    "joint": JointPruning(ChannelPruning((0.0, 0.5), 4), OffsetPruning((0.0, 0.5))),
}
SETTINGS = CompressSettings(
    name="tiny",
    budget=BudgetSettings(share=0.5, of="macs"),
    cost=CostSettings(sweeps=1, step=1000, runs=1),
    evaluation=EvaluationSettings(sweeps=2, calibration=1),
    scan=ScanSettings(ratios=(0.5,)),
    measure=MeasureSettings(runs=1, maps=2),
    evaluations=3,
    epochs=1,
    batch_size=2,
    workers=0,
    progress="none",
)


def tiny_network() -> MinkUNet:
    """A U-Net of 14 layers of 8 channels: few of them, so that a whole compression takes seconds."""
    down = tuple(StageSpec(ConvSpec(8, 8), ()) for _ in range(4))
    up = (8, 16, 16, 16)
    blocks = [(), (), (), (BlockSpec(ConvSpec(16, 8), ConvSpec(8, 8)),)]
    stages = tuple(StageSpec(ConvSpec(c, 8), block) for c, block in zip(up, blocks, strict=True))
    return MinkUNet(MinkUNetSpec((ConvSpec(4, 8), ConvSpec(8, 8)), down, stages, LABELS.n_classes))


def write_model(path: Path) -> Path:
    """A network that was never trained, with its card."""
    torch.manual_seed(0)
    model = tiny_network()
    card = ModelCard(
        arch=arch_of(model, LABELS.n_classes),
        labels=LABELS,
        voxels=VoxelSettings(0.6),
        input_spec=InputSpec.of([CloudFacts.of(s.points, s.intensity) for s in [tiny_street(0)]]),
        metrics={},
        provenance={"data": "none"},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(path, model, card)
    return path


def tiny_job(folder: Path, **changes) -> Job:
    """A compression into `folder`/run of a network that lies beside it."""
    weights = folder / "dense.safetensors"
    if not weights.is_file():
        write_model(weights)
    model, card = load_model(weights)
    given = {"method": RandomSearch(), "pruning": AXES["channels"]}
    given |= {name: changes.pop(name) for name in list(changes) if name in ("method", "pruning", "executor")}
    return Job(
        settings=replace(SETTINGS, output_dir=str(folder / "run"), **changes),
        folder=folder / "run",
        model=model,
        card=card,
        weights=weights,
        train_set=TinyStreets(4, POINTS),
        search_set=TinyStreets(4, POINTS),
        final_set=TinyStreets(3, POINTS, first_seed=50),
        command="pcsparse compress of a test",
        **given,
    )


class Loud:
    """In place of a scorer's call: says on standard output that an evaluation begins, and takes its time."""

    def __init__(self, pause_ms: int) -> None:
        self._inner = compress_evaluation.SweepScorer.__call__
        self._pause, self._n = pause_ms / 1000, 0

    def install(self) -> None:
        def call(scorer, model):
            self._n += 1
            sys.stdout.write(f"evaluation begins: {self._n}\n")
            sys.stdout.flush()
            time.sleep(self._pause)
            return self._inner(scorer, model)

        compress_evaluation.SweepScorer.__call__ = call  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    Loud(int(sys.argv[2])).install()
    compress(tiny_job(Path(sys.argv[1]), pruning=AXES[sys.argv[3]]))
