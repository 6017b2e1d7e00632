"""Cars and vans: a skin over a side profile, with arches, panes, and seats behind the panes.

Local frame: x forward, z = 0 ground.
"""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Bools, Floats
from pcsparse.data.synthetic.coachwork import PLASTIC, SEAT, lamps, mirrors, paint, panes, plates, wheels
from pcsparse.data.synthetic.materials import Surface
from pcsparse.data.synthetic.mesh import Mesh, box, boxes, join, quads

Span = tuple[float, float]


@dataclass(frozen=True)
class Body:
    """A car as fractions of its length from the nose (0) to the tail (1), and of its height.

    Args:
        length: shortest and longest, metres.
        width: without mirrors, metres.
        height: metres.
        line: the upper outline, (x, z) from nose to tail.
        belt: (x, z) of the lower edge of the side windows.
        screen: where along x the windscreen lies.
        rear: where the rear window lies.
        sides: where the side windows lie; between them stand the pillars.
        axles: front and rear axle.
        share: how many of all cars look like this.
    """

    length: Span
    width: Span
    height: Span
    line: tuple[Span, ...]
    belt: tuple[Span, ...]
    screen: Span
    rear: Span
    sides: tuple[Span, ...]
    axles: Span
    share: float


# published sizes of the classes A to J of the European market; vans as light commercial vehicles
BODIES: dict[str, Body] = {
    "small": Body(
        (3.4, 3.8), (1.60, 1.68), (1.44, 1.55),
        ((0, .38), (.02, .50), (.20, .66), (.40, .96), (.60, 1.0), (.86, .97), (.97, .66), (1, .40)),
        ((.2, .62), (.9, .68)), (.21, .39), (.88, .97), ((.33, .58), (.62, .86)), (.19, .83), 0.15),
    "hatchback": Body(
        (3.8, 4.4), (1.68, 1.82), (1.42, 1.52),
        ((0, .38), (.02, .50), (.25, .65), (.44, .97), (.60, 1.0), (.84, .95), (.97, .68), (1, .42)),
        ((.25, .62), (.9, .68)), (.26, .43), (.86, .97), ((.36, .58), (.61, .80)), (.20, .80), 0.24),
    "saloon": Body(
        (4.4, 5.0), (1.75, 1.90), (1.40, 1.50),
        ((0, .38), (.02, .50), (.27, .66), (.44, .97), (.58, 1.0), (.72, .95), (.85, .74), (.98, .70),
         (1, .42)),
        ((.27, .63), (.85, .70)), (.28, .43), (.73, .85), ((.37, .55), (.58, .74)), (.19, .78), 0.15),
    "estate": Body(
        (4.4, 4.95), (1.74, 1.88), (1.42, 1.55),
        ((0, .38), (.02, .50), (.26, .64), (.42, .96), (.58, 1.0), (.88, .97), (.97, .68), (1, .42)),
        ((.26, .61), (.95, .68)), (.27, .41), (.90, .97), ((.35, .54), (.57, .73), (.76, .88)),
        (.19, .78), 0.16),
    "suv": Body(
        (4.2, 4.9), (1.80, 1.98), (1.60, 1.85),
        ((0, .42), (.02, .56), (.25, .66), (.40, .97), (.60, 1.0), (.89, .96), (.97, .68), (1, .42)),
        ((.25, .63), (.95, .68)), (.26, .39), (.91, .97), ((.33, .53), (.56, .73), (.76, .88)),
        (.19, .79), 0.11),
    "coupe": Body(
        (4.0, 4.6), (1.72, 1.88), (1.24, 1.36),
        ((0, .40), (.02, .52), (.33, .66), (.48, .96), (.58, 1.0), (.78, .86), (.95, .70), (1, .45)),
        ((.33, .64), (.85, .70)), (.34, .47), (.68, .84), ((.43, .66),), (.19, .79), 0.03),
    "open": Body(
        (3.9, 4.5), (1.70, 1.82), (1.22, 1.32),
        ((0, .42), (.02, .54), (.32, .70), (.44, 1.0), (.47, .72), (.60, .68), (.95, .70), (1, .45)),
        ((.32, .70), (.60, .70)), (.33, .44), (2, 3), (), (.19, .79), 0.02),
    "mpv": Body(
        (4.4, 5.1), (1.80, 1.95), (1.62, 1.95),
        ((0, .40), (.02, .50), (.16, .60), (.36, .95), (.55, 1.0), (.92, .98), (.985, .66), (1, .38)),
        ((.16, .58), (.95, .62)), (.17, .35), (.93, .985), ((.28, .46), (.49, .66), (.69, .90)),
        (.18, .80), 0.06),
    "pickup": Body(
        (4.9, 5.4), (1.80, 1.95), (1.72, 1.88),
        ((0, .44), (.02, .56), (.24, .64), (.36, .96), (.46, 1.0), (.60, .97), (.63, .62), (.99, .62),
         (1, .40)),
        ((.24, .62), (.62, .64)), (.25, .35), (.60, .63), ((.31, .45), (.48, .58)), (.18, .79), 0.02),
    "van": Body(
        (4.7, 6.2), (1.86, 2.05), (1.90, 2.70),
        ((0, .26), (.02, .36), (.13, .48), (.26, .92), (.36, 1.0), (.985, 1.0), (.995, .62), (1, .26)),
        ((.13, .48), (.95, .60)), (.14, .25), (2, 3), ((.20, .33),), (.16, .80), 0.06),
}  # fmt: skip


