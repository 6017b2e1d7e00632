"""Draws the blocks of a town: how wide the road is, what lies beside it, where streets cross."""

from dataclasses import dataclass

from numpy.random import Generator

from pcsparse.data.synthetic.ground import Block, Side, Strip
from pcsparse.data.synthetic.materials import OTHER_GROUND, PARKING, SIDEWALK, TERRAIN, Surface
from pcsparse.data.synthetic.street import REACH

# how often each kind of side is drawn, per style of district
STYLES: dict[str, dict[str, float]] = {
    "city": {
        "terrace": 0.52,
        "detached": 0.06,
        "park": 0.17,
        "car_park": 0.08,
        "works": 0.06,
        "walled": 0.11,
    },
    "suburb": {
        "terrace": 0.1,
        "detached": 0.46,
        "park": 0.12,
        "thicket": 0.15,
        "meadow": 0.06,
        "walled": 0.11,
    },
    "edge": {"detached": 0.12, "park": 0.17, "thicket": 0.40, "meadow": 0.18, "works": 0.08, "walled": 0.05},
}


_DISTRICTS = {"city": 0.34, "suburb": 0.38, "edge": 0.28}


@dataclass(frozen=True)
class Plan:
    """A block and what its sides are.

    Args:
        block: the ground.
        kinds: names of `frontage.KINDS` for the left and the right side.
        parking: width of the parking lanes, left and right, metres; 0 for none.
        walks: (near, far) of where people walk, metres from the middle of the road, left and right.
    """

    block: Block
    kinds: tuple[str, str]
    parking: tuple[float, float]
    walks: tuple[tuple[float, float], tuple[float, float]]


def _pick(rng: Generator, shares: dict[str, float]) -> str:
    total = sum(shares.values())
    return str(rng.choice(list(shares), p=[share / total for share in shares.values()]))


def _chance(rng: Generator, share: float) -> bool:
    return bool(rng.random() < share)


def _front_surface(rng: Generator, kind: str) -> Surface:
    match kind:
        case "terrace":
            return SIDEWALK if _chance(rng, 0.4) else TERRAIN
        case "car_park":
            return PARKING
        case "works":
            return OTHER_GROUND if _chance(rng, 0.4) else PARKING
        case _:
            return TERRAIN


def _half_width(rng: Generator, style: str) -> float:
    """Half the width of a road, metres: mostly 6 to 9 m wide, now and then up to 14."""
    if _chance(rng, 0.2) and style != "suburb":
        return float(rng.uniform(4.5, 7.0))
    return float(rng.uniform(2.8, 4.4))


def _side(rng: Generator, kind: str, style: str, half: float) -> tuple[Side, float, tuple[float, float]]:
    """A cross-section; the width of its parking lane; where people walk, metres beyond the road's edge."""
    rural = style == "edge" and kind in ("thicket", "meadow", "park")
    parking = float(rng.uniform(2.0, 2.5)) if not rural and half > 3.3 and _chance(rng, 0.5) else 0.0
    kerb = 0.0 if rural and _chance(rng, 0.6) else float(rng.uniform(0.05, 0.15))
    verge = float(rng.uniform(0.6, 3.5)) if _chance(rng, 0.6 if rural else 0.25) else 0.0
    walk = 0.0 if rural and _chance(rng, 0.6) else float(rng.uniform(1.3, 4.5))
    strips, at = [], 0.0
    for width, lift, surface in (
        (parking, 0.0, PARKING),
        (verge, kerb, TERRAIN),
        (walk, kerb, SIDEWALK),
    ):
        if width:
            at += width
            strips.append(Strip(at, lift, surface))
    front_surface = _front_surface(rng, kind)
    strips.append(Strip(REACH, kerb, front_surface))
    steep = float(rng.normal(0, 1.2)) if kind in ("thicket", "meadow", "park") else float(rng.normal(0, 0.35))
    rough = at + {"thicket": 1.0, "meadow": 2.0, "park": 2.0, "detached": 0.5, "walled": 2.0}.get(kind, 30.0)
    side = Side(tuple(strips), at, rough, steep, float(rng.uniform(6.0, 18.0)))
    near = parking + verge
    return side, parking, (near, near + max(walk, 1.0))


def _shades(rng: Generator) -> tuple[float, float, float]:
    road, paved, soil = (
        float(rng.uniform(low, high)) for low, high in ((0.7, 1.35), (0.8, 1.2), (0.75, 1.2))
    )
    return road, paved, soil


def _plan(rng: Generator, start: float, end: float, half: float, style: str, marked: bool) -> Plan:
    kinds = (_pick(rng, STYLES[style]), _pick(rng, STYLES[style]))
    sides = [_side(rng, kind, style, half) for kind in kinds]
    block = Block(start, end, half, sides[0][0], sides[1][0], marked, _shades(rng))
    walks = [(half + near, half + far) for _, _, (near, far) in sides]
    return Plan(block, kinds, (sides[0][1], sides[1][1]), (walks[0], walks[1]))


def _junction(rng: Generator, start: float, half: float, style: str) -> Plan:
    arm = float(rng.uniform(2.8, 5.5))
    width = 2 * arm + float(rng.uniform(3.0, 6.0))
    arms = [(True, True), (True, False), (False, True)][int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
    kinds = tuple("side_street" if has else _pick(rng, STYLES[style]) for has in arms)
    walk = float(rng.uniform(1.5, 3.0))
    sides = [
        Side((Strip(walk, 0.12, SIDEWALK), Strip(REACH, 0.12, TERRAIN)), walk, 30.0, 0.0, 10.0)
        for _ in range(2)
    ]
    block = Block(start, start + width, half, sides[0], sides[1], False, _shades(rng), arm, arms)
    zone = (half, half + walk)
    return Plan(block, (kinds[0], kinds[1]), (0.0, 0.0), (zone, zone))


def plan_blocks(rng: Generator, first: float, last: float) -> list[Plan]:
    """Blocks and junctions that fill the street from `first` to `last` metres.

    Now and then the style of the district changes (city, suburb, edge of town), and so does the width of the
    road (6 to 14 m).
    """
    plans: list[Plan] = []
    style = _pick(rng, _DISTRICTS)
    half, marked = _half_width(rng, style), _chance(rng, 0.7)
    at = first
    while at < last - 10:
        end = min(at + float(rng.uniform(22, 75)), last)
        plans.append(_plan(rng, at, end, half, style, marked))
        at = end
        if _chance(rng, 0.25):
            style = _pick(rng, _DISTRICTS)
        if _chance(rng, 0.5) and at < last - 40:
            plans.append(_junction(rng, at, half, style))
            at = plans[-1].block.end
            if _chance(rng, 0.6):
                half = _half_width(rng, style)
                marked = half > 3.0 and _chance(rng, 0.7)
    return plans
