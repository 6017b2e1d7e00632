"""Checks on where a cloud lies: unit, axes, origin, height. Each mends the placement for the next one."""

from dataclasses import replace

import numpy as np

from pcsparse.data.input_spec import GROUND_TOLERANCE_M, MIN_POINTS, NEAR_M
from pcsparse.infer.case import Case

# a street may slope by as much, and a car with it
_TILT_DEGREES = 6.0
_ALL_ROUND = 0.8
_ZERO_SHARE = 1e-3
_NO_RETURN_M = 0.5
# a stray point: so much farther than nearly all others
_STRAY = 20.0
_STRAY_M = 2000.0
_SENSOR_SEES_M = 300.0
_UNITS = {0.001: "millimetres", 0.01: "centimetres"}


def stray(case: Case) -> None:
    """Points kilometres from all others."""
    distance = np.linalg.norm(case.points().astype(np.float64), axis=1)
    most = float(np.percentile(distance, 99))
    # in squares a stray point has one of its own
    if case.tile or case.report.reach < max(_STRAY * most, _STRAY_M):
        return
    limit = max(_SENSOR_SEES_M, 1.5 * most)
    case.add(
        "stray",
        f"{int((distance > limit).sum())} points lie up to {case.report.reach:.3g} m away, 99 % within "
        f"{most:.0f} m; a network cannot index voxels kilometres apart",
        f"--max-range {limit:.0f}",
    )
    case.place(replace(case.placement, max_range=float(round(limit))))


def frame(case: Case) -> None:
    """Another unit or another axis that points up."""
    frame = case.report.frame
    if frame.scale == 1.0 and frame.up == "z":
        return
    old = case.placement
    wanted = replace(old, scale=old.scale * frame.scale, up=frame.up if old.up == "z" else old.up)
    if frame.scale != 1.0:
        unit = _UNITS[frame.scale]
        case.add(
            "unit",
            f"coordinates reach {case.report.reach:g}: taken as {unit}, a ground lies "
            f"{-frame.ground.height:.2f} m below the origin, as metres none does"
            if frame.ground
            else f"coordinates reach {case.report.reach:g}, they seem to be {unit}",
            f"--scale {wanted.scale:g}",
        )
    if frame.up != "z":
        case.add(
            "axis",
            f"the ground is level across {frame.up}, not z: the model takes x forward, y left, z up",
            f"--up={wanted.up}",
        )
    case.place(wanted)


def tilt(case: Case) -> None:
    """A sensor that does not stand upright."""
    ground = case.report.frame.ground
    if ground is None or not case.report.frame.sure or ground.tilt < _TILT_DEGREES:
        return
    # a view to one side is not enough to tell a slope from a tilt
    if case.report.coverage < _ALL_ROUND:
        return
    up = np.array(ground.normal) @ case.placement.rotation()
    direction = ",".join(f"{value:.3f}" for value in up)
    case.add(
        "tilt",
        f"the ground is tilted by {ground.tilt:.1f} degrees; the model knows sensors that stand upright",
        f"--up={direction}",
    )
    case.place(replace(case.placement, up=direction))


def zeros(case: Case) -> None:
    """Rows of zeros in place of missing returns."""
    n = case.report.n_zero
    if not n or case.placement.min_range > 0:
        return
    grave = n > _ZERO_SHARE * case.report.n_file and not case.tile
    flag = f"--min-range {_NO_RETURN_M:g}"
    case.add("zeros", f"{n} points lie at exactly (0, 0, 0): no return, not a point", flag, grave=grave)
    if grave:
        case.place(replace(case.placement, min_range=_NO_RETURN_M))


def origin(case: Case) -> None:
    """A cloud whose sensor is not in its origin."""
    if case.report.facts.ground_height is not None or case.tile:
        return
    points = case.points()
    near = int((np.hypot(points[:, 0], points[:, 1]) < NEAR_M).sum())
    text = (
        f"fewer than {MIN_POINTS} points within {NEAR_M:g} m of the origin ({near} of {len(points)}): is it "
        "in the sensor's frame?"
    )
    x, y = (float(value) for value in np.round(np.median(points[:, :2], axis=0)))
    start = case.placement.subtracted(case.cloud)
    moved = (float(start[0]) + x, float(start[1]) + y, float(start[2]))
    if len(points) < MIN_POINTS or (x, y) == (0.0, 0.0):
        case.add("origin", text)
        return
    placement = replace(case.placement, origin=moved)
    case.add("origin", text, f"--origin={moved[0]:.10g},{moved[1]:.10g},{moved[2]:.10g}")
    case.place(placement)


def ground(case: Case) -> None:
    """A ground at another height."""
    found, known = case.report.facts.ground_height, case.spec.ground_height
    if case.tile or found is None or known is None or abs(found - known) <= GROUND_TOLERANCE_M:
        return
    case.add(
        "ground",
        f"the ground lies at z = {found:.2f} m, the model knows {known:.2f} m",
        f"--z-offset {known - found + case.placement.z_offset:.2f}",
    )
    case.place(case.placement.moved_up(round(known - found, 2)))