def car(rng: Generator) -> tuple[Mesh, tuple[float, float]]:
    """A car or a van of random shape and paint, raw class 10, and its (length, width) in metres."""
    names = list(BODIES)
    return car_of(rng, BODIES[names[int(rng.choice(len(names), p=[b.share for b in BODIES.values()]))]])


def car_of(rng: Generator, body: Body) -> tuple[Mesh, tuple[float, float]]:
    """A car of one shape, and its (length, width) in metres."""
    length, width, height = (float(rng.uniform(*span)) for span in (body.length, body.width, body.height))
    radius = float(rng.uniform(0.29, 0.33)) + 0.04 * (height > 1.55)
    axles = [length * (0.5 - at) for at in body.axles]
    coat = paint(rng)
    clear = float(rng.uniform(0.16, 0.24))
    lamp = float(rng.uniform(0.40, 0.46)) * height if height < 1.7 else 0.42 * height
    parts = [
        _skin(rng, body, (length, width, height), (axles, radius, clear), coat),
        _inside(body, length, width, height, clear),
        wheels(axles, width / 2 - 0.03, radius),
        lamps(rng, length, width, lamp),
        mirrors(length * (0.5 - body.screen[1] + 0.04), width, body.belt[0][1] * height + 0.1, 0.2, coat),
        plates(length, (0.42, 0.55 if height > 1.7 else 0.78)),
    ]
    if body in (BODIES["estate"], BODIES["suv"], BODIES["mpv"], BODIES["van"]) and rng.random() < 0.4:
        parts.append(_rails(length, width, height))
    return join(parts), (length, width)


def _stations(body: Body, length: float, axles: list[float], reach: float) -> Floats:
    """Descending x of the cross-sections: the corners of the outline, of the panes and of the arches."""
    marks = [at for at, _ in body.line]
    marks += [at for span in (body.screen, body.rear, *body.sides) for at in span if at < 1]
    cuts = [length * (0.5 - at) for at in marks]
    cuts += [axle + reach * turn for axle in axles for turn in (-1.0, -0.7, 0.0, 0.7, 1.0)]
    x = np.unique(np.round(cuts, 3))[::-1]
    return x[np.abs(x) <= length / 2]


def _within(x: Floats, length: float, spans: tuple[Span, ...]) -> Bools:
    """Which faces between the stations `x` lie in one of `spans`, fractions of the length."""
    at = 0.5 - 0.5 * (x[1:] + x[:-1]) / length
    inside = np.zeros(len(at), bool)
    for low, high in spans:
        inside |= (at > low) & (at < high)
    return inside


