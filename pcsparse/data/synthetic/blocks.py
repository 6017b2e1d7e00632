"""Lays a street along a centre line: its blocks, and its cross-section metre by metre."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.districts import District, chance, fronted, pick, strips
from pcsparse.data.synthetic.section import BAY, COLUMNS, GRAVEL, PAVED, SOIL, Block, Section
from pcsparse.data.synthetic.street import Node, Street

# metres of street over which widths come and go, and banks
_SHORT, _LONG = 5, 15
# metres: blocks end here before another street's carriageway; parking bays end earlier
_MOUTH, _BAY_MOUTH = 1.0, 7.0
_BAY = COLUMNS.index("bay")
_BANKS = [COLUMNS.index(name) for name in ("ditch", "rise", "run", "rough", "wild")]
_KERB = COLUMNS.index("kerb")


@dataclass(frozen=True)
class _Profile:
    """Half the width of the carriageway and of islands on it, a metre apart (n,)."""

    half: Floats
    median: Floats
    island: int
    lift: float


def _smooth(columns: Floats, metres: int) -> Floats:
    """A running mean along the first axis; the ends count as lasting."""
    pad = metres // 2
    width = [(pad, pad)] + [(0, 0)] * (columns.ndim - 1)
    total = np.cumsum(np.pad(columns, width, mode="edge"), axis=0)
    total = np.concatenate([np.zeros_like(total[:1]), total])
    return (total[metres:] - total[:-metres]) / metres


def lay_street(
    rng: Generator,
    district: District,
    line: Floats,
    half: float,
    nodes: tuple[Node, ...],
    caps: tuple[float | None, float | None],
) -> Street:
    """A street of a district along `line`.

    Args:
        rng: the town's random numbers.
        district: what it is like.
        line: (n, 2) world positions a metre apart.
        half: half its width, metres.
        nodes: where other streets meet it.
        caps: metres along where its carriageway begins and ends; None: it ends in the open.
    """
    n = len(line)
    blocks = _blocks(rng, district, float(n - 1), half, nodes)
    table, codes, shades = _tables(n, blocks, nodes)
    profile = _profile(rng, district, n, half, nodes, caps)
    heading = np.unwrap(np.arctan2(np.gradient(line[:, 1]), np.gradient(line[:, 0])))
    return Street(
        line, heading, profile.half, profile.median, profile.island, profile.lift, table, codes, shades,
        (caps[0] if caps[0] is not None else 0.0, caps[1] if caps[1] is not None else float(n - 1)),
        float(rng.uniform(*district.corner)), blocks, nodes, ring=False,
        dash=half > 2.6 and chance(rng, district.marked),
    )  # fmt: skip


def _tables(n: int, blocks: tuple[Block, ...], nodes: tuple[Node, ...]) -> tuple[Floats, Ints, Floats]:
    """`Street.table`, `codes` and `shades` of `n` metres of street."""
    shades = np.ones((n, 3))
    table, codes = np.zeros((n, 2, len(COLUMNS))), np.zeros((n, 2, 4), np.uint8)
    for block in blocks:
        rows = slice(int(block.start), int(block.end) + 1)
        shades[rows] = block.shades
        for row, side in enumerate((block.left, block.right)):
            table[rows, row], codes[rows, row] = side.row(), side.codes
    s = np.arange(n, dtype=np.float64)
    for node in nodes:
        room = np.abs(s - node.s) - node.half
        table[:, :, _BAY] *= np.clip((room - _BAY_MOUTH) / 1.5, 0.0, 1.0)[:, None]
        if node.zebra:
            # kerbs are lowered where people cross
            near = (room > 0.5) & (room < 6.5)
            table[near, :, _KERB] = np.minimum(table[near, :, _KERB], 0.03)
    rest = [c for c in range(len(COLUMNS)) if c not in _BANKS]
    table[:, :, rest] = _smooth(table[:, :, rest], _SHORT)
    table[:, :, _BANKS] = _smooth(table[:, :, _BANKS], _LONG)
    return table, codes, shades


def _shades(rng: Generator) -> tuple[float, float, float]:
    road, paved, soil = (
        float(rng.uniform(low, high)) for low, high in ((0.8, 1.15), (0.85, 1.15), (0.8, 1.15))
    )
    return road, paved, soil


def _blocks(
    rng: Generator, district: District, last: float, half: float, nodes: tuple[Node, ...]
) -> tuple[Block, ...]:
    """Blocks that fill the street; those at a node are its mouth, where nothing stands."""
    mouths = sorted((node.s - node.half - _MOUTH, node.s + node.half + _MOUTH) for node in nodes)
    sides = [strips(rng, district, half) for _ in range(2)]
    if chance(rng, 0.6):
        # most streets are alike on both sides
        sides[1] = Section(**{**sides[0].__dict__, "bay": sides[1].bay})
    road, paved, soil = _shades(rng)
    blocks: list[Block] = []
    at = 0.0
    while at < last:
        ahead = next((mouth for mouth in mouths if mouth[1] > at + 0.5), (last, last))
        if ahead[0] <= at + 0.5 and ahead[1] > at:
            end, built = min(ahead[1], last), False
        else:
            end, built = min(at + float(rng.uniform(22, 70)), max(ahead[0], at + 0.6), last), True
            if ahead[0] - end < 8.0:
                end = min(max(ahead[0], at + 0.6), last)
        if last - end < 1.0:
            end = last
        if chance(rng, 0.12):
            sides = [strips(rng, district, half) for _ in range(2)]
        kinds = pick(rng, district.frontage), pick(rng, district.frontage)
        bays = [built and end - at > 14 and chance(rng, 0.75) for _ in range(2)]
        left, right = (
            fronted(rng, side, kind, bay=bay) for side, kind, bay in zip(sides, kinds, bays, strict=True)
        )
        shade = (road, paved * float(rng.uniform(0.95, 1.05)), soil * float(rng.uniform(0.95, 1.05)))
        blocks.append(Block(at, end, half, left, right, kinds, shade, built))
        at = end
    return tuple(blocks)


def _profile(
    rng: Generator,
    district: District,
    n: int,
    half: float,
    nodes: tuple[Node, ...],
    caps: tuple[float | None, float | None],
) -> _Profile:
    s = np.arange(n, dtype=np.float64)
    width, median = np.full(n, half), np.full(n, -1.0)
    code, lift = int(rng.choice([GRAVEL, PAVED, SOIL], p=[0.6, 0.1, 0.3])), float(rng.uniform(0.1, 0.15))
    if half > 5.0 and chance(rng, district.strip):
        code = int(rng.choice([GRAVEL, SOIL], p=[0.45, 0.55]))
        thick = float(rng.uniform(0.6, 2.2))
        if chance(rng, 0.3):
            # a bed for tram rails, nearly level with the road
            thick, lift = float(rng.uniform(2.6, 3.3)), float(rng.uniform(0.0, 0.05))
        room = np.min([np.abs(s - node.s) - node.half for node in nodes] + [np.full(n, 99.0)], axis=0)
        gone = np.clip((room - 7.0) / 3.0, -1.0, 1.0)
        median = np.maximum(-1.0, thick * gone)
        width = width + _smooth(np.maximum(median, 0.0), 31)
    else:
        for node in nodes:
            if chance(rng, district.isle) and half > 2.8:
                width, median = _isle(rng, s, node, width, median)
    for end, cap in ((0.0, caps[0]), (float(n - 1), caps[1])):
        if cap is None and chance(rng, 0.5):
            # where a street ends one turns round
            bulb = float(rng.uniform(1.5, 4.0)) * np.clip(1.0 - np.abs(s - end) / 9.0, 0.0, 1.0) ** 0.5
            width = width + bulb
    return _Profile(_smooth(width, 5), _smooth(median, 3), code, lift)


def _isle(rng: Generator, s: Floats, node: Node, width: Floats, median: Floats) -> tuple[Floats, Floats]:
    """A traffic island before or behind a node, and the road widened around it."""
    side = float(rng.choice([-1, 1]))
    length, thick = float(rng.uniform(4.0, 14.0)), float(rng.uniform(0.7, 1.4))
    middle = node.s + side * (node.half + float(rng.uniform(6.0, 9.0)) + length / 2)
    inside = length / 2 - np.abs(s - middle)
    median = np.maximum(median, np.clip(inside, -1.0, thick))
    grown = np.clip(1.0 - np.maximum(-inside, 0.0) / 25.0, 0.0, 1.0)
    return width + (thick + 0.4) * grown * grown * (3 - 2 * grown), median


def roundabout(
    rng: Generator, district: District, line: Floats, half: float, nodes: tuple[Node, ...]
) -> Street:
    """A ring driven anticlockwise along the closed `line`, with a paved rim and a mound inside."""
    n = len(line)
    inner = Section(
        0.0, float(rng.uniform(0.6, 2.2)), 0.0, float(rng.uniform(0.08, 0.14)), 0.0,
        float(rng.uniform(0.0, 1.2)), float(rng.uniform(2.0, 6.0)), 0.4, 0.3, (BAY, GRAVEL, PAVED, SOIL),
    )  # fmt: skip
    outer = fronted(rng, strips(rng, district, half), "park", bay=False)
    outer = Section(**{**outer.__dict__, "rise": 0.0, "ditch": 0.0})
    last = float(n - 1)
    block = Block(0.0, last, half, inner, outer, ("mound", "rim"), _shades(rng))
    table = np.broadcast_to(np.array([inner.row(), outer.row()]), (n, 2, len(COLUMNS))).copy()
    codes: Ints = np.broadcast_to(np.array([inner.codes, outer.codes], np.uint8), (n, 2, 4)).copy()
    start = float(np.arctan2(*(line[1] - line[0])[::-1]))
    heading = start + np.arange(n) * (2 * np.pi / (n - 1))
    return Street(
        line, heading, np.full(n, half), np.full(n, -1.0), GRAVEL, 0.12, table, codes,
        np.broadcast_to(np.array(block.shades), (n, 3)).copy(), (-1e3, 1e3),
        float(rng.uniform(*district.corner)), (block,), nodes, ring=True, dash=False,
    )  # fmt: skip
