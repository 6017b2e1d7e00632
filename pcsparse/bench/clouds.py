"""The clouds that benchmarks run on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pcsparse.errors import FormatError

REAL_SWEEPS = (
    (Path("semantickitti/dataset/sequences/00/velodyne/000000.bin"), "SemanticKITTI 00/000000"),
    (Path("kitti_odometry/000049.bin"), "KITTI odometry 000049"),
    (Path("kitti/training/velodyne/000000.bin"), "KITTI object 000000"),
    (Path("kitti/training/velodyne/000001.bin"), "KITTI object 000001"),
)
"""HDL-64E sweeps in a folder of real samples and their names; the first one there is taken."""
_SEED = 1
_STRIDE = 10.0
# 20 turns a second at 10 m/s
_SWEEP_SECONDS, _SWEEP_STEP = 0.05, 0.5


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points and what a network reads of them.

    Attributes:
        name: what it is and where it comes from.
        points: (n, 3) float32, metres.
        feats: (n, 4) float32: x, y, z in metres and intensity 0-1; of several sweeps (n, 5) with their age.
    """

    name: str
    points: Tensor
    feats: Tensor


def file_cloud(path: Path) -> Cloud:
    """A point file; where it has no intensity the feature is 0, which no timing depends on.

    Raises:
        FormatError: the file is missing or cannot be read.
    """
    from pcsparse.data.files import read_points

    read = read_points(path)
    points = torch.from_numpy(read.points)
    intensity = torch.zeros(len(points)) if read.intensity is None else torch.from_numpy(read.intensity)
    return _cloud(f"{path.parent.name}/{path.name} (file)", points, intensity)


def real_cloud(samples: Path) -> Cloud:
    """The first HDL-64E sweep of `REAL_SWEEPS` that the folder of real samples has.

    Raises:
        FormatError: it has none of them.
    """
    for path, name in REAL_SWEEPS:
        if (samples / path).is_file():
            found = file_cloud(samples / path)
            return Cloud(f"{name} (real HDL-64E sweep)", found.points, found.feats)
    listed = ", ".join(str(path) for path, _ in REAL_SWEEPS)
    raise FormatError(
        f"{samples} has none of {listed}; name a sweep with --cloud, or unset PCSPARSE_REAL_DATA to "
        "simulate one"
    )


def simulated_cloud() -> Cloud:
    """A simulated HDL-64E sweep, the same in every run with the same ray caster."""
    from pcsparse.data.synthetic.caster import resolve_caster
    from pcsparse.data.synthetic.scene import make_town
    from pcsparse.data.synthetic.sensor import sensor_named
    from pcsparse.data.synthetic.sweep import Drive

    caster = resolve_caster("auto")
    drive = Drive(make_town(_SEED, 2 * _STRIDE), sensor_named("hdl64e"), caster)
    sweep = drive.sweep(1, _STRIDE)
    name = f"simulated HDL-64E sweep (town {_SEED}, {caster})"
    return _cloud(name, torch.from_numpy(sweep.points), torch.from_numpy(sweep.intensity))


def simulated_sweeps(n: int = 10) -> Cloud:
    """Simulated HDL-32E sweeps of a drive, in the frame of the last one: the size of nuScenes' ten sweeps.

    Features are x, y, z in metres, intensity 0-1 and the age of the sweep in seconds, (n, 5).
    """
    from pcsparse.data.synthetic.caster import resolve_caster
    from pcsparse.data.synthetic.scene import make_town
    from pcsparse.data.synthetic.sensor import sensor_named
    from pcsparse.data.synthetic.sweep import Drive

    caster = resolve_caster("auto")
    drive = Drive(make_town(_SEED, 2 * _STRIDE), sensor_named("hdl32e"), caster)
    first = round(_STRIDE / _SWEEP_STEP)
    sweeps = [drive.sweep(first + i, _SWEEP_STEP) for i in range(n)]
    back, points, rest = torch.from_numpy(sweeps[-1].pose).inverse(), [], []
    for age, sweep in enumerate(reversed(sweeps)):
        pose = back @ torch.from_numpy(sweep.pose)
        moved = torch.from_numpy(sweep.points).double() @ pose[:3, :3].T + pose[:3, 3]
        points.append(moved.float())
        since = torch.full((len(moved),), age * _SWEEP_SECONDS)
        rest.append(torch.stack([torch.from_numpy(sweep.intensity).float(), since], dim=1))
    xyz = torch.cat(points)
    name = f"{n} simulated HDL-32E sweeps (town {_SEED}, {caster})"
    return Cloud(name, xyz, torch.cat([xyz, torch.cat(rest)], dim=1))


def small_cloud(n: int = 6_000) -> Cloud:
    """A street in miniature for quick runs: uneven ground, two walls, `n` points, always the same."""
    draw = torch.Generator().manual_seed(20231)
    along, across, up = torch.rand(3, n, generator=draw)
    # two fifths of the points lie on the walls; density falls with the distance, as a sensor's does
    x = 12.0 * along.square() * torch.sign(torch.rand(n, generator=draw) - 0.5)
    wall = torch.arange(n) % 5 < 2
    y = torch.where(wall, 3.0 * torch.sign(across - 0.5), 6.0 * (across - 0.5))
    z = torch.where(wall, 2.5 * up, 0.05 * torch.sin(3.0 * x)) - 1.73
    return _cloud("miniature street", torch.stack([x, y, z], dim=1), up)


def _cloud(name: str, points: Tensor, intensity: Tensor) -> Cloud:
    points = points.float().contiguous()
    return Cloud(name, points, torch.cat([points, intensity.float()[:, None]], dim=1))