def _skin(
    rng: Generator,
    body: Body,
    size: tuple[float, float, float],
    chassis: tuple[list[float], float, float],
    coat: Surface,
) -> Mesh:
    """Painted faces and panes. `chassis`: x of the axles, radius of the wheels, clearance; metres."""
    (length, width, height), (axles, radius, clear) = size, chassis
    reach = 1.14 * radius
    x = _stations(body, length, axles, reach)
    at = 0.5 - x / length
    top = height * np.interp(at, *np.array(body.line).T)
    belt = np.minimum(height * np.interp(at, *np.array(body.belt).T), top)
    # seen from above a car is narrower at its ends, with round corners
    half = (
        0.5
        * width
        * np.interp(at, [0, 0.03, 0.12, 0.5, 0.9, 0.98, 1], [0.72, 0.88, 0.97, 1, 0.98, 0.92, 0.82])
    )
    low = np.full_like(x, clear)
    for axle in axles:
        gap = reach**2 - (x - axle) ** 2
        low = np.where(gap > 0, np.maximum(low, radius + np.sqrt(np.maximum(gap, 0))), low)
    low = np.minimum(low, belt - 0.05)
    # the cabin leans in by up to a seventh of the half width
    lean = np.clip(0.42 * (top - belt) / height, 0.0, 0.17)
    waist = 0.5 * (np.maximum(low, clear + 0.08) + belt)
    rim = np.stack(
        [
            np.stack([x, 0.95 * half, low], 1),
            np.stack([x, half, waist], 1),
            np.stack([x, 0.97 * half, belt], 1),
            np.stack([x, half * (0.97 - lean), np.maximum(top - 0.06, belt)], 1),
            np.stack([x, half * (0.85 - lean), np.maximum(top - 0.015, belt)], 1),
            np.stack([x, 0.4 * half, top + 0.012], 1),
        ],
        axis=1,
    )
    section = np.concatenate([rim, rim[:, ::-1] * np.array([1.0, -1.0, 1.0])], axis=1)  # (station, 12, 3)
    faces = np.stack([section[:-1, :-1], section[1:, :-1], section[1:, 1:], section[:-1, 1:]], axis=2)
    glass = np.zeros(faces.shape[:2], bool)
    glass[:, [2, 8]] |= _within(x, length, body.sides)[:, None]
    glass[:, 4:7] |= _within(x, length, (body.screen, body.rear))[:, None]
    lower = np.zeros(faces.shape[:2], bool)
    if rng.random() < 0.35:
        # unpainted bumpers and sills
        lower[:, [0, 10]] = True
    # bonnet and roof mirror flat pulses away; what comes back is darker than from the doors
    level = np.zeros(faces.shape[:2], bool)
    level[:, 3:8] = True
    ends = np.concatenate([_cap(section[0]), _cap(section[-1])])
    return join(
        [
            quads(faces[~glass & ~lower & ~level], coat),
            quads(faces[~glass & level], coat.tinted(0.6)),
            quads(faces[lower], PLASTIC),
            panes(rng, faces[glass]),
            quads(ends, coat),
        ]
    )


def _cap(rim: Floats) -> Floats:
    """Quadrilaterals (5, 4, 3) across an open section (12, 3)."""
    mirror = rim[::-1]
    return np.stack([rim[:5], rim[1:6], mirror[1:6], mirror[:5]], axis=1)


def _inside(body: Body, length: float, width: float, height: float, clear: float) -> Mesh:
    """Under-body, dashboard, seats: what pulses meet that come in by a window."""
    dash, rows = 0.5 - body.screen[1] + 0.02, [0.5 - body.screen[1] - 0.18]
    if body.sides and body.sides[-1][1] - body.screen[1] > 0.3 and height < 1.95:
        rows.append(rows[0] - 0.20)
    deck = 0.40 * height
    parts = [
        # keeps rays from passing under the cabin, between the wheels
        box((0, 0, 0.5 * (clear + deck)), (0.94 * length, 0.62 * width, deck - clear), PLASTIC),
        box((dash * length, 0, deck + 0.1 * height), (0.35, 0.8 * width, 0.2 * height), PLASTIC),
    ]
    places = np.array([[x * length, side * 0.22 * width, deck] for x in rows for side in (-1, 1)])
    sizes = np.tile([0.14, 0.5, 0.45 * height], (len(places), 1))
    parts.append(boxes(places + np.array([0, 0, 0.18 * height]), sizes, SEAT))
    parts.append(boxes(places + np.array([0, 0, 0.46 * height]), sizes * [0.7, 0.45, 0.25], SEAT))
    return join(parts)


def _rails(length: float, width: float, height: float) -> Mesh:
    middles = np.array([[-0.1 * length, side * 0.33 * width, height + 0.05] for side in (-1, 1)])
    return boxes(middles, np.array([[0.4 * length, 0.04, 0.05]] * 2), PLASTIC)
