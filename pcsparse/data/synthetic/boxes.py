"""The true boxes of a sweep: each countable thing in its own frame at the middle of the turn."""

from dataclasses import dataclass

import numpy as np

from pcsparse.data.synthetic.arrays import Floats, Ints
from pcsparse.data.synthetic.beams import send
from pcsparse.data.synthetic.camera import inverse
from pcsparse.data.synthetic.caster import make_caster
from pcsparse.data.synthetic.mesh import Mesh, join, rotate, yaw_rotation
from pcsparse.data.synthetic.stage import Stage
from pcsparse.data.synthetic.sweep import Drive, Sweep

# metres: a ray that meets a thing alone and nothing before it sees it; the two casts differ by rounding
_SAME = 0.02
# raw ids of what has mirrors, and the share of its area within the width of its body
_MIRRORED = frozenset((10, 13, 16, 18, 20, 252, 256, 257, 258, 259))
_BODY = 0.99


@dataclass(frozen=True)
class Box:
    """An upright box that turns about z only.

    Args:
        centre: metres: x, y, z of its middle.
        size: metres: length along its heading, width, height.
        yaw: radians, from x to y.
    """

    centre: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float

    def corners(self) -> Floats:
        """(8, 3) metres."""
        signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
        return rotate(signs * np.array(self.size), yaw_rotation(self.yaw)) + np.array(self.centre)


@dataclass(frozen=True, eq=False)
class Thing:
    """Something countable that a sweep saw.

    Args:
        semantic: raw SemanticKITTI id, a moving one where it moves.
        instance: id in the sweep's labels.
        corners: (t, 3, 3) float64, world metres: its triangles at the middle of the turn.
        heading: world radians.
        points: of the sweep that carry its id.
        visible: share of the pulses that would meet it if it stood alone and do meet it; NaN of too few.
        serial: a number that nothing else in the town has; see `Town.countable`.
    """

    semantic: int
    instance: int
    corners: Floats
    heading: float
    points: int
    visible: float
    serial: int

    def box(self, pose: Floats | None = None) -> Box:
        """The smallest upright box along its heading; world metres, or the frame of `pose` (4, 4).

        A vehicle's is as wide as its body: mirrors stick out, by up to a quarter of a metre.

        Args:
            pose: of a frame in the world; None: the world itself.
        """
        flat, ahead = self.corners.reshape(-1, 3), np.array([np.cos(self.heading), np.sin(self.heading), 0.0])
        if pose is not None:
            back = inverse(pose)
            flat, ahead = rotate(flat, back[:3, :3]) + back[:3, 3], rotate(ahead, back[:3, :3])
        yaw = float(np.arctan2(ahead[1], ahead[0]))
        own = rotate(flat, yaw_rotation(-yaw))
        low, high = own.min(0), own.max(0)
        if self.semantic in _MIRRORED:
            low[1], high[1] = _sides(own.reshape(-1, 3, 3))
        x, y, z = rotate((low + high) / 2, yaw_rotation(yaw)).tolist()
        length, width, height = (high - low).tolist()
        return Box((x, y, z), (length, width, height), yaw)


def _sides(corners: Floats) -> tuple[float, float]:
    """Least and most y of triangles (t, 3, 3), but for the hundredth of the area that lies furthest out."""
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    found = []
    for sign in (-1.0, 1.0):
        out = (sign * corners[:, :, 1]).max(1)
        order = np.argsort(out, kind="stable")
        within = np.cumsum(area[order])
        found.append(sign * float(out[order][np.searchsorted(within, _BODY * within[-1])]))
    return found[0], found[1]


def things_in(drive: Drive, index: int, stride: float, sweep: Sweep) -> list[Thing]:
    """The countable things that have a point in `sweep`, the nearest first.

    Args:
        drive: that took the sweep.
        index: of the sweep.
        stride: metres between sweeps.
        sweep: what it saw.
    """
    still, moving, stage, origin = drive.frozen(index, stride)
    both = join([still, moving])
    ids, counts = np.unique(sweep.instance[sweep.instance > 0], return_counts=True)
    there = drive.town.countable(index * stride, sweep.stamp, drive.sight)
    own = {int(name): both.select(both.instance == name) for name in ids if int(name) in there}
    own = {name: mesh for name, mesh in own.items() if len(mesh)}
    shares = _visible(list(own.values()), stage, drive, sweep.pose[:3, 3] - origin, sweep.pose[:3, :3])
    known = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    things = [
        Thing(
            int(mesh.semantic[0]),
            name,
            mesh.corners + origin,
            there[name][0],
            known[name],
            share,
            there[name][1],
        )
        for (name, mesh), share in zip(own.items(), shares, strict=True)
    ]
    place = sweep.pose[:3, 3]
    return sorted(things, key=lambda thing: float(((thing.corners.mean((0, 1)) - place) ** 2).sum()))


def _visible(meshes: list[Mesh], stage: Stage, drive: Drive, eye: Floats, turn: Floats) -> list[float]:
    """Shares of the pulses that meet each of `meshes` alone and meet nothing of the stage before it.

    Args:
        meshes: in the frame of the stage.
        stage: all that there is.
        drive: whose pulses.
        eye: (3,) metres, the sensor in the frame of the stage.
        turn: (3, 3) rotation of the sensor.
    """
    pulses = send(drive.sensor, np.random.default_rng(0))
    ways = rotate(pulses.directions()[pulses.free], turn).astype(np.float32)
    starts = eye + drive.sensor.lift[pulses.ring[pulses.free]][:, None] * turn[:, 2]
    starts = starts.astype(np.float32)
    rows: list[Ints] = []
    far: list[Floats] = []
    for mesh in meshes:
        near = _towards(mesh, eye, ways, float(np.abs(drive.sensor.lift).max()))
        hits = make_caster(drive.caster, mesh).cast(starts[near], ways[near])
        met = hits.distance < drive.sensor.max_range
        rows.append(near[met])
        far.append(hits.distance[met])
    if not rows:
        return []
    every = np.concatenate(rows)
    first = stage.cast(starts[every], ways[every]).distance
    seen = np.split(np.concatenate(far) <= first + _SAME, np.cumsum([len(row) for row in rows])[:-1])
    return [float(each.mean()) if len(each) else float("nan") for each in seen]


def _towards(mesh: Mesh, eye: Floats, ways: Floats, around: float) -> Ints:
    """Rows of the directions (n, 3), from up to `around` metres beside the eye, that pass a mesh's ball."""
    flat = mesh.corners.reshape(-1, 3)
    middle = (flat.min(0) + flat.max(0)) / 2
    radius = float(np.sqrt(((flat - middle) ** 2).sum(1).max())) + around
    gap = middle - eye
    far = float(np.sqrt((gap * gap).sum()))
    if far <= radius:
        return np.arange(len(ways))
    cosine = (ways[:, 0] * gap[0] + ways[:, 1] * gap[1] + ways[:, 2] * gap[2]) / far
    return np.flatnonzero(cosine > np.sqrt(1 - (radius / far) ** 2) - 1e-4)
