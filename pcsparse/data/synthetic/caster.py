"""What casts rays: one protocol, two members that see the same triangles."""

import importlib.util
from dataclasses import dataclass
from typing import Protocol

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.errors import UnsupportedError

MISS = -1


@dataclass(frozen=True)
class Hits:
    """The first triangle that each ray meets.

    Args:
        distance: (n,) float32, metres along the ray; inf where it meets nothing.
        triangle: (n,) int32 row of the mesh, `MISS` where it meets nothing.
    """

    distance: Floats
    triangle: Ints


class Caster(Protocol):
    """Casts rays against the mesh it was built from."""

    def cast(self, origins: Floats, directions: Floats) -> Hits:
        """First hits of rays.

        Both sides of a triangle are solid. The answer is the same at any number of threads.

        Args:
            origins: (n, 3) float32, metres, in the frame of the mesh.
            directions: (n, 3) float32 unit vectors.
        """
        ...


CASTERS = ("embree", "bvh")


def resolve_caster(name: str) -> str:
    """The caster that a setting means: "embree", "bvh", or "auto" = embree where open3d is installed.

    Raises:
        UnsupportedError: no such caster.
    """
    if name == "auto":
        return "embree" if importlib.util.find_spec("open3d") is not None else "bvh"
    if name not in CASTERS:
        raise UnsupportedError(f"no ray caster {name!r}; choose auto or one of: {', '.join(CASTERS)}")
    return name


def make_caster(name: str, mesh: Mesh) -> Caster:
    """Build the caster `name` ("embree" or "bvh") over `mesh`.

    Raises:
        UnsupportedError: no such caster, or embree without the `sim` extra.
    """
    match resolve_caster(name):
        case "embree":
            from pcsparse.data.synthetic.embree import EmbreeCaster

            return EmbreeCaster(mesh)
        case _:
            from pcsparse.data.synthetic.bvh import BvhCaster

            return BvhCaster(mesh)
