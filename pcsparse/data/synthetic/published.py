"""Figures measured on one labelled SemanticKITTI sweep: a second opinion beside sweeps that have no labels.

Source: the HDL-64E sweep of 123,389 points in mit-han-lab/spvnas assets/, measured. Class intensities are
given as mean and standard deviation on 0 to 1.
"""

from pcsparse.data.synthetic.sensor import Sensor

_POINTS = 123_389
_RINGS, _COLUMNS = 64, 2160

_HDL64E = {
    "rings": 64.0,
    "azimuth step, median": 0.179,
    "points": float(_POINTS),
    "missing share": 100.0 * (1 - _POINTS / (_RINGS * _COLUMNS)),
    "range, 1 %": 4.21,
    "range, 5 %": 4.72,
    "range, 25 %": 6.69,
    "range, 50 %": 11.37,
    "range, 75 %": 19.32,
    "range, 95 %": 45.43,
    "range, 99 %": 65.69,
    "voxels of 5 cm": 94_444.0,
    "voxels of 10 cm": 68_643.0,
    "voxels of 20 cm": 42_025.0,
}

CLASS_INTENSITY = {
    "road": (0.20, 0.11),
    "sidewalk": (0.30, 0.09),
    "terrain": (0.34, 0.10),
    "vegetation": (0.32, 0.15),
    "building": (0.22, 0.12),
    "trunk": (0.33, 0.15),
    "pole": (0.22, 0.18),
    "traffic-sign": (0.40, 0.32),
    "car": (0.05, 0.15),
}
"""Mean and standard deviation per name in `stats.GROUPS`, of an HDL-64E."""


def published(name: str, sensor: Sensor) -> float | None:
    """The figure `name` of the labelled sweep; None where it is not known, or of another sensor."""
    return _HDL64E.get(name) if sensor.name == "hdl64e" else None
