"""The graph of a town's streets, grown along the way the ego vehicle takes through it."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.blocks import lay_street, roundabout
from pcsparse.data.synthetic.districts import DISTRICTS, JUNCTIONS, District, chance
from pcsparse.data.synthetic.drafts import Draft, best_path, lead_on
from pcsparse.data.synthetic.street import Node, Street

LEAD = 100
"""Metres of street behind the place where a drive begins."""

# metres that side streets reach
_ARM = (85.0, 150.0)
# radians: the ego's way never turns back over itself, nor on the spot
_FURTHEST, _SHARPEST = 1.8, 1.8
# share of side streets that lead on to the street they would else run into, and from how near, metres
_JOINED, _LEAP = 0.8, 34.0


@dataclass(frozen=True)
class Leg:
    """A part of a way: along `street` from `start` to `end`, metres; a ring's end may lie beyond its last."""

    street: int
    start: float
    end: float


@dataclass(frozen=True)
class Network:
    """Streets, and the way through them.

    Args:
        streets: all of them.
        legs: the ego's way, in order; it begins `LEAD` metres before s = 0.
        met: kinds of junctions (`districts.JUNCTIONS`) the way passes, in order.
        district: name of `DISTRICTS`.
    """

    streets: list[Street]
    legs: list[Leg]
    met: list[str]
    district: str


