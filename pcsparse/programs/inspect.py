"""`pcsparse inspect`: what a point file holds, and what a model would make of it."""

import json
import math
import shlex
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pcsparse.config import InspectSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files_list import list_sources
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import FormatError, PcsparseError
from pcsparse.infer.choice import Choice
from pcsparse.infer.diagnosis import Diagnosis, Fault, diagnose
from pcsparse.infer.inspect import CloudReport
from pcsparse.infer.readings import Reading, other_reading, stands_on_ground
from pcsparse.programs.default_model import (
    brought_models,
    checkpoint_or_default,
    model_for,
    named_checkpoint,
)
from pcsparse.programs.infer import placement_of
from pcsparse.programs.infer_tiled import fits_tiles, tile_size
from pcsparse.programs.inspect_text import facts_of
from pcsparse.train.model_file import ModelCard, find_weights

_FINE, _FAULTY, _ERROR = 0, 1, 2
# what another model may know better
_OF_MODELS = ("lasers", "density")


@dataclass(frozen=True)
class KnownModel:
    """What a cloud is compared with.

    Attributes:
        weights: of the model.
        card: beside them.
        choice: why this one; None where it was named, or is the default one for a cloud in tiles.
    """

    weights: Path
    card: ModelCard
    choice: Choice | None = None

    @classmethod
    def read(cls, weights: Path, choice: Choice | None = None) -> "KnownModel":
        """Read the card beside the weights.

        Raises:
            FormatError: one of the two is missing, or the card is broken.
        """
        weights = find_weights(weights)
        return cls(weights, ModelCard.read(weights.with_suffix(".json")), choice)


@dataclass(frozen=True, eq=False)
class Inspected:
    """One file.

    Attributes:
        source: the file.
        cloud: as read, under `reading`.
        reading: as asked, or one that makes sense where that one does not.
        diagnosis: against the model.
        model: that one.
    """

    source: Path
    cloud: PointCloud
    reading: Reading
    diagnosis: Diagnosis
    model: KnownModel

    @property
    def flags(self) -> tuple[str, ...]:
        """All that would mend it, those that were given included."""
        reading = self.reading
        if self.diagnosis.intensity_scale is not None:
            reading = replace(reading, intensity_scale=self.diagnosis.intensity_scale)
        placement, tile = self.diagnosis.placement, self.diagnosis.tile
        # squares have places of their own: who needs another one needs a single pass
        size = tile if fits_tiles(placement) else 0.0
        tiles = (f"--tile {size:g}",) if tile else ()
        model = tuple(
            fault.flag for fault in self.diagnosis.faults if fault.flag and fault.kind in _OF_MODELS
        )
        return (*model[:1], *reading.flags(), *placement.flags(), *tiles)


def run(settings: InspectSettings) -> int:
    """Print a report on every file.

    Returns:
        Exit status: 0 if a model could take all of them as they are; 1 if something is wrong with one, which
        the report names with the flag that mends it, if any does; 2 if a file cannot be read.

    Raises:
        FormatError: no such input or checkpoint.
        RangeError: a setting has no meaning.
    """
    placement = placement_of(settings)
    named = named_checkpoint(settings.checkpoint, settings.model)
    known = KnownModel.read(named or checkpoint_or_default(None))
    sources, notes = list_sources(settings.sources)
    for note in notes:
        print(note, file=sys.stderr if settings.json else sys.stdout)
    status, listed = _FINE, []
    for source in sources:
        try:
            found = inspect_file(source, settings, placement, known, fixed=named is not None)
        except (PcsparseError, OSError) as error:
            status = _ERROR
            listed.append({"file": str(source), "error": str(error)})
            if not settings.json:
                print(f"error: {error}")
            continue
        status = max(status, _FAULTY if found.diagnosis.grave else _FINE)
        listed.append(_as_json(found))
        if not settings.json:
            print("\n".join(_lines(found, settings)))
    if settings.json:
        print(json.dumps(listed, indent=2))
    return status


def inspect_file(
    source: Path, settings: InspectSettings, placement: Placement, known: KnownModel, *, fixed: bool
) -> Inspected:
    """Read a file as asked, or as makes sense, and compare it with what a model knows.

    Args:
        source: the file.
        settings: how it is read.
        placement: how it is shown.
        known: a model.
        fixed: whether it is this one that counts; else the one that `infer` would choose.

    Raises:
        FormatError: the file cannot be read in any way that makes sense.
    """
    asked = Reading(settings.columns, settings.dtype, settings.intensity_scale)
    reading, cloud, faults = _read(source, asked)
    tile = tile_size(source, settings) or 0.0
    voxels = _voxels(known, settings)
    diagnosis = diagnose(cloud, known.card.input_spec, voxels, placement, tile)
    found = diagnosis.faults
    if fixed:
        found = _with_models(found, cloud, diagnosis, voxels)
    elif not diagnosis.tile:
        known = KnownModel.read(*model_for(_mended(cloud, diagnosis, placement, voxels)))
        voxels = _voxels(known, settings)
        diagnosis = diagnose(cloud, known.card.input_spec, voxels, placement, tile)
        found = diagnosis.faults
    faults = (*faults, *_voxel_fault(voxels, known.card.voxels), *found)
    return Inspected(source, cloud, reading, replace(diagnosis, faults=faults), known)


