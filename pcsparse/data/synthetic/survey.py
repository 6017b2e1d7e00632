"""Where points lie among streets: distances to carriageway, kerb and front.

The distance to the carriageway is a minimum over streets, rounded where two of them are near: for distances
a and b below r it is r - hypot(r - a, r - b), which turns the corner between two kerbs at right angles into
an arc of radius r.
"""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.street import Street
from pcsparse.data.synthetic.survey_kernel import CHUNK, measure

_COLUMNS = 19
# columns of the answer
EDGE, KERB, VERGE, FRONT, ISLE, STREET, ALONG, ACROSS, OTHER, ISLE_LIFT = range(10)
SECTION = 10


@dataclass(frozen=True)
class Lines:
    """All centre lines as flat arrays, for the kernel below.

    Args:
        line: (m, 2) world metres.
        half, median: (m,) metres.
        table: (m, 2, 9), columns of `section.COLUMNS`.
        rows: (streets + 1,) first row of each street.
        caps: (streets, 2) ends of the carriageways, metres along.
        corner: (streets,) kerb radius, metres.
        lift: (streets,) height of traffic islands, metres.
        circles: (c, 3) middle and radius of each chunk of rows.
        chunks: (streets + 1,) first chunk of each street.
    """

    line: Floats
    half: Floats
    median: Floats
    table: Floats
    rows: Ints
    caps: Floats
    corner: Floats
    lift: Floats
    circles: Floats
    chunks: Ints

    @staticmethod
    def of(streets: list[Street]) -> "Lines":
        """Gather `streets`."""
        circles, chunks = [], [0]
        for street in streets:
            for at in range(0, len(street.line), CHUNK):
                part = street.line[at : at + CHUNK]
                middle = 0.5 * (part[0] + part[-1])
                radius = float(np.sqrt(((part - middle) ** 2).sum(1)).max())
                circles.append([middle[0], middle[1], radius])
            chunks.append(len(circles))
        return Lines(
            np.concatenate([street.line for street in streets]),
            np.concatenate([street.half for street in streets]),
            np.concatenate([street.median for street in streets]),
            np.concatenate([street.table for street in streets]),
            np.cumsum([0, *(len(street.line) for street in streets)]),
            np.array([street.caps for street in streets], np.float64),
            np.array([street.corner for street in streets], np.float64),
            np.array([street.island_lift for street in streets], np.float64),
            np.array(circles, np.float64),
            np.array(chunks),
        )


def survey(lines: Lines, x: Floats, y: Floats) -> Floats:
    """Where points lie.

    Args:
        lines: the streets.
        x: (n,) world metres.
        y: (n,) world metres.

    Returns:
        (n, 19) float64. `EDGE`, `KERB`, `VERGE`, `FRONT`: metres beyond the edge of the carriageway, the
        kerb, the end of the green strip and of the pavement, negative before them; `ISLE`: metres inside a
        traffic island, negative outside; `STREET`: the nearest street, `ALONG`, `ACROSS`: metres along and
        across it; `OTHER`: distance to the carriageway of any other street; `ISLE_LIFT`: height of its
        islands; from `SECTION` on the columns of `section.COLUMNS`, mixed of the streets nearby.
    """
    out = np.empty((len(x), _COLUMNS))
    measure(
        np.ascontiguousarray(x, np.float64), np.ascontiguousarray(y, np.float64), lines.line, lines.half,
        lines.median, lines.table, lines.rows, lines.caps, lines.corner, lines.lift, lines.circles,
        lines.chunks, out,
    )  # fmt: skip
    return out
