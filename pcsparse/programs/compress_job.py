"""What a compression works on, built from its settings: network, data, sweeps in memory, and their hashes."""

import shlex
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pcsparse.checks import usable_device
from pcsparse.compress.channel_scores import Losses
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.pruning import Prunable, Pruning
from pcsparse.compress.pruning_voxels import NO_REFIT, VoxelPruning
from pcsparse.compress.search.executor import Executor
from pcsparse.compress.search.task import Method
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.weights import check_ratio
from pcsparse.config import CompressSettings, DataSettings, build, build_augmentation
from pcsparse.data.collate import SweepSource, VoxelBatch, VoxelSettings
from pcsparse.data.label_map import LabelMap
from pcsparse.data.transforms import Augmentation
from pcsparse.engine.tune_cache import TuneTable, device_key, load_table, versions
from pcsparse.errors import FormatError, RangeError, UnsupportedError
from pcsparse.nn.tuning import use_tuning
from pcsparse.programs.compress_evaluation import (
    digest_of,
    has_labels,
    inputs_of,
    losses_on,
    spread_batches,
)
from pcsparse.programs.default_model import checkpoint_or_default
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.train.checkpoint import run_facts
from pcsparse.train.model_file import ModelCard, find_weights, load_model

# sweeps of a whole set that its digest looks at
_LOOKS = 3


