"""The lie of the land with streets laid into it: heights and places, by the survey."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.section import COLUMNS, KERB_RUN
from pcsparse.data.synthetic.street import Relief, Street
from pcsparse.data.synthetic.survey import (
    ACROSS,
    ALONG,
    EDGE,
    FRONT,
    ISLE,
    ISLE_LIFT,
    KERB,
    OTHER,
    SECTION,
    STREET,
    Lines,
    survey,
)

# a crown lets the water off: metres at the middle of a wide road, and metres from the edge over which most of
# it comes; roads and pavements are built to fall by 2.5 %
_CROWN, _CAMBER = 0.10, 3.0
_FALL = 0.025


def column(where: Floats, name: str) -> Floats:
    """A column of `section.COLUMNS` of surveyed points (n, 19)."""
    return where[:, SECTION + COLUMNS.index(name)]


@dataclass(frozen=True)
class Spots:
    """Surveyed places.

    Args:
        street: (n,) rows of `Land.streets`, the nearest; -1 far from all.
        along: (n,) metres along it.
        across: (n,) metres from its middle, positive to the left.
        edge: (n,) metres beyond the edge of the carriageway, junctions included; negative on it.
        kerb: (n,) metres beyond the kerb; parking bays lie before it.
        front: (n,) metres beyond the end of the pavement: private ground.
        isle: (n,) metres inside a traffic island, negative outside.
        other: (n,) metres to the carriageway of the nearest other street.
        z: (n,) world metres of the ground.
    """

    street: Ints
    along: Floats
    across: Floats
    edge: Floats
    kerb: Floats
    front: Floats
    isle: Floats
    other: Floats
    z: Floats


@dataclass(frozen=True)
class Land:
    """Streets and the land they lie on.

    Args:
        streets: all of the town.
        lines: the same, for the survey.
        relief: the lie of the land, roads included.
        bumps: what is added where nobody has levelled the ground.
    """

    streets: list[Street]
    lines: Lines
    relief: Relief
    bumps: Relief

    def smooth_height(self, where: Floats, x: Floats, y: Floats) -> Floats:
        """World z (n,) without kerbs: land, crown, fall of the pavement, banks, ditches and bumps."""
        front = where[:, FRONT]
        crown = _CROWN * (1.0 - np.exp(np.minimum(where[:, EDGE], 0.0) / _CAMBER))
        fall = _FALL * np.clip(where[:, KERB], 0.0, 4.0)
        share = np.clip((front - column(where, "rough")) / np.maximum(column(where, "run"), 0.5), 0.0, 1.0)
        bank = column(where, "rise") * share * share * (3 - 2 * share)
        ditch = column(where, "ditch") * np.exp(-(((front - 1.5) / 0.8) ** 2))
        wild = column(where, "wild") * np.clip((front - column(where, "rough")) / 3.0, 0.0, 1.0)
        return self.relief.height(x, y) + crown + fall + bank - ditch + wild * self.bumps.height(x, y)

    def heights(self, where: Floats, x: Floats, y: Floats) -> Floats:
        """World z (n,) of the ground at surveyed points (n, 19)."""
        lifted = lift(where[:, KERB], where[:, ISLE], column(where, "kerb"), where[:, ISLE_LIFT])
        return self.smooth_height(where, x, y) + lifted

    def at(self, x: Floats | float, y: Floats | float) -> Spots:
        """Survey the places (x, y), (n,) world metres or numbers."""
        x, y = np.atleast_1d(np.asarray(x, np.float64)), np.atleast_1d(np.asarray(y, np.float64))
        where = survey(self.lines, x, y)
        return Spots(
            where[:, STREET].astype(np.int64),
            where[:, ALONG],
            where[:, ACROSS],
            where[:, EDGE],
            where[:, KERB],
            where[:, FRONT],
            where[:, ISLE],
            where[:, OTHER],
            self.heights(where, x, y),
        )

    def height(self, x: Floats | float, y: Floats | float) -> Floats:
        """World z of the ground, kerbs and islands included, (n,) metres."""
        return self.at(x, y).z

    def slope(self, x: float, y: float, reach: float = 1.0) -> tuple[float, float]:
        """dz/dx and dz/dy of the lie of the land (kerbs apart)."""
        around = self.relief.height(
            np.array([x + reach, x - reach, x, x]), np.array([y, y, y + reach, y - reach])
        )
        return float(around[0] - around[1]) / (2 * reach), float(around[2] - around[3]) / (2 * reach)


def lift(kerb: Floats, isle: Floats, rise: Floats, isle_rise: Floats) -> Floats:
    """Metres that kerbs lift the ground: at `kerb` metres beyond them, `isle` metres inside an island."""
    up = rise * np.clip(kerb / KERB_RUN, 0.0, 1.0)
    return np.maximum(up, isle_rise * np.clip(isle / KERB_RUN, 0.0, 1.0))
