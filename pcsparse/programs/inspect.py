"""`pcsparse inspect`: what a point file holds, and what a model would make of it."""

import itertools
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pcsparse.config import InspectSettings
from pcsparse.data.collate import VoxelSettings
from pcsparse.data.files import list_point_files
from pcsparse.data.placement import Placement
from pcsparse.data.point_cloud import PointCloud
from pcsparse.errors import FormatError, PcsparseError
from pcsparse.infer.diagnosis import Diagnosis, Fault, diagnose
from pcsparse.infer.inspect import RANGE_EDGES_M, CloudReport
from pcsparse.infer.readings import Reading, other_reading, stands_on_ground
from pcsparse.programs.default_model import brought_models, checkpoint_or_default
from pcsparse.programs.infer import placement_of
from pcsparse.programs.infer_tiled import tile_size
from pcsparse.train.model_file import ModelCard, find_weights

_FINE, _FAULTY, _ERROR = 0, 1, 2
# what another model may know better
_OF_MODELS = ("lasers", "density")


@dataclass(frozen=True, eq=False)
class Inspected:
    """One file.

    Attributes:
        source: the file.
        cloud: as read, under `reading`.
        reading: as asked, or one that makes sense where that one does not.
        diagnosis: against the model.
    """

    source: Path
    cloud: PointCloud
    reading: Reading
    diagnosis: Diagnosis

    @property
    def flags(self) -> tuple[str, ...]:
        """All that would mend it, those that were given included."""
        reading = self.reading
        if self.diagnosis.intensity_scale is not None:
            reading = replace(reading, intensity_scale=self.diagnosis.intensity_scale)
        tiles = (f"--tile {self.diagnosis.tile:g}",) if self.diagnosis.tile else ()
        model = tuple(
            fault.flag for fault in self.diagnosis.faults if fault.flag and fault.kind in _OF_MODELS
        )
        return (*model[:1], *reading.flags(), *self.diagnosis.placement.flags(), *tiles)


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
    weights = find_weights(checkpoint_or_default(settings.checkpoint))
    card = ModelCard.read(weights.with_suffix(".json"))
    sources = list(dict.fromkeys(path for given in settings.sources for path in list_point_files(given)))
    status, listed = _FINE, []
    for source in sources:
        try:
            found = inspect_file(source, settings, placement, card)
        except (PcsparseError, OSError) as error:
            status = _ERROR
            listed.append({"file": str(source), "error": str(error)})
            if not settings.json:
                print(f"error: {error}")
            continue
        status = max(status, _FAULTY if found.diagnosis.grave else _FINE)
        listed.append(_as_json(found, weights, card))
        if not settings.json:
            print("\n".join(_lines(found, settings, weights, card)))
    if settings.json:
        print(json.dumps(listed, indent=2))
    return status


def inspect_file(source: Path, settings: InspectSettings, placement: Placement, card: ModelCard) -> Inspected:
    """Read a file as asked, or as makes sense, and compare it with what a model knows.

    Raises:
        FormatError: the file cannot be read in any way that makes sense.
    """
    asked = Reading(settings.columns, settings.dtype, settings.intensity_scale)
    voxels = card.voxels
    if settings.voxel_size is not None:
        voxels = replace(voxels, voxel_size=settings.voxel_size)
    reading, cloud, faults = _read(source, asked)
    tile = tile_size(source, settings) or 0.0
    diagnosis = diagnose(cloud, card.input_spec, voxels, placement, tile)
    found = _with_models(diagnosis.faults, cloud, diagnosis.placement)
    faults = (*faults, *_voxel_fault(voxels, card.voxels), *found)
    return Inspected(source, cloud, reading, replace(diagnosis, faults=faults))


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
        text = f"it cannot be read as asked ({str(refusal).removeprefix(str(source)).strip(': ')[:200]})"
    return other, other.read(source), (Fault("reading", text, flag),)


def _with_models(faults: tuple[Fault, ...], cloud: PointCloud, placement: Placement) -> tuple[Fault, ...]:
    """The faults, with the model that pcsparse brings and that knows such a sensor, if one does."""
    if not any(fault.kind in _OF_MODELS for fault in faults):
        return faults
    for weights in brought_models():
        card = ModelCard.read(weights.with_suffix(".json"))
        other = diagnose(cloud, card.input_spec, card.voxels, placement)
        if not any(fault.kind in _OF_MODELS for fault in other.faults):
            flag = f"--checkpoint {weights}"
            return tuple(replace(f, flag=flag) if f.kind in _OF_MODELS else f for f in faults)
    return faults


def _voxel_fault(used: VoxelSettings, trained: VoxelSettings) -> tuple[Fault, ...]:
    if math.isclose(used.voxel_size, trained.voxel_size):
        return ()
    text = f"voxels of {used.voxel_size:g} m, the model was trained on {trained.voxel_size:g} m"
    return (Fault("voxel-size", text, f"--voxel-size {trained.voxel_size:g}"),)