@dataclass(eq=False)
class Job:
    """A compression, typed: no Hydra from here on.

    Attributes:
        settings: numbers and names; nodes in it are built already.
        folder: of the run.
        model: the whole network, in evaluation mode.
        card: of it.
        weights: file that it came from.
        train_set, search_set, final_set: fine-tuned on, searched on, reported on.
        pruning: what is removed.
        method: how the search goes.
        executor: where evaluations run; None for this process.
        augmentation: of the fine-tuning.
        table: tuned plans of convolutions, or None.
        command: that was given, for the report.
    """

    settings: CompressSettings
    folder: Path
    model: nn.Module
    card: ModelCard
    weights: Path
    train_set: SweepSource
    search_set: SweepSource
    final_set: SweepSource
    pruning: Pruning
    method: Method
    executor: Executor | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    table: TuneTable | None = None
    command: str = ""

    @staticmethod
    def of(settings: CompressSettings) -> "Job":
        """Load and build everything that the settings name.

        Raises:
            PcsparseError: something named is not there, or does not fit the rest.
        """
        for ratio in settings.scan.ratios:
            check_ratio(ratio, "scan.ratios")
        for ratio in settings.scan.weights:
            check_ratio(ratio, "scan.weights")
        pruning, method = build(settings.compress), build(settings.method)
        if settings.reconstruct and isinstance(pruning, VoxelPruning):
            # the pruning says so itself, but not before everything was searched
            raise UnsupportedError(NO_REFIT)
        # the search would say so itself, but not before all was scanned
        method.fitted(settings.evaluations)
        weights = find_weights(checkpoint_or_default(settings.checkpoint))
        if weights.resolve().is_relative_to(Path(settings.output_dir).resolve()):
            raise FormatError(
                f"{weights} lies in {settings.output_dir}, the folder of this compression, where it would be "
                "overwritten; choose another name="
            )
        model, card = load_model(weights)
        if settings.reconstruct:
            _check_refit(model)
        if settings.voxels not in (VoxelSettings(), card.voxels):
            raise RangeError(
                f"{weights} was trained on {card.voxels}; a compression cannot change it to "
                f"{settings.voxels}: leave voxels out"
            )
        table = None if settings.tuned is None else load_table(settings.tuned, settings.device)
        sources: dict[str, Any] = {}
        for split, node in _needed(settings).items():
            if node is None:
                raise RangeError(f"the data set has no split {split!r}, which is needed; set data.{split}")
            source = sources[split] = build(node)
            known = source.label_map
            if known.names != card.classes or (
                settings.data.labels is None and card.means_other_ids_than(known)
            ):
                raise FormatError(
                    f"{weights} has the classes {card.classes} of label map {card.label_set!r}, the data "
                    f"{known.names} of {known.label_set!r}; name the one that the label files go by as "
                    "data.labels=FILE"
                )
        return Job(
            settings=settings,
            folder=_near(Path(settings.output_dir)),
            model=use_tuning(model.to(usable_device(settings.device)), table),
            card=card,
            weights=weights,
            train_set=sources["train"],
            search_set=sources[settings.evaluation.split],
            final_set=sources[settings.measure.split],
            pruning=pruning,
            method=method,
            executor=None if settings.executor is None else build(settings.executor),
            augmentation=build_augmentation(settings.augment),
            table=table,
            command=" ".join([*sys.argv[:1], *map(shlex.quote, sys.argv[1:])]),
        )

    @property
    def device(self) -> torch.device:
        """Where networks run."""
        return torch.device(self.settings.device)

    @property
    def labels(self) -> LabelMap:
        """What the targets mean."""
        return self.card.labels

    @cached_property
    def calibration(self) -> list[VoxelBatch]:
        """Training sweeps on which batch norms are measured anew."""
        return spread_batches(
            self.train_set, self.settings.evaluation.calibration, self.card.voxels, "voxels"
        )

    @cached_property
    def calibration_inputs(self) -> list[SparseTensor]:
        """The same as inputs; the maps stay with them."""
        return inputs_of(self.calibration, self.device)

    @cached_property
    def cost_batches(self) -> list[VoxelBatch]:
        """Sweeps that costs are measured on."""
        return spread_batches(self.search_set, self.settings.cost.sweeps, self.card.voxels, "voxels")

    @cached_property
    def search_batches(self) -> list[VoxelBatch]:
        """Sweeps that networks are scored on while scan and search run."""
        chosen = self.settings.evaluation
        crop = self.card.voxels.crop if chosen.crop is None else chosen.crop
        return spread_batches(self.search_set, chosen.sweeps, replace(self.card.voxels, crop=crop), "labels")

    @cached_property
    def losses(self) -> Losses:
        """Of the calibration sweeps."""
        return losses_on(self.calibration, self.device)

    @cached_property
    def prunable(self) -> Prunable:
        """The network with what can be removed."""
        return self.pruning.of(self.model, self.losses)

    def check_report(self) -> None:
        """Whether there is something to report on: told now, not after everything was searched.

        Raises:
            RangeError: no sweep of the split is labelled.
        """
        if not has_labels(self.final_set):
            raise RangeError(
                f"split {self.settings.measure.split} has no labels to report on; set measure.split to "
                "another one"
            )

    @cached_property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """What each step is made from, see `compress_folder.RunFolder`."""
        settings = self.settings
        base = {
            "model": fingerprint(self.model), "device": settings.device, "tuned": settings.tuned,
        }  # fmt: skip
        scored = {
            **base,
            "sweeps": digest_of(self.search_batches),
            "calibration": digest_of(self.calibration),
            "recalibrate": settings.evaluation.recalibrate,
        }
        here: dict[str, Any] = {}
        if settings.budget.unit == "ms":
            # the widths that are chosen hang on the times of this machine
            here = {
                "threads": torch.get_num_threads(), "machine": device_key(settings.device),
                "versions": dict(versions()),
            }  # fmt: skip
        pruning, costed = self.pruning, digest_of(self.cost_batches)
        # offsets are scored by the pairs that the sweeps of the cost have
        counted = {"pairs_of": costed} if pruning.counts_pairs else {}
        return {
            "cost": {
                **base, **asdict(settings.cost), **here, "compress": pruning.facts("cost"),
                "sweeps": costed,
            },
            "weights": {
                **scored, "ratios": settings.scan.weights, "stop_after": settings.scan.stop_after,
            },
            "scan": {
                **scored, **counted, "compress": pruning.facts("scan"), "ratios": settings.scan.ratios,
                "stop_after": settings.scan.stop_after,
            },
            "search": {
                **scored, "compress": pruning.facts("search"), "budget": asdict(settings.budget),
                **self.method.facts, "evaluations": settings.evaluations, "seed": settings.seed,
                "scan": settings.scan.run, **self._curves(),
            },
            **self._inputs_after_search(base["model"]),
        }  # fmt: skip

    def _curves(self) -> dict[str, str]:
        """A word where lines stand for widths that the scan leaves out, which once counted as never seen."""
        facts = self.pruning.facts("search")
        nodes = [node for node in (facts, *facts.values()) if isinstance(node, dict)]
        grids = [node["ratios"] for node in nodes if "ratios" in node]
        scan = self.settings.scan
        if not (scan.run and self.method.wants_curves) or all({*scan.ratios} <= {*grid} for grid in grids):
            return {}
        return {"curves": "lines between the widths of the scan"}

    def _inputs_after_search(self, model: object) -> dict[str, dict[str, Any]]:
        settings = self.settings
        fit = settings.fit_settings(VoxelSettings(), settings.epochs)
        tuning: dict[str, Any] = {
            **run_facts(fit, augment=asdict(settings.augment)),
            "rounds": settings.rounds,
            "train": _digest(self.train_set, self.card.voxels),
        }
        # no entry where there is none, so that older folders go on
        tuning |= {name: factor for name, factor in settings.penalties.items() if factor}
        return {
            "prune": {"reconstruct": settings.reconstruct},
            "tune": {**tuning, "distill": settings.distill, "temperature": settings.temperature},
            "control": {**tuning, "model": model},
            "export": {"half": settings.half, "tune": settings.tune},
            "measure": {
                **asdict(settings.measure), "control": settings.control,
                "sweeps": _digest(self.final_set, self.card.voxels), "threads": torch.get_num_threads(),
            },
        }  # fmt: skip


def _near(path: Path) -> Path:
    """The path as a person here would write it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _needed(settings: CompressSettings) -> dict[str, Any]:
    data: DataSettings = settings.data
    splits = dict.fromkeys(("train", settings.evaluation.split, settings.measure.split))
    return {split: getattr(data, split) for split in splits}


def _digest(source: SweepSource, voxels: VoxelSettings) -> dict[str, Any]:
    """A set by its size and a few of its sweeps: to read all of it would take as long as a training epoch."""
    return {"sweeps": len(source), "digest": digest_of(spread_batches(source, _LOOKS, voxels, "nothing"))}


def _check_refit(model: nn.Module) -> None:
    """Whether least squares can refit a network: told now, not after everything was searched."""
    try:
        graph = ChannelGraph.of(model)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"least squares need the order of the layers: {error}; or set reconstruct=false"
        ) from error
    runs = Counter(layer.name for layer in graph.layers if layer.kind != "norm")
    twice = [name for name, n in runs.items() if n > 1]
    if twice:
        raise UnsupportedError(
            f"{twice[0]} runs {runs[twice[0]]} times in the network; least squares refit layers that run "
            "once: set reconstruct=false"
        )
