"""Ray casting by Open3D's RaycastingScene (Embree). Contract: `caster.Caster`."""

import numpy as np

from pcsparse.checks import require_extra
from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.caster import MISS, Hits
from pcsparse.data.synthetic.mesh import Mesh


class EmbreeCaster:
    """Casts rays with Embree.

    Raises:
        UnsupportedError: open3d is not installed.
    """

    def __init__(self, mesh: Mesh) -> None:
        o3d = require_extra("open3d", "sim")
        self._tensor = o3d.core.Tensor
        self._scene = o3d.t.geometry.RaycastingScene()
        self._empty = len(mesh) == 0
        if not self._empty:
            corners = np.ascontiguousarray(mesh.corners.reshape(-1, 3), np.float32)
            rows = np.arange(len(corners), dtype=np.uint32).reshape(-1, 3)
            self._scene.add_triangles(self._tensor(corners), self._tensor(rows))

    def cast(self, origins: Floats, directions: Floats) -> Hits:
        """See `caster.Caster`."""
        if self._empty:
            count = len(origins)
            return Hits(np.full(count, np.inf, np.float32), np.full(count, MISS, np.int32))
        rays = np.concatenate([origins, directions], axis=1).astype(np.float32)
        answer = self._scene.cast_rays(self._tensor(rays))
        distance = answer["t_hit"].numpy()
        triangle = answer["primitive_ids"].numpy().astype(np.int64)
        return Hits(distance, np.where(np.isfinite(distance), triangle, MISS).astype(np.int32))