def _voxels(known: KnownModel, settings: InspectSettings) -> VoxelSettings:
    voxels = known.card.voxels
    return voxels if settings.voxel_size is None else replace(voxels, voxel_size=settings.voxel_size)


def _mended(
    cloud: PointCloud, diagnosis: Diagnosis, placement: Placement, voxels: VoxelSettings
) -> CloudReport:
    """The report on the cloud as it is with the flags that mend its placement: `infer` would see that."""
    if diagnosis.placement == placement:
        return diagnosis.report
    return CloudReport.of(cloud, diagnosis.placement, voxels.voxel_size)


def _read(source: Path, asked: Reading) -> tuple[Reading, PointCloud, tuple[Fault, ...]]:
    refusal = None
    try:
        cloud = asked.read(source)
        # other columns of a .bin are tried only where these show no ground
        if source.suffix.lower() != ".bin" or not len(cloud) or stands_on_ground(cloud) > 0:
            return asked, cloud, ()
    except FormatError as error:
        refusal = error
    other = other_reading(source, asked, refused=refusal is not None)
    if other is None or other == asked:
        if refusal is not None:
            raise refusal
        return asked, cloud, ()
    flag = " ".join(other.flags())
    text = f"read as {' '.join(asked.flags()) or 'inferred'} it is no sweep on a ground, with {flag} it is"
    if refusal is not None:
        text = f"it cannot be read as asked: {str(refusal).removeprefix(str(source)).strip(': ')}"
    return other, other.read(source), (Fault("reading", text, flag),)


def _with_models(
    faults: tuple[Fault, ...], cloud: PointCloud, diagnosis: Diagnosis, voxels: VoxelSettings
) -> tuple[Fault, ...]:
    """The faults, with the model that pcsparse brings and that knows such a sensor, if one does."""
    if not any(fault.kind in _OF_MODELS for fault in faults) or not brought_models():
        return faults
    placement = diagnosis.placement
    weights, choice = model_for(CloudReport.of(cloud, placement, voxels.voxel_size))
    card = ModelCard.read(weights.with_suffix(".json"))
    other = diagnose(cloud, card.input_spec, card.voxels, placement)
    if any(fault.kind in _OF_MODELS for fault in other.faults):
        return faults
    flag = f"--model {choice.name}"
    return tuple(replace(f, flag=flag) if f.kind in _OF_MODELS else f for f in faults)


def _voxel_fault(used: VoxelSettings, trained: VoxelSettings) -> tuple[Fault, ...]:
    if math.isclose(used.voxel_size, trained.voxel_size):
        return ()
    text = f"voxels of {used.voxel_size:g} m, the model was trained on {trained.voxel_size:g} m"
    return (Fault("voxel-size", text, f"--voxel-size {trained.voxel_size:g}"),)


def _lines(found: Inspected, settings: InspectSettings) -> list[str]:
    """The report on one file."""
    report, model = found.diagnosis.report, found.model
    lines = [f"{found.source}", *(f"  {name:<10} {text}" for name, text in facts_of(found.cloud, report))]
    spec = model.card.input_spec
    known = [f"{spec.n_points} points", f"intensity up to {spec.intensity_high:g}"]
    if spec.ground_height is not None:
        known.append(f"ground at {spec.ground_height:.2f} m")
    if spec.near_density is not None:
        known.append(f"{spec.near_density:.1f} points a ground cell")
    lines.append(f"  {'model':<10} {model.weights.name} knows sweeps of {', '.join(known)}")
    if model.choice is not None:
        lines.append(f"  {'':<10} chosen: {model.choice.reason}")
    for fault in found.diagnosis.faults:
        lines.append(f"  {'WARNING' if fault.grave else 'note':<10} {fault}")
    if not found.diagnosis.grave:
        lines.append(f"  {'fine':<10} nothing that the model does not know")
    elif found.flags:
        flags = (*_model_flags(settings, found.flags), *found.flags)
        lines.append(f"  {'try':<10} pcsparse infer {shlex.quote(str(found.source))} {' '.join(flags)}")
    else:
        lines.append(f"  {'try':<10} no flag mends this")
    return lines


def _model_flags(settings: InspectSettings, flags: tuple[str, ...]) -> tuple[str, ...]:
    """The model as it was named, unless another one is better."""
    if any(flag.startswith("--model ") for flag in flags):
        return ()
    given = {"--checkpoint": settings.checkpoint, "--model": settings.model}
    return tuple(f"{flag} {shlex.quote(str(value))}" for flag, value in given.items() if value is not None)


def _as_json(found: Inspected) -> dict[str, Any]:
    diagnosis, weights, card = found.diagnosis, found.model.weights, found.model.card
    return {
        "file": str(found.source),
        "notes": list(found.cloud.notes),
        "columns": {"intensity": found.cloud.intensity is not None, "ring": found.cloud.ring is not None},
        "origin": found.cloud.origin.tolist(),
        "report": asdict(diagnosis.report),
        "model": {
            "weights": str(weights),
            "choice": found.model.choice.reason if found.model.choice else None,
            "voxel_size": card.voxels.voxel_size,
            **asdict(card.input_spec),
        },
        "faults": [asdict(fault) for fault in diagnosis.faults],
        "fine": not diagnosis.grave,
        "flags": list(found.flags),
    }
