"""The unit of a LAS file's coordinates, from the coordinate system in its header."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra

_METRES = (1.0, 1.0, 1.0)
# Source: OGC GeoTIFF 1.1, annex C.3, and LAS 1.4 R15, 2.6: keys that say a unit where no code does
_LINEAR_UNITS, _VERTICAL_UNITS = 3076, 4099
_MODEL, _PLANE, _PROJECTION, _HEIGHT = 1024, 3072, 3074, 4096
_PROJECTED, _USER_DEFINED = 1, 32767
# record of the system as text
_WKT = 2112
_Unit = tuple[str, float]
_METRE: _Unit = ("metre", 1.0)
_KNOWN_UNITS: dict[int, _Unit] = {
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
    vlrs = [
        vlr for vlr in (*header.vlrs, *(header.evlrs or ())) if str(vlr.user_id).startswith("LASF_Projection")
    ]
    if not vlrs:
        return LasUnits()
    errors = require_extra("pyproj.exceptions", "io")
    keys = {
        int(key.id): int(key.value_offset)
        for vlr in vlrs
        for key in getattr(vlr, "geo_keys", ())
        if key.tiff_tag_location == 0
    }
    notes: tuple[str, ...] = ()
    system = None
    try:
        system = header.parse_crs()
    except (errors.CRSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:120]
        kept = "its keys for units are used" if keys else "taken as metres"
        notes = (f"the coordinate system cannot be read, {kept} ({reason})",)
    if system is not None and any(vlr.record_id == _WKT for vlr in vlrs):
        return _of_system(system)
    found = _of_keys(keys, system)
    return LasUnits(found.factors, (*notes, *found.notes))


def _of_system(system: Any) -> LasUnits:
    """Of pyproj's description of a WKT: a compound system has its axes in one list."""
    axes = _axes(system)
    if system.is_geographic:
        return _degrees(system)
    if len(axes) < 2:
        return LasUnits(notes=(f"the coordinate system {system.name} has no plane: taken as metres",))
    return _units([*axes[:2], axes[2] if len(axes) > 2 else axes[0]])


def _axes(system: Any) -> list[_Unit]:
    return [(axis.unit_name, float(axis.unit_conversion_factor)) for axis in system.axis_info]


def _degrees(system: Any) -> LasUnits:
    return LasUnits(
        notes=(
            f"the header says that coordinates are degrees ({system.name}); they are taken as metres: "
            "project the file first where they are degrees, for example with pdal's filters.reprojection",
        )
    )


def _of_keys(keys: dict[int, int], system: Any) -> LasUnits:
    """Of GeoTIFF keys; `system` is what laspy makes of the code of a plane or a datum, or None."""
    projects = keys.get(_MODEL) == _PROJECTED or any(
        key in keys for key in (_PLANE, _PROJECTION, _LINEAR_UNITS)
    )
    if system is not None and system.is_geographic and not projects:
        return _degrees(system)
    notes: tuple[str, ...] = ()
    for code in (keys.get(_LINEAR_UNITS), keys.get(_VERTICAL_UNITS)):
        if code is not None and code not in _KNOWN_UNITS:
            notes = (*notes, f"the header's unit of code {code} is not known here")
    # a plane of one's own goes with the datum that laspy found
    axes = [] if system is None or system.is_geographic else _axes(system)
    plane = axes[0] if axes else _KNOWN_UNITS.get(keys.get(_LINEAR_UNITS, 0), _METRE)
    height = _KNOWN_UNITS.get(keys.get(_VERTICAL_UNITS, 0)) or _height_by_code(keys) or plane
    found = _units([plane, plane, height])
    return LasUnits(found.factors, (*notes, *found.notes))


def _height_by_code(keys: dict[int, int]) -> _Unit | None:
    """The unit of a system of heights, such as 6360: NAVD88 in US survey feet."""
    code = keys.get(_HEIGHT, 0)
    if code in (0, _USER_DEFINED):
        return None
    pyproj = require_extra("pyproj", "io")
    try:
        axes = _axes(pyproj.CRS.from_epsg(code))
    except pyproj.exceptions.CRSError:
        return None
    return axes[0] if len(axes) == 1 else None


def _units(axes: list[_Unit]) -> LasUnits:
    factors = (axes[0][1], axes[1][1], axes[2][1])
    if all(abs(factor - 1.0) < _SAME for factor in factors):
        return LasUnits()
    by_unit: dict[str, list[str]] = {}
    for axis, (name, factor) in zip("xyz", axes, strict=True):
        by_unit.setdefault(f"{name} ({factor:.7g} m)", []).append(axis)
    said = ", ".join(f"{' '.join(names)} in {unit}" for unit, names in by_unit.items())
    return LasUnits(factors, (f"{said}, as the header says: converted to metres",))
