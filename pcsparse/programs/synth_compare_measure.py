"""Measures real sweeps and simulated ones, and judges the simulated ones by the real."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pcsparse.checks import require_extra
from pcsparse.data.files import list_point_files, read_points
from pcsparse.data.point_cloud import PointCloud
from pcsparse.data.synthetic.arrays import Floats
from pcsparse.data.synthetic.band import Verdict, judge
from pcsparse.data.synthetic.caster import resolve_caster
from pcsparse.data.synthetic.figures import Figure, Turn, angles_aside, make_turn, measure
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import Sensor, sensor_named
from pcsparse.data.synthetic.stats import GROUPS
from pcsparse.data.synthetic.sweep import Drive, Sweep
from pcsparse.errors import FormatError, RangeError

# metres: the street of a town, and where on it the sweep is taken
_STREET, _STRIDE, _INDEX = 100.0, 10.0, 5
_SHOWN = 3


@dataclass(frozen=True)
class CompareSettings:
    """What to hold against what.

    Args:
        real: real sweeps: files, or folders of them.
        sweeps: how many to simulate, each in a town of its own.
        seed: of the first town; town k has seed + k.
        sensor: name of the preset to simulate; the real sweeps must come from such a sensor.
        caster: "auto", "embree" or "bvh".
        jobs: processes that simulate.
        out: folder for figures and pictures; None writes none.
    """

    real: tuple[Path, ...]
    sweeps: int = 50
    seed: int = 0
    sensor: str = "hdl64e"
    caster: str = "auto"
    jobs: int = 1
    out: Path | None = None


@dataclass(frozen=True, eq=False)
class Measured:
    """A sweep and its figures.

    Args:
        name: as shown.
        figures: what was measured, f of them.
        values: (f,) float64.
        angles: (rings,) degrees by which each beam, from the top, lies above the preset's; NaN: not measured.
        turn: the sweep itself; None where nobody wants to look at it.
        classes: (c, 2) share of the points and mean intensity per name in `stats.GROUPS`, NaN where there are
            none; None of a sweep without labels.
    """

    name: str
    figures: tuple[Figure, ...]
    values: Floats
    angles: Floats
    turn: Turn | None
    classes: Floats | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """What came out.

    Args:
        settings: what was asked for.
        sensor: the preset.
        caster: the one that cast.
        real: real sweeps.
        simulated: simulated ones, by seed; the first few with their points.
        verdicts: one a figure.
        notes: what was assumed of the real files.
    """

    settings: CompareSettings
    sensor: Sensor
    caster: str
    real: tuple[Measured, ...]
    simulated: tuple[Measured, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Whether every figure does."""
        return all(verdict.holds for verdict in self.verdicts)


def compare(settings: CompareSettings, report: Callable[[str], None] = lambda line: None) -> Comparison:
    """Measure the real sweeps, simulate others, judge.

    Raises:
        FormatError: a real file that is missing, broken, or no sweep of the sensor.
        RangeError: no sweeps or no processes.
        UnsupportedError: no such sensor or caster, or pictures without the extra `view`.
    """
    if settings.sweeps < 1 or settings.jobs < 1 or settings.seed < 0:
        raise RangeError(
            "need at least one sweep, one process and a seed of at least 0, got --sweeps "
            f"{settings.sweeps}, --jobs {settings.jobs}, --seed {settings.seed}"
        )
    if settings.out is not None:
        require_extra("matplotlib", "view")
    sensor, caster = sensor_named(settings.sensor), resolve_caster(settings.caster)
    clouds = [read_points(path) for source in settings.real for path in list_point_files(source)]
    real = tuple(_measured_file(cloud, sensor) for cloud in clouds)
    seeds = range(settings.seed, settings.seed + settings.sweeps)
    simulated = []
    for done, sweep in enumerate(_simulated(seeds, sensor, caster, settings.jobs), 1):
        simulated.append(sweep)
        if done % 10 == 0:
            report(f"simulated {done} of {settings.sweeps} sweeps")
    columns = real[0].figures
    verdicts = judge(columns, _rows(real), _rows(simulated))
    notes = tuple(note for cloud in clouds for note in _notes(cloud))
    return Comparison(settings, sensor, caster, real, tuple(simulated), tuple(verdicts), notes)


def ring_offsets(sweeps: Sequence[Measured]) -> Floats:
    """(rings,) degrees: the median over sweeps of how far each beam lies above the preset's; NaN: in none."""
    angles = np.stack([sweep.angles for sweep in sweeps])
    known = np.isfinite(angles).any(0)
    middle = np.full(angles.shape[1], np.nan)
    middle[known] = np.nanmedian(angles[:, known], axis=0)
    return middle


def _rows(sweeps: Sequence[Measured]) -> Floats:
    return np.stack([sweep.values for sweep in sweeps])


def _notes(cloud: PointCloud) -> Iterator[str]:
    for note in cloud.notes:
        if "intensit" in note:
            yield f"{cloud.source}: {note}; if that is wrong, bring it to 0-1 first"


def _measured(
    name: str, turn: Turn, sensor: Sensor, *, keep: bool, classes: Floats | None = None
) -> Measured:
    figures, values = zip(*measure(turn, sensor), strict=True)
    return Measured(
        name, figures, np.array(values), angles_aside(turn, sensor), turn if keep else None, classes
    )


def _measured_file(cloud: PointCloud, sensor: Sensor) -> Measured:
    path, points = cloud.source, cloud.points
    if cloud.intensity is None or not cloud.intensity.any():
        raise FormatError(
            f"{path} has no intensity, or 0 throughout; nothing can be calibrated by it: leave it out"
        )
    if cloud.origin.any():
        raise FormatError(
            f"{path} is in world coordinates, around {cloud.origin}; move it into the sensor's frame"
        )
    if path.name.endswith(".pcd.bin"):
        # nuScenes: x to the right, y ahead
        points = np.stack([points[:, 1], -points[:, 0], points[:, 2]], 1)
    turn = make_turn(points, cloud.intensity, cloud.ring, sensor, str(path))
    return _measured("/".join(path.parts[-3:]), turn, sensor, keep=True)


def _simulated(seeds: range, sensor: Sensor, caster: str, jobs: int) -> Iterator[Measured]:
    task = partial(_simulate, sensor=sensor, caster=caster, shown=seeds[:_SHOWN])
    if jobs == 1:
        yield from map(task, seeds)
        return
    # spawned: a fork would take the caster's threads along
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(task, seeds)


def town_sweep(seed: int, sensor: Sensor, caster: str) -> Sweep:
    """The sweep from the middle of the street of town `seed`."""
    return Drive(make_town(seed, _STREET), sensor, caster).sweep(_INDEX, _STRIDE)


def _simulate(seed: int, *, sensor: Sensor, caster: str, shown: range) -> Measured:
    sweep = town_sweep(seed, sensor, caster)
    turn = make_turn(sweep.points, sweep.intensity, sweep.ring, sensor, f"the sweep of town {seed}")
    classes = np.full((len(GROUPS), 2), np.nan)
    for row, ids in enumerate(GROUPS.values()):
        mine = np.isin(sweep.semantic, ids)
        classes[row] = mine.mean(), sweep.intensity[mine].mean() if mine.any() else np.nan
    return _measured(f"town {seed}", turn, sensor, keep=seed in shown, classes=classes)
