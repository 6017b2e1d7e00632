"""nuScenes' categories, and which of them SemanticKITTI's raw classes are.

Source: the category index of nuScenes-lidarseg (nutonomy/nuscenes-devkit).
"""

import numpy as np

from pcsparse.data.synthetic.arrays import Bools, Ints

CATEGORIES = (
    "noise", "animal", "human.pedestrian.adult", "human.pedestrian.child",
    "human.pedestrian.construction_worker", "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer", "human.pedestrian.stroller", "human.pedestrian.wheelchair",
    "movable_object.barrier", "movable_object.debris", "movable_object.pushable_pullable",
    "movable_object.trafficcone", "static_object.bicycle_rack", "vehicle.bicycle", "vehicle.bus.bendy",
    "vehicle.bus.rigid", "vehicle.car", "vehicle.construction", "vehicle.emergency.ambulance",
    "vehicle.emergency.police", "vehicle.motorcycle", "vehicle.trailer", "vehicle.truck",
    "flat.driveable_surface", "flat.other", "flat.sidewalk", "flat.terrain", "static.manmade",
    "static.other", "static.vegetation", "vehicle.ego",
)  # fmt: skip
"""Names by index."""

# raw SemanticKITTI id -> category; trams have none and go with the nearest, articulated buses
_OF: dict[int, str] = {
    0: "noise", 1: "noise", 10: "vehicle.car", 11: "vehicle.bicycle", 13: "vehicle.bus.rigid",
    15: "vehicle.motorcycle", 16: "vehicle.bus.bendy", 18: "vehicle.truck", 20: "vehicle.trailer",
    30: "human.pedestrian.adult", 31: "vehicle.bicycle", 32: "vehicle.motorcycle",
    40: "flat.driveable_surface", 44: "flat.driveable_surface", 48: "flat.sidewalk", 49: "flat.other",
    50: "static.manmade", 51: "static.manmade", 52: "static.manmade", 60: "flat.driveable_surface",
    70: "static.vegetation", 71: "static.vegetation", 72: "flat.terrain", 80: "static.manmade",
    81: "static.manmade", 99: "static.other", 252: "vehicle.car", 253: "vehicle.bicycle",
    254: "human.pedestrian.adult", 255: "vehicle.motorcycle", 256: "vehicle.bus.bendy",
    257: "vehicle.bus.rigid", 258: "vehicle.truck", 259: "vehicle.trailer",
}  # fmt: skip
_OUTLIER = 1
_TABLE = np.zeros(260, np.uint8)
for _raw, _name in _OF.items():
    _TABLE[_raw] = CATEGORIES.index(_name)

ATTRIBUTES = (
    "vehicle.moving", "vehicle.parked", "cycle.with_rider", "cycle.without_rider", "pedestrian.moving",
    "pedestrian.standing",
)  # fmt: skip
VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")
"""Levels by token "1" to "4"."""


def category_of(semantic: int) -> str:
    """The category of a raw id."""
    return CATEGORIES[int(_TABLE[semantic])]


def category_index(semantic: Ints, own: Bools) -> Ints:
    """(n,) uint8 of nuScenes-lidarseg.

    Args:
        semantic: (n,) raw SemanticKITTI ids.
        own: (n,) which of the outliers lie on the own car.
    """
    found: Ints = _TABLE[semantic]
    found = np.where((semantic == _OUTLIER) & own, CATEGORIES.index("vehicle.ego"), found)
    return found.astype(np.uint8)


def attribute_of(semantic: int) -> str:
    """The attribute of an annotated thing, by its raw id."""
    moving, category = semantic >= 252, category_of(semantic)
    if semantic in (31, 32, 253, 255):
        return "cycle.with_rider"
    if category in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.without_rider"
    if category.startswith("human"):
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return "vehicle.moving" if moving else "vehicle.parked"


def visibility_of(visible: float) -> str:
    """The token of the level that a share of 0 to 1 lies in; unknown (NaN) counts as hardly seen."""
    if np.isnan(visible):
        return "1"
    return str(1 + int(np.searchsorted((0.4, 0.6, 0.8), visible, side="right")))