def _lines(found: Inspected, settings: InspectSettings, weights: Path, card: ModelCard) -> list[str]:
    """The report on one file."""
    report = found.diagnosis.report
    lines = [f"{found.source}", *(f"  {name:<10} {text}" for name, text in _facts(found.cloud, report))]
    spec = card.input_spec
    known = [f"{spec.n_points} points", f"intensity up to {spec.intensity_high:g}"]
    if spec.ground_height is not None:
        known.append(f"ground at {spec.ground_height:.2f} m")
    if spec.near_density is not None:
        known.append(f"{spec.near_density:.1f} points a ground cell")
    lines.append(f"  {'model':<10} {weights.name} knows sweeps of {', '.join(known)}")
    for fault in found.diagnosis.faults:
        lines.append(f"  {'WARNING' if fault.grave else 'note':<10} {fault}")
    if not found.diagnosis.grave:
        lines.append(f"  {'fine':<10} nothing that the model does not know")
    elif found.flags:
        named = any(flag.startswith("--checkpoint") for flag in found.flags)
        model = f" --checkpoint {settings.checkpoint}" if settings.checkpoint and not named else ""
        lines.append(f"  {'try':<10} pcsparse infer {found.source}{model} {' '.join(found.flags)}")
    else:
        lines.append(f"  {'try':<10} no flag mends this")
    return lines


def _facts(cloud: PointCloud, report: CloudReport) -> list[tuple[str, str]]:
    size = cloud.source.stat().st_size
    columns = (
        "x y z" + (" intensity" if report.intensity else "") + (" ring" if cloud.ring is not None else "")
    )
    named = (
        "".join(cloud.source.suffixes[-2:]) if cloud.source.name.endswith(".pcd.bin") else cloud.source.suffix
    )
    facts = [("file", f"{named}, {size} bytes: {report.n_file} points of {columns}")]
    facts += [("", note) for note in cloud.notes]
    total = max(1, report.facts.n_points)
    low, high = report.extent
    extent = ", ".join(f"{axis} {a:.1f} ... {b:.1f}" for axis, a, b in zip("xyz", low, high, strict=True))
    facts.append(("extent", f"{extent} m; 99 % within {report.facts.reach:.1f} m"))
    edges = [f"{a:g}-{b:g}" for a, b in itertools.pairwise(RANGE_EDGES_M)]
    shares = [f"{n} m {100 * k / total:.1f} %" for n, k in zip([*edges, "beyond"], report.bands, strict=True)]
    facts.append(("range", ", ".join(shares)))
    near = report.facts.near_density
    cells = "" if near is None else f"{near:.1f} points a ground cell of 0.5 m within 20 m; "
    facts.append(
        (
            "density",
            f"{cells}{report.n_voxels} voxels, {total / max(1, report.n_voxels):.1f} points in each, "
            f"{100 * report.alone:.0f} % without a neighbour",
        )
    )
    facts += [("ground", _ground_line(report)), ("sensor", _sensor_line(report))]
    facts.append(("intensity", _intensity_line(report)))
    odd = {
        "not finite": report.n_invalid,
        "at (0, 0, 0)": report.n_zero,
        "repeated": report.n_repeated,
        "within 2.5 m over the ground": report.n_own,
        "out of the given range": report.n_hidden_by_range,
    }
    facts.append(("points", ", ".join(f"{n} {name}" for name, n in odd.items())))
    return facts


def _ground_line(report: CloudReport) -> str:
    frame = report.frame
    if frame.ground is None:
        return "no level plane within 20 m of the origin"
    axes = f"{frame.up} up, {'metres' if frame.scale == 1 else f'units of {frame.scale:g} m'}"
    believed = "" if frame.sure else " (a sensor stands 0.3 ... 4 m over its ground: not sure of either)"
    return (
        f"z = {frame.ground.height:.2f} m under the origin, tilted {frame.ground.tilt:.1f} degrees, "
        f"{100 * frame.ground.share:.0f} % of what is near lies on it; {axes}{believed}"
    )


def _sensor_line(report: CloudReport) -> str:
    rings = report.rings
    behind = f"{100 * report.behind:.1f} % of the points lie behind others"
    if report.coverage < 1:
        behind = f"{360 * report.coverage:.0f} degrees around it are seen; {behind}"
    if rings is None:
        return f"no rings found; {behind}"
    about = "about " if rings.source == "elevations" else ""
    step = "" if rings.step is None else f", a point every {rings.step:.3f} degrees"
    return (
        f"{about}{rings.count} lasers from {rings.low:.1f} to {rings.high:.1f} degrees{step} "
        f"(by {rings.source}); {behind}"
    )


def _intensity_line(report: CloudReport) -> str:
    facts = report.intensity
    if facts is None:
        return "none"
    return f"{facts.low:g} ... {facts.high:g}, 99 % below {facts.percentile_99:g}; divided by {facts.scale:g}"


def _as_json(found: Inspected, weights: Path, card: ModelCard) -> dict[str, Any]:
    diagnosis = found.diagnosis
    return {
        "file": str(found.source),
        "notes": list(found.cloud.notes),
        "columns": {"intensity": found.cloud.intensity is not None, "ring": found.cloud.ring is not None},
        "origin": found.cloud.origin.tolist(),
        "report": asdict(diagnosis.report),
        "model": {"weights": str(weights), "voxel_size": card.voxels.voxel_size, **asdict(card.input_spec)},
        "faults": [asdict(fault) for fault in diagnosis.faults],
        "fine": not diagnosis.grave,
        "flags": list(found.flags),
    }
