"""Checks on what a cloud holds: density, intensity, points that are none. No placement mends these."""

from dataclasses import replace

import numpy as np

from pcsparse.data.input_spec import DENSITY_FACTOR, MIN_POINTS
from pcsparse.data.placement import Placement
from pcsparse.infer.case import Case
from pcsparse.infer.inspect import OWN_VEHICLE_M, IntensityFacts

_OWN_SHARE = 5e-3
# real sweeps have up to 0.04, two sensors in one frame 0.08, joined sweeps 0.19, maps over half
_BEHIND_SHARE = 0.15
# of the voxels; sweeps of 32 lasers have 0.37 at 0.1 m
_ALONE_SHARE = 0.75
_INVALID_SHARE = 0.5
# half the lasers with steps of azimuth twice as wide are a quarter of the points
_FEWER = 2.5
# a room, a tree, a shelf; a sweep in a narrow yard reaches a third of the usual
_SMALL = 6.0
# darker or brighter than the model's by it is another scale; surfaces alone make a factor of 2
_INTENSITY_FACTOR = 4.0
_INTENSITY_FLAT = 1e-6
_FULL_SCALES = (1.0, 100.0, 127.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
# a file whose largest value is so near to a full scale is on that scale
_SATURATED = 0.98
_CROPPED_SHARE = 0.2

TILE_M = 60.0
"""Metres of the squares that a map is best predicted in: a model knows some 50 m around a sensor."""


def invalid(case: Case) -> None:
    """Points that are not finite."""
    n, total = case.report.n_invalid, case.report.n_file
    if n:
        grave = n > _INVALID_SHARE * total
        case.add("invalid", f"{n} of {total} points are NaN or infinite and get no class", grave=grave)


def empty(case: Case) -> None:
    """No point at all."""
    if case.report.facts.n_points:
        return
    case.hopeless = True
    if case.cloud.n_file:
        case.add("empty", f"none of the {case.cloud.n_file} points can be used: not finite, or out of range")
    else:
        case.add("empty", "the file has no points", grave=False)


def small(case: Case) -> None:
    """Too few points, or an object where a street is expected."""
    facts = case.report.facts
    if facts.n_points < MIN_POINTS:
        case.add("few", f"{facts.n_points} points are too few to recognise anything in")
        case.hopeless = True
    elif facts.reach < case.spec.reach / _SMALL:
        case.add(
            "small",
            f"99 % of the points lie within {facts.reach:.1f} m: an object or a room; the model knows "
            f"streets of {case.spec.reach:.0f} m",
        )
        case.hopeless = True


def lasers(case: Case) -> None:
    """A sensor with far fewer lasers than the one that the model knows."""
    rings, n = case.report.rings, case.report.facts.n_points - case.report.n_own
    if rings is not None and n * _FEWER < case.spec.n_points * case.report.coverage:
        case.add(
            "lasers",
            f"{n} points of {rings.count} lasers, the model knows sweeps of {case.spec.n_points}: one that "
            "was trained on such a sensor sees more",
        )


def density(case: Case) -> None:
    """Too few points for surfaces, or far too many."""
    found, known = case.report.facts.near_density, case.spec.near_density
    if found is None or known is None:
        return
    if not 1 / DENSITY_FACTOR <= found / known <= DENSITY_FACTOR:
        rings = case.report.rings
        seen = f" ({rings.count} lasers)" if rings is not None else ""
        case.add(
            "density",
            f"{found:.1f} points in a ground cell of 0.5 m near the origin{seen}, the model knows "
            f"{known:.1f}",
        )
    elif case.report.alone > _ALONE_SHARE:
        case.add(
            "alone",
            f"{100 * case.report.alone:.0f} % of the voxels of {case.voxels.voxel_size:g} m have no "
            "neighbour: the network sees dots, not surfaces",
        )


def behind(case: Case) -> None:
    """A map in place of a sweep."""
    if case.report.behind <= _BEHIND_SHARE or case.tile:
        return
    # squares are taken as the file has them
    straight = replace(case.placement, origin=(0.0, 0.0, 0.0), z_offset=0.0) == Placement()
    case.tile = TILE_M if straight else 0.0
    case.add(
        "map",
        f"{100 * case.report.behind:.0f} % of the points lie behind others as seen from the origin: a "
        "map or joined sweeps; the model knows single sweeps and does best on those",
        f"--tile {TILE_M:g}" if straight else None,
    )


def crop(case: Case) -> None:
    """Points outside the box of the model."""
    crop = case.voxels.crop
    if crop is None:
        return
    points = case.points()
    outside = ~((points >= np.array(crop[:3])) & (points < np.array(crop[3:]))).all(axis=1)
    if outside.mean() > _CROPPED_SHARE:
        box = ", ".join(f"{value:g}" for value in crop)
        case.add("crop", f"{100 * outside.mean():.0f} % of the points lie outside the model's box ({box}) m")


def resolution(case: Case) -> None:
    """Coordinates that were rounded when they were stored."""
    step = case.report.resolution
    if step > 0.5 * case.voxels.voxel_size:
        case.add(
            "resolution",
            f"the number format of the file resolves {step:.3g} m there, voxels have "
            f"{case.voxels.voxel_size:g} m: surfaces become stairs; export it with an origin "
            "subtracted, or as doubles",
        )
    elif step:
        case.add("resolution", f"the number format of the file resolves {step:.3g} m", grave=False)


def intensity(case: Case) -> None:
    """An intensity that is missing, says nothing or is on another scale."""
    facts, high, known = case.report.intensity, case.report.facts.intensity_high, case.spec.intensity_high
    if known < _INTENSITY_FLAT:
        return
    if facts is None or high is None:
        case.add("intensity", "the file has no intensity: 0 is used for every point")
    elif facts.constant:
        case.add("intensity", f"the intensity is {facts.low:g} throughout; the model was trained with it")
    elif (scale := _other_scale(facts, high / known)) is not None:
        case.intensity_scale = scale
        case.add(
            "intensity",
            f"intensities reach {facts.high:g} and were divided by {facts.scale:g}: 99 % lie below "
            f"{high:.3f}, the model knows {known:.2f}",
            f"--intensity-scale {scale:g}",
        )


def _other_scale(facts: IntensityFacts, brightness: float) -> float | None:
    """A full scale that fits better than the one that was used, if one does."""
    holding = min((scale for scale in _FULL_SCALES if facts.high <= scale), default=facts.scale)
    if holding < 0.5 * facts.scale and facts.high >= _SATURATED * holding:
        return holding
    if 1 / _INTENSITY_FACTOR <= brightness <= _INTENSITY_FACTOR:
        return None
    if holding < 0.5 * facts.scale:
        return holding
    # no common scale: the one that makes it as bright as the model knows
    fitting = float(f"{max(facts.scale * brightness, facts.high / 2):.3g}")
    return None if fitting == facts.scale else fitting


def own(case: Case) -> None:
    """Returns from the own vehicle."""
    n = case.report.n_own
    if case.tile or not case.report.frame.sure or n <= _OWN_SHARE * case.report.n_file:
        return
    if case.voxels.min_range:
        case.add(
            "own",
            f"{n} points within {OWN_VEHICLE_M:g} m and over the ground: the own vehicle, if it is one; the "
            f"model leaves out what is nearer than {case.voxels.min_range:g} m, without a class",
            grave=False,
        )
    else:
        case.add(
            "own",
            f"{n} points within {OWN_VEHICLE_M:g} m and over the ground: the own vehicle, if it is one",
            f"--min-range {OWN_VEHICLE_M:g}",
            grave=False,
        )


def repeated(case: Case) -> None:
    """Points that occur twice."""
    n = case.report.n_repeated
    if n:
        case.add("repeated", f"{n} points repeat another exactly", grave=False)
