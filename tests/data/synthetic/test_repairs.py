"""Repairs of roads: on the road, dark or light, and under its marks."""

import numpy as np

from pcsparse.data.synthetic.materials import ROAD
from pcsparse.data.synthetic.mesh import join
from pcsparse.data.synthetic.repairs import mended
from pcsparse.data.synthetic.scene import make_town


def test_repairs_lie_on_the_carriageway_and_differ_from_it() -> None:
    town = make_town(3, 60.0)
    rng = np.random.default_rng(0)
    blocks = [(i, block) for i, street in enumerate(town.network.streets) for block in street.blocks]
    mesh = join([mended(rng, town.land, number, block) for number, block in blocks])
    assert len(mesh) > 200
    assert set(np.unique(mesh.semantic)) == {ROAD.semantic}
    flat = mesh.corners.reshape(-1, 3)
    spots = town.land.at(flat[:, 0], flat[:, 1])
    assert (spots.edge < 0).all()
    # above the ground, and below lane marks at 6 mm
    np.testing.assert_allclose(flat[:, 2] - spots.z, 0.003, atol=1e-6)
    bright = mesh.reflectivity / ROAD.reflectivity
    # fresh bitumen returns less than half of what the road does, and is the commoner
    assert (bright < 0.56).mean() > 0.5
    assert (np.abs(bright - 1) > 0.05).all()
    assert ((bright > 1.05) & (bright < 1.31)).any()