class _Grower:
    def __init__(self, rng: Generator, district: District) -> None:
        self.rng, self.district = rng, district
        self.drafts: list[Draft] = []
        self.rings: list[tuple[int, Floats, float, float, list[Node]]] = []
        self.legs: list[tuple[int, float, float]] = []
        self.met: list[str] = []

    def _best(self, start: Floats, heading: float, lean: float, n: int) -> tuple[Floats, float, int]:
        others = [draft.points() for draft in self.drafts] + [ring[1] for ring in self.rings]
        return best_path(self.rng, self.district, start, (heading, lean), n, np.concatenate(others))

    def _new(self, start: Floats, heading: float) -> int:
        self.drafts.append(Draft(self.rng, self.district, start, heading))
        return len(self.drafts) - 1

    def _extend(self, index: int, metres: float) -> None:
        draft = self.drafts[index]
        path, draft.heading, _ = self._best(draft.forward[-1], draft.heading, draft.lean, int(metres))
        draft.forward = np.concatenate([draft.forward, path])

    def _arm(self, index: int, *, backwards: bool = False) -> bool:
        """Let a street grow until it is out of sight or meets another; whether anything came of it."""
        draft = self.drafts[index]
        start = draft.forward[0] if backwards else draft.forward[-1]
        heading = draft.start_heading + np.pi if backwards else draft.heading
        path, last, free = self._best(start, heading, heading, int(self.rng.uniform(*_ARM)))
        if free < 18:
            return False
        if free < len(path):
            path = path[: max(free - 8, 10)]
            if chance(self.rng, _JOINED):
                path = self._joined(index, path, -1.0 if backwards else 1.0)
        if backwards:
            draft.back = path[::-1]
        else:
            draft.forward, draft.heading = np.concatenate([draft.forward, path]), last
        return True

    def _joined(self, index: int, path: Floats, way: float) -> Floats:
        """`path` of street `index`, which it leaves in the direction `way`, led on to the street ahead."""
        draft, end = self.drafts[index], path[-1]
        near, row, least = -1, 0, _LEAP
        for number, other in enumerate(self.drafts):
            gap = np.hypot(*(other.points() - end).T)
            if number != index and gap.min() < least:
                near, row, least = number, int(gap.argmin()), float(gap.min())
        if near < 0 or least < 9.0:
            return path
        other = self.drafts[near]
        points = other.points()
        along = points[min(row + 1, len(points) - 1)] - points[max(row - 1, 0)]
        side = np.array([-along[1], along[0]]) / np.hypot(*along)
        side *= np.sign(float((side * (end - points[row])).sum()))
        led = lead_on(end, end - path[-2], points[row], side)
        s = way * (len(path) + len(led)) + (draft.end if way > 0 else 0.0)
        s_other = row - other.shift()
        if any(abs(node.s - s_other) < 25 for node in other.nodes):
            return path
        draft.caps[1 if way > 0 else 0] = s - way * 0.5 * other.half
        draft.nodes.append(Node(s, other.half, False))
        other.nodes.append(Node(s_other, draft.half, False))
        return np.concatenate([path, led])

    def _meet(self, here: int, s: float, there: int, zebra: bool) -> None:
        """Note that street `there` begins at `s` on street `here`."""
        self.drafts[here].nodes.append(Node(s, self.drafts[there].half, zebra))
        self.drafts[there].nodes.append(Node(0.0, self.drafts[here].half, zebra))

    def _twigs(self, index: int) -> None:
        """Now and then a street that branches off a side street."""
        draft = self.drafts[index]
        if draft.end < 60 or not chance(self.rng, 0.4):
            return
        s = int(self.rng.uniform(32, draft.end - 20))
        side = float(self.rng.choice([-1, 1]))
        step = draft.forward[s + 1] - draft.forward[s]
        twig = self._new(draft.forward[s], float(np.arctan2(step[1], step[0])) + side * self._angle())
        if self._arm(twig):
            self.drafts[twig].caps[0] = 0.5 * draft.half
            self._meet(index, float(s), twig, False)
        else:
            self.drafts.pop()

    def _angle(self) -> float:
        """Radians between two streets that meet: mostly about 90 degrees, down to 45."""
        return float(np.clip(self.rng.normal(np.pi / 2, 0.3), 0.8, 2.34))

    def _side(self, heading: float) -> tuple[float, float]:
        """A side (+1 left) to turn to so that the way never turns back, and the heading then."""
        side = float(self.rng.choice([-1, 1]))
        angle = min(self._angle(), _SHARPEST)
        if abs(heading + side * angle) > _FURTHEST:
            side = -side
        return side, heading + side * angle

    def grow(self, length: float) -> None:
        """Grow the way of `length` metres and what lies beside it."""
        here, entered = self._new(np.zeros(2), 0.0), 0.0
        self._extend(here, 28)
        travelled = 28.0 - LEAD
        while True:
            metres = float(self.rng.uniform(*self.district.stretch))
            self._extend(here, metres)
            travelled += metres
            if travelled > length + 20:
                break
            weights = np.array(self.district.junctions)
            kind = JUNCTIONS[int(self.rng.choice(len(weights), p=weights / weights.sum()))]
            if kind == "none":
                continue
            self.met.append(kind)
            here, entered = self._junction(here, entered, kind)
        self._extend(here, 130)
        self.legs.append((here, entered, self.drafts[here].end))

    def _junction(self, here: int, entered: float, kind: str) -> tuple[int, float]:
        """Build a junction at the end of street `here`; the street that goes on, and where it was entered."""
        draft, zebra = self.drafts[here], chance(self.rng, self.district.zebra)
        s, place = draft.end, draft.forward[-1]
        if kind == "ring":
            return self._ring(here, entered)
        turns = kind.endswith(("turn", "end"))
        if turns:
            _, heading = self._side(draft.heading)
        else:
            heading = draft.heading + float(self.rng.choice([-1, 1])) * self._angle()
        there = self._new(place, heading)
        other = self.drafts[there]
        if not turns:
            grown = self._arm(there)
            back = kind == "cross" and self._arm(there, backwards=True)
            if not grown and not back:
                self.drafts.pop()
                return here, entered
            if not back:
                other.caps[0] = 0.5 * draft.half
            elif not grown:
                other.caps[1] = -0.5 * draft.half
            self._meet(here, s, there, zebra)
            self._twigs(there)
            return here, entered
        # grow the new street first, so that what is left of the old one keeps clear of it
        self._extend(there, 24.0)
        ends = kind == "tee_end" or not self._arm(here)
        through = (ends or kind == "cross_turn") and self._arm(there, backwards=True)
        if ends and not through:
            # a corner: both carriageways reach to its outer side
            draft.caps[1], other.caps[0] = s + 0.6 * other.half, -0.6 * draft.half
        elif ends:
            draft.caps[1] = s - 0.5 * other.half
        elif not through:
            other.caps[0] = 0.5 * draft.half
        self._meet(here, s, there, zebra)
        self.legs.append((here, entered, s))
        return there, 0.0

    def _ring(self, here: int, entered: float) -> tuple[int, float]:
        draft = self.drafts[here]
        around = int(self.rng.uniform(58, 105))
        radius, half = around / (2 * np.pi), float(self.rng.uniform(2.8, 4.2))
        ahead = np.array([np.cos(draft.heading), np.sin(draft.heading)])
        middle = draft.forward[-1] + radius * ahead
        angle = draft.heading + np.pi + np.arange(around + 1) / radius
        line = middle + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        line[-1] = line[0]
        arcs = np.array([0.5, 1.0, 1.5]) * np.pi + self.rng.uniform(-0.2, 0.2, 3)
        # towards which of them the way never turns back
        ways = [i for i, arc in enumerate(arcs) if abs(draft.heading + np.pi + arc - 2 * np.pi) <= _FURTHEST]
        exit_ = int(self.rng.choice(ways)) if ways else 1
        number = -len(self.rings) - 1
        draft.caps[1] = draft.end - 0.5 * half
        nodes = [Node(0.0, draft.half, False)]
        draft.nodes.append(Node(draft.end, half, chance(self.rng, self.district.zebra)))
        self.rings.append((number, line, half, radius, nodes))
        self.legs.append((here, entered, draft.end))
        self.legs.append((number, 0.0, float(arcs[exit_] * radius)))
        there = here
        for i in sorted(range(3), key=lambda i: i != exit_):
            if i != exit_ and not chance(self.rng, 0.75):
                continue
            heading = draft.heading + np.pi + arcs[i]
            start = middle + radius * np.array([np.cos(heading), np.sin(heading)])
            arm = self._new(start, float(heading - 2 * np.pi))
            if i == exit_:
                there = arm
                self._extend(arm, 30.0)
            elif not self._arm(arm):
                self.drafts.pop()
                continue
            self.drafts[arm].caps[0] = 0.5 * half
            self.drafts[arm].nodes.append(Node(0.0, half, False))
            nodes.append(Node(float(arcs[i] * radius), self.drafts[arm].half, False))
        return there, 0.0


def make_network(rng: Generator, length: float, name: str) -> Network:
    """Streets around a way of `length` metres.

    Args:
        rng: the town's random numbers.
        length: metres that the ego vehicle drives.
        name: of `DISTRICTS`.
    """
    district = DISTRICTS[name]
    grower = _Grower(rng, district)
    grower.grow(length)
    streets = []
    for draft in grower.drafts:
        shift = draft.shift()
        caps = tuple(None if cap is None else cap + shift for cap in draft.caps)
        nodes = tuple(Node(node.s + shift, node.half, node.zebra) for node in draft.nodes)
        streets.append(lay_street(rng, district, draft.points(), draft.half, nodes, (caps[0], caps[1])))
    for _, line, half, _, nodes_ in grower.rings:
        streets.append(roundabout(rng, district, line, half, tuple(nodes_)))
    drafts = len(grower.drafts)
    legs = []
    for number, start, end in grower.legs:
        if number < 0:
            legs.append(Leg(drafts - 1 - number, start, end))
        else:
            shift = grower.drafts[number].shift()
            legs.append(Leg(number, start + shift, end + shift))
    return Network(streets, legs, grower.met, name)
