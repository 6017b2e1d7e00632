"""What one turn of the sensor looks at: what stands still and what moves, under one numbering."""

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.caster import Caster, Hits, make_caster
from pcsparse.data.synthetic.mesh import Mesh
from pcsparse.data.synthetic.surface import normals_at


class Stage:
    """Two meshes that rays are cast against; triangles of the second are numbered after those of the first.

    Args:
        still: what stands still.
        caster: over `still`.
        moving: what moves, in the same frame.
        kind: of the caster to build over it, "embree" or "bvh".
    """

    def __init__(self, still: Mesh, caster: Caster, moving: Mesh, kind: str) -> None:
        self._still, self._moving = still, moving
        self._casters = caster, make_caster(kind, moving)
        self.semantic = np.concatenate([still.semantic, moving.semantic])
        self.instance = np.concatenate([still.instance, moving.instance])
        self.material = np.concatenate([still.material, moving.material])
        self.reflectivity = np.concatenate([still.reflectivity, moving.reflectivity])

    def cast(self, origins: Floats, directions: Floats) -> Hits:
        """The nearer of the first hits in either mesh; rays as `caster.Caster` wants them."""
        hits, other = (caster.cast(origins, directions) for caster in self._casters)
        nearer = other.distance < hits.distance
        row = other.triangle + np.int32(len(self._still))
        return Hits(np.where(nearer, other.distance, hits.distance), np.where(nearer, row, hits.triangle))

    def normals(self, triangle: Ints) -> Floats:
        """(n, 3) float64 unit normals of the triangles (n,); zero where there is none (-1)."""
        return normals_at(self._still.corners, self._moving.corners, triangle)
