"""Kinds of towns: how their streets run, how wide they are, what lies beside them, how often they meet."""

from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.section import ASPHALT, BAY, GRAVEL, PAVED, SOIL, Section

JUNCTIONS = ("cross", "tee", "cross_turn", "tee_turn", "tee_end", "ring", "none")
"""How a stretch of the ego's way ends: straight over a crossing or past a branch; a turn at one; a turn where
the street ends; a roundabout; or nothing."""


@dataclass(frozen=True)
class District:
    """What a town is like; the shares are probabilities.

    Args:
        stretch: metres between junctions, least and most.
        junctions: weights of `JUNCTIONS`.
        half: metres, half the width of a street, least and most.
        wide: share of streets up to 14 m wide.
        bends: metres between bends at most, least and largest radius in metres.
        slopes: rms slopes of the land, one of which is drawn.
        frontage: weights of `frontage.KINDS`.
        kerb, walk, verge, bay: shares of sides that have a kerb, a pavement, a green strip, parking bays.
        marked, zebra, isle: shares of streets with a painted middle, of nodes with pedestrians' crossings,
            of nodes with traffic islands.
        strip: share of streets with a central strip.
        corner: metres, radius of kerbs at corners, least and most.
        speed: metres a second of the ego vehicle, least and most.
        traffic: movers relative to a town's.
    """

    stretch: tuple[float, float]
    junctions: tuple[float, ...]
    half: tuple[float, float]
    wide: float
    bends: tuple[float, float, float]
    slopes: tuple[float, ...]
    frontage: dict[str, float] = field(hash=False)
    kerb: float
    walk: float
    verge: float
    bay: float
    marked: float
    zebra: float
    isle: float
    strip: float
    corner: tuple[float, float]
    speed: tuple[float, float]
    traffic: float


DISTRICTS = {
    "city": District(
        (40, 110), (4, 2, 2, 1, 1, 0.6, 0.6), (3.0, 4.3), 0.16, (160, 30, 200), (0.006, 0.015),
        {"terrace": 0.54, "detached": 0.08, "park": 0.13, "car_park": 0.05, "works": 0.04, "walled": 0.12,
         "yard": 0.04}, 1.0, 1.0, 0.28, 0.34, 0.6, 0.5, 0.25, 0.12, (3.5, 8.0), (5, 11), 1.5,
    ),
    "residential": District(
        (35, 95), (3, 3, 2, 2, 1.5, 0.4, 0.6), (2.6, 3.8), 0.05, (120, 18, 120), (0.006, 0.02, 0.04),
        {"terrace": 0.33, "detached": 0.43, "park": 0.06, "walled": 0.1, "thicket": 0.03, "car_park": 0.03,
         "yard": 0.02}, 0.97, 0.96, 0.14, 0.25, 0.25, 0.15, 0.06, 0.02, (3.0, 6.0), (5, 9), 0.9,
    ),
    "suburb": District(
        (40, 125), (2, 3, 1.5, 2, 1, 0.9, 1), (2.7, 4.2), 0.1, (110, 18, 150), (0.015, 0.03, 0.05),
        {"terrace": 0.12, "detached": 0.46, "park": 0.11, "thicket": 0.1, "meadow": 0.06, "walled": 0.12,
         "yard": 0.03}, 0.9, 0.88, 0.28, 0.22, 0.5, 0.2, 0.12, 0.04, (4.0, 8.0), (7, 13), 0.8,
    ),
    "rural": District(
        (80, 220), (0.8, 3, 0.4, 1, 0.7, 0.6, 3), (2.3, 3.7), 0.02, (130, 25, 250), (0.02, 0.04, 0.06),
        {"thicket": 0.3, "meadow": 0.38, "park": 0.12, "detached": 0.12, "walled": 0.04, "works": 0.04},
        0.12, 0.12, 0.9, 0.02, 0.65, 0.02, 0.06, 0.0, (5.0, 10.0), (9, 18), 0.6,
    ),
    "industrial": District(
        (55, 150), (2, 3, 1, 1, 1, 1, 0.7), (3.2, 5.0), 0.25, (200, 30, 250), (0.004, 0.012),
        {"works": 0.42, "car_park": 0.22, "yard": 0.1, "meadow": 0.08, "walled": 0.08, "thicket": 0.1},
        0.95, 0.75, 0.4, 0.25, 0.6, 0.15, 0.2, 0.12, (6.0, 12.0), (7, 13), 1.0,
    ),
    "highway": District(
        (180, 420), (0.3, 1.5, 0.1, 0.2, 0.1, 0.2, 6), (6.5, 9.5), 0.0, (300, 150, 600), (0.01, 0.025),
        {"thicket": 0.42, "meadow": 0.4, "barrier": 0.18}, 0.15, 0.04, 1.0, 0.0, 1.0, 0.0, 0.1, 0.75,
        (8.0, 14.0), (14, 27), 1.4,
    ),
}  # fmt: skip

