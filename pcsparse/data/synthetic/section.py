"""Cross-sections of a street: what lies between the carriageway and private ground, and how high."""

from dataclasses import dataclass

from pcsparse.data.synthetic.materials import OTHER_GROUND, PARKING, ROAD, SIDEWALK, TERRAIN

# rows that ground is made of; `Section` and `Street` name them by number
SURFACES = (ROAD, PARKING, SIDEWALK, OTHER_GROUND, TERRAIN)
ASPHALT, BAY, PAVED, GRAVEL, SOIL = range(5)

COLUMNS = ("bay", "verge", "walk", "kerb", "ditch", "rise", "run", "rough", "wild")
KERB_RUN = 0.03
"""Metres across which a kerb rises."""


@dataclass(frozen=True)
class Section:
    """One side of a street, from the edge of the carriageway outwards.

    Args:
        bay, verge, walk: metres: parking bays level with the road; behind the kerb a green strip, a pavement.
        kerb: metres that the kerb rises.
        ditch: metres that the land dips just beyond the front.
        rise, run: metres that the land gains (or loses) beyond `rough`, and over how many.
        rough: metres beyond the front where levelled ground ends.
        wild: how much of the bumps of the land is left there, 0 to 1.
        codes: rows of `SURFACES` for bay, verge, walk and the ground beyond the front.
    """

    bay: float = 0.0
    verge: float = 0.0
    walk: float = 0.0
    kerb: float = 0.12
    ditch: float = 0.0
    rise: float = 0.0
    run: float = 10.0
    rough: float = 2.0
    wild: float = 1.0
    codes: tuple[int, int, int, int] = (BAY, SOIL, PAVED, SOIL)

    @property
    def front(self) -> float:
        """Metres beyond the carriageway's edge where private ground begins."""
        return self.bay + self.verge + self.walk

    def row(self) -> tuple[float, ...]:
        """Values of `COLUMNS`."""
        return tuple(float(getattr(self, name)) for name in COLUMNS)


@dataclass(frozen=True)
class Block:
    """A stretch of street between two nodes, with one cross-section and one kind of neighbour on each side.

    Args:
        start, end: metres along the street.
        half: half the road's width, metres.
        left, right: the two sides.
        kinds: names of `frontage.KINDS` for the left and the right side.
        shades: how bright road, paved and unpaved ground are, relative to their surfaces.
        built: whether anything stands along it (not in a roundabout).
    """

    start: float
    end: float
    half: float
    left: Section
    right: Section
    kinds: tuple[str, str]
    shades: tuple[float, float, float]
    built: bool = True

    def side(self, sign: int) -> Section:
        """The side to the left (+1) or right (-1)."""
        return self.left if sign > 0 else self.right
