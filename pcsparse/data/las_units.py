"""The unit of a LAS file's coordinates, from the coordinate system in its header."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra

_METRES = (1.0, 1.0, 1.0)
# Source: OGC GeoTIFF 1.1, annex C.3, and LAS 1.4 R15, 2.6: keys that say a unit where no code does
_LINEAR_UNITS, _VERTICAL_UNITS = 3076, 4099
_KNOWN_UNITS = {
    9001: ("metre", 1.0),
    9002: ("foot", 0.3048),
    9003: ("US survey foot", 1200 / 3937),
}
# a foot of the one kind differs from the other by 2 mm in a kilometre
_SAME = 1e-9


@dataclass(frozen=True)
class LasUnits:
    """What a coordinate of the file is in metres.

    Attributes:
        factors: metres a unit of x, y and z.
        notes: what was converted, or could not be; see `PointCloud`.
    """

    factors: tuple[float, float, float] = _METRES
    notes: tuple[str, ...] = ()

    def metres(self, xyz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """(n, 3) coordinates of the file in metres."""
        return xyz if self.factors == _METRES else xyz * self.factors


def las_units(header: Any) -> LasUnits:
    """The units that a header of laspy states; metres where it states none.

    A height without a system of its own has the unit of the plane, as writers of LAS mean it. Degrees are not
    converted: a note says so.

    Raises:
        UnsupportedError: the file has a coordinate system, and the package that reads it is not installed.
    """
    if not any(vlr.user_id == "LASF_Projection" for vlr in header.vlrs):
        return LasUnits()
    errors = require_extra("pyproj.exceptions", "io")
    try:
        system = header.parse_crs()
    except (errors.CRSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:120]
        return LasUnits(notes=(f"the coordinate system cannot be read, taken as metres ({reason})",))
    return _of_keys(header) if system is None else _of_system(system)


def _of_system(system: Any) -> LasUnits:
    """Of pyproj's description: a compound system has its axes in one list."""
    axes = [(axis.unit_name, float(axis.unit_conversion_factor)) for axis in system.axis_info]
    if len(axes) < 2:
        return LasUnits(notes=(f"the coordinate system {system.name} has no plane: taken as metres",))
    if system.is_geographic:
        return LasUnits(
            notes=(
                f"the header says that coordinates are degrees ({system.name}); they are taken as metres: "
                "project the file first where they are degrees, for example with pdal's filters.reprojection",
            )
        )
    return _units([*axes[:2], axes[2] if len(axes) > 2 else axes[0]])


def _of_keys(header: Any) -> LasUnits:
    """Of GeoTIFF keys that describe a system without a code."""
    keys: dict[int, int] = {
        key.id: key.value_offset
        for vlr in header.vlrs
        for key in getattr(vlr, "geo_keys", ())
        if key.tiff_tag_location == 0
    }
    plane = _KNOWN_UNITS.get(keys.get(_LINEAR_UNITS, 0), ("metre", 1.0))
    height = _KNOWN_UNITS.get(keys.get(_VERTICAL_UNITS, 0), plane)
    return _units([plane, plane, height])


def _units(axes: list[tuple[str, float]]) -> LasUnits:
    factors = (axes[0][1], axes[1][1], axes[2][1])
    if all(abs(factor - 1.0) < _SAME for factor in factors):
        return LasUnits()
    by_unit: dict[str, list[str]] = {}
    for axis, (name, factor) in zip("xyz", axes, strict=True):
        by_unit.setdefault(f"{name} ({factor:.7g} m)", []).append(axis)
    said = ", ".join(f"{' '.join(names)} in {unit}" for unit, names in by_unit.items())
    return LasUnits(factors, (f"{said}, as the header says: converted to metres",))
