"""Ways through the streets: smooth lines in the right-hand lane that turn at junctions."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.network import Leg
from pcsparse.data.synthetic.street import Street

# metres: where a turn begins before the other street's carriageway, and over which a driver smooths his way
_SWING, _SMOOTH = 5.5, 5.0
_FINE = 0.25


@dataclass(frozen=True)
class Route:
    """A line to drive, with places on it in metres along (`s`) and across (`t`, positive to the left).

    Args:
        line: (n, 2) float64 world positions at s = first + 0, 1, 2 … metres.
        heading: (n,) float64 radians at the same places, unwrapped.
        first: s of the first row.
    """

    line: Floats
    heading: Floats
    first: float

    @property
    def last(self) -> float:
        """Metres along of the last row."""
        return self.first + len(self.line) - 1

    def heading_at(self, s: Floats | float) -> Floats:
        """Radians."""
        return np.interp(np.asarray(s) - self.first, np.arange(len(self.line)), self.heading)

    def world(self, s: Floats | float, t: Floats | float = 0.0) -> tuple[Floats, Floats]:
        """World x and y, metres; straight on beyond the ends."""
        rows = np.arange(len(self.line))
        u = np.asarray(s, np.float64) - self.first
        x, y, h = (np.interp(u, rows, column) for column in (self.line[:, 0], self.line[:, 1], self.heading))
        over = u - np.clip(u, 0.0, len(self.line) - 1)
        t = np.asarray(t)
        return x + over * np.cos(h) - t * np.sin(h), y + over * np.sin(h) + t * np.cos(h)

    def gap(self, x: float, y: float) -> float:
        """Metres from a place to the nearest row of the line."""
        return float(np.sqrt(((self.line[:, 0] - x) ** 2 + (self.line[:, 1] - y) ** 2).min()))


def _lane(street: Street, leg: Leg, early: float, late: float) -> Floats:
    """(n, 2) points of the right-hand lane, a metre apart, without the first and last metres of the leg."""
    way = 1.0 if leg.end >= leg.start else -1.0
    low, high = leg.start + way * early, leg.end - way * late
    s = np.linspace(low, high, max(2, int(abs(high - low))))
    if street.ring:
        s = s % street.last
    return np.stack(street.world(s, -way * street.lane_at(s)), 1)


def _bend(before: Floats, after: Floats) -> Floats:
    """(n, 2) points between two lanes: a cubic that leaves and arrives along them."""
    a, b = before[-1], after[0]
    out, into = before[-1] - before[-2], after[1] - after[0]
    pull = 0.4 * float(np.hypot(*(b - a)))
    c = a + pull * out / np.hypot(*out)
    d = b - pull * into / np.hypot(*into)
    u = np.linspace(0.0, 1.0, max(4, int(2.5 * pull)))[1:-1, None]
    return (1 - u) ** 3 * a + 3 * u * (1 - u) ** 2 * c + 3 * u * u * (1 - u) * d + u**3 * b


def make_route(streets: list[Street], legs: list[Leg], first: float = 0.0) -> Route:
    """The way along `legs`, each in its right-hand lane; s = `first` where it begins.

    Args:
        streets: of the network.
        legs: each begins where the one before it ends; at least one, 4 m or longer.
        first: metres.
    """
    cuts = np.zeros((len(legs), 2))
    for i in range(len(legs) - 1):
        a, b = streets[legs[i].street], streets[legs[i + 1].street]
        cuts[i, 1] = float(b.half_at(legs[i + 1].start)) + _SWING
        cuts[i + 1, 0] = float(a.half_at(legs[i].end % max(a.last, 1.0))) + _SWING
    pieces: list[Floats] = []
    for leg, (early, late) in zip(legs, cuts, strict=True):
        # a short leg shares what it has between its two turns
        share = min(1.0, 0.9 * abs(leg.end - leg.start) / max(early + late, 1e-9))
        lane = _lane(streets[leg.street], leg, share * early, share * late)
        if pieces:
            pieces.append(_bend(pieces[-1], lane))
        pieces.append(lane)
    return _even(np.concatenate(pieces), first)


def _even(points: Floats, first: float) -> Route:
    """The same way smoothed, with a point every metre."""
    step = np.hypot(*np.diff(points, axis=0).T)
    points = points[np.append(True, step > 1e-6)]
    along = np.append(0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T)))
    fine = np.arange(0.0, along[-1], _FINE)
    dense = np.stack([np.interp(fine, along, points[:, i]) for i in range(2)], 1)
    width = int(_SMOOTH / _FINE) | 1
    kernel = np.hanning(width + 2)[1:-1]
    kernel /= kernel.sum()
    pad = width // 2
    before = 2 * dense[0] - dense[pad:0:-1]
    behind = 2 * dense[-1] - dense[-2 : -pad - 2 : -1]
    long = np.concatenate([before, dense, behind])
    dense = np.stack([np.convolve(long[:, i], kernel, mode="valid") for i in range(2)], 1)
    along = np.append(0.0, np.cumsum(np.hypot(*np.diff(dense, axis=0).T)))
    even = np.arange(0.0, along[-1])
    line = np.stack([np.interp(even, along, dense[:, i]) for i in range(2)], 1)
    heading = np.unwrap(np.arctan2(np.gradient(line[:, 1]), np.gradient(line[:, 0])))
    return Route(line, heading, first)


def backwards(streets: list[Street], legs: list[Leg]) -> list[Leg]:
    """The way of the oncoming traffic; roundabouts are driven anticlockwise by everyone."""
    out = []
    for leg in reversed(legs):
        street = streets[leg.street]
        if street.ring:
            out.append(Leg(leg.street, leg.end, leg.start + street.last))
        else:
            out.append(Leg(leg.street, leg.end, leg.start))
    return out