SHARES = {
    "city": 0.2, "residential": 0.42, "suburb": 0.19, "rural": 0.08, "industrial": 0.05, "highway": 0.06
}  # fmt: skip


def pick(rng: Generator, shares: dict[str, float]) -> str:
    """A name, as often as its weight says."""
    total = sum(shares.values())
    return str(rng.choice(list(shares), p=[share / total for share in shares.values()]))


def chance(rng: Generator, share: float) -> bool:
    """True in that share of cases."""
    return bool(rng.random() < share)


def half_width(rng: Generator, district: District) -> float:
    """Half the width of a street, metres."""
    if chance(rng, district.wide):
        return float(rng.uniform(4.5, 7.0))
    return float(rng.uniform(*district.half))


def _front(rng: Generator, kind: str) -> int:
    match kind:
        case "terrace":
            return PAVED if chance(rng, 0.6) else SOIL
        case "detached":
            return PAVED if chance(rng, 0.15) else SOIL
        case "car_park":
            return BAY
        case "works":
            return GRAVEL if chance(rng, 0.4) else BAY
        case "yard":
            return int(rng.choice([GRAVEL, PAVED, BAY]))
        case _:
            return SOIL


# metres of levelled ground behind the front
_LEVEL = {"thicket": 1.0, "meadow": 1.5, "park": 2.0, "detached": 0.5, "walled": 2.0, "barrier": 1.5}


def strips(rng: Generator, district: District, half: float) -> Section:
    """Kerb, bay, green strip and pavement of one side of a street."""
    kerb = float(rng.uniform(0.11, 0.15)) if chance(rng, district.kerb) else 0.0
    walk = float(rng.uniform(1.5, 4.2)) if chance(rng, district.walk) else 0.0
    if walk and half > 4.0:
        walk += float(rng.uniform(0.0, 2.5))
    verge = float(rng.uniform(0.6, 3.5)) if chance(rng, district.verge) else 0.0
    if not walk and not verge:
        verge = float(rng.uniform(0.8, 2.0))
    bay = 0.0
    if kerb and chance(rng, district.bay):
        bay = float(rng.uniform(4.6, 5.2) if chance(rng, 0.08) else rng.uniform(1.9, 2.5))
    bay_code = int(rng.choice([BAY, PAVED, ASPHALT], p=[0.7, 0.15, 0.15]))
    verge_code = int(rng.choice([SOIL, GRAVEL, PAVED], p=[0.84, 0.08, 0.08])) if kerb else SOIL
    ditch = float(rng.uniform(0.2, 0.7)) if not kerb and not walk and chance(rng, 0.5) else 0.0
    return Section(bay, verge, walk, kerb, ditch, codes=(bay_code, verge_code, PAVED, SOIL))


def fronted(rng: Generator, base: Section, kind: str, *, bay: bool) -> Section:
    """`base` before a neighbour of `kind`: with or without its bay, and with the lie of the ground behind."""
    green = kind in ("thicket", "meadow", "park", "barrier")
    steep = float(rng.normal(0, 1.3)) if green else float(rng.normal(0.0, 0.6))
    codes = (*base.codes[:3], _front(rng, kind))
    return Section(
        base.bay if bay else 0.0,
        base.verge,
        base.walk,
        base.kerb,
        base.ditch if green else 0.0,
        float(np.clip(steep, -2.5, 3.5)),
        float(rng.uniform(2.0, 16.0) if green else rng.uniform(0.6, 12.0)),
        _LEVEL.get(kind, 30.0),
        1.0 if green or kind in ("detached", "walled") else 0.0,
        codes,
    )
