"""What surfaces are made of: raw class, reflectivity, roughness, and how often glass swallows a pulse."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pcsparse.data.synthetic.arrays import Floats


class Material(IntEnum):
    """Row of the material table below."""

    ASPHALT = 0
    PAVING = 1
    SOIL = 2
    PLASTER = 3
    GLASS = 4
    PAINT = 5
    LEAF = 6
    BARK = 7
    METAL = 8
    RETRO = 9
    CLOTH = 10
    RUBBER = 11
    STONE = 12


# per material: (height of small bumps in metres, relative spread of the intensity from pulse to pulse, share
# of pulses that a mirror-like surface sends elsewhere, metres by which blades and leaves shorten ranges at
# random). The spreads are set so that the spread per class comes near the one measured on a real sweep;
# bumps and shortening so that second differences of the range along a ring do: median 0.015 m on facades,
# 0.04 to 0.1 m on hedges and bushes, 0.1 to 0.4 m in crowns (four real sweeps).
_TABLE: dict[Material, tuple[float, float, float, float]] = {
    Material.ASPHALT: (0.004, 0.14, 0.0, 0.0),
    Material.PAVING: (0.006, 0.13, 0.0, 0.0),
    Material.SOIL: (0.035, 0.15, 0.0, 0.012),
    Material.PLASTER: (0.003, 0.15, 0.0, 0.0),
    Material.GLASS: (0.0, 0.6, 0.85, 0.0),
    Material.PAINT: (0.0, 0.5, 0.18, 0.0),
    Material.LEAF: (0.04, 0.22, 0.0, 0.025),
    Material.BARK: (0.012, 0.22, 0.0, 0.0),
    Material.METAL: (0.0, 0.3, 0.08, 0.0),
    Material.RETRO: (0.0, 0.30, 0.0, 0.0),
    Material.CLOTH: (0.008, 0.22, 0.0, 0.0),
    Material.RUBBER: (0.0, 0.5, 0.0, 0.0),
    Material.STONE: (0.025, 0.2, 0.0, 0.0),
}


def _column(index: int) -> Floats:
    return np.array([_TABLE[material][index] for material in Material], dtype=np.float32)


BUMPS = _column(0)
SPREAD = _column(1)
MIRROR = _column(2)
FUZZ = _column(3)


@dataclass(frozen=True)
class Surface:
    """What a triangle is: its raw SemanticKITTI class, its material and its reflectivity.

    Args:
        semantic: raw id of SemanticKITTI, 0 to 259.
        material: row of the material table.
        reflectivity: intensity at normal incidence, 0 to 1 (signs go above 1 and are clipped by the sensor).
    """

    semantic: int
    material: Material
    reflectivity: float

    def tinted(self, factor: float) -> "Surface":
        """The same surface, `factor` times as bright."""
        return Surface(self.semantic, self.material, self.reflectivity * factor)

    def of(self, semantic: int) -> "Surface":
        """The same surface under another class."""
        return Surface(semantic, self.material, self.reflectivity)


ROAD = Surface(40, Material.ASPHALT, 0.33)
LANE_MARK = Surface(60, Material.ASPHALT, 0.62)
PARKING = Surface(44, Material.PAVING, 0.40)
SIDEWALK = Surface(48, Material.PAVING, 0.45)
OTHER_GROUND = Surface(49, Material.PAVING, 0.42)
TERRAIN = Surface(72, Material.SOIL, 0.52)
BUILDING = Surface(50, Material.PLASTER, 0.29)
WINDOW = Surface(50, Material.GLASS, 0.10)
FENCE = Surface(51, Material.PLASTER, 0.32)
RAIL = Surface(51, Material.METAL, 0.35)
LEAVES = Surface(70, Material.LEAF, 0.41)
TRUNK = Surface(71, Material.BARK, 0.40)
POLE = Surface(80, Material.METAL, 0.25)
SIGN = Surface(81, Material.RETRO, 0.9)
SIGN_BACK = Surface(81, Material.METAL, 0.20)
OBJECT = Surface(99, Material.METAL, 0.30)
SKIN = Surface(30, Material.CLOTH, 0.45)
PAINT = Surface(10, Material.PAINT, 0.10)
CAR_GLASS = Surface(10, Material.GLASS, 0.01)
TYRE = Surface(10, Material.RUBBER, 0.012)
PLATE = Surface(10, Material.RETRO, 1.2)
FRAME = Surface(11, Material.METAL, 0.30)
