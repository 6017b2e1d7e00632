"""Simulated sweeps in a folder that grows while a training already reads from it."""

import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.label_map import LabelMap
from pcsparse.data.synthetic import sweep as simulated
from pcsparse.data.synthetic.scene import make_town
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.data.synthetic.writer import FORMAT
from pcsparse.errors import FormatError, RangeError
from pcsparse.whole_file import write_whole

# 11 bytes a point; 6.5 mm are half of the range noise, and 212 m lie beyond every sensor's reach
_ROW = np.dtype(
    [("place", "<i2", 3), ("intensity", "u1"), ("target", "i1"), ("instance", "<u2"), ("beam", "u1")]
)
_STEP = 0.0065
_BRIGHT = 255.0
_ENDING = ".npy"
_RECORD = "pool.json"


@dataclass(frozen=True)
class PoolPlan:
    """Which sweeps a pool holds when it is complete, in the order of towns.

    Attributes:
        sensors: names of presets; town k carries sensors[k % number of sensors].
        towns: how many.
        sweeps: of each town.
        seed: of the first town; town k has seed + k.
        stride: metres between two sweeps.
    """

    sensors: tuple[str, ...]
    towns: int
    sweeps: int
    seed: int
    stride: float

    def __post_init__(self) -> None:
        for name in self.sensors:
            sensor_named(name)
        if not self.sensors or min(self.towns, self.sweeps) < 1 or self.stride <= 0 or self.seed < 0:
            raise RangeError(
                f"a pool needs a sensor, a town, a sweep, a seed of 0 or more, a stride above 0, got {self}"
            )

    def __len__(self) -> int:
        return self.towns * self.sweeps

    def path(self, folder: Path, index: int) -> Path:
        """Where sweep `index` lies: its name says the town's seed, the sweep of the town, and the sensor."""
        town, sweep = divmod(index, self.sweeps)
        return folder / f"{self.seed + town:06d}-{sweep:04d}-{self.sensor(town)}{_ENDING}"

    def sensor(self, town: int) -> str:
        """The preset of town `town`, from 0."""
        return self.sensors[town % len(self.sensors)]


def check_pool(plan: PoolPlan, folder: Path) -> None:
    """Refuse the sweeps of a folder that this simulator would not make for a plan.

    More or fewer towns are no other plan: each town is what it is.

    Raises:
        FormatError: they are of another version of the simulator, or of other drives; the text says which.
    """
    # the record is there before the first sweep: looked for after them, so that none is seen without it
    there = _sweeps_in(folder)
    try:
        before = json.loads((folder / _RECORD).read_text())
    except FileNotFoundError:
        if not there:
            return
        before = {}
    except ValueError as error:
        raise FormatError(f"{folder / _RECORD} is broken ({error}); remove {folder}") from error
    wanted = _record(plan)
    told = [
        f"{key} {before.get(key)!r}, now {value!r}"
        for key, value in wanted.items()
        if before.get(key) != value
    ]
    if told:
        raise FormatError(
            f"{folder} holds {len(there)} sweeps that were simulated otherwise ({'; '.join(told)}); "
            "remove it, or name another folder"
        )


def _record(plan: PoolPlan) -> dict[str, object]:
    # a town is as long as its drive, so that all its sweeps depend on their number
    return {"simulator": FORMAT, "sweeps_of_a_town": plan.sweeps, "stride_metres": plan.stride}


def _claim(plan: PoolPlan, folder: Path) -> None:
    """Make the folder of a pool and its record, or check those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    check_pool(plan, folder)
    if not (folder / _RECORD).is_file():
        write_whole(folder / _RECORD, (json.dumps(_record(plan), indent=2) + "\n").encode())


def _sweeps_in(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    # no Path a file: this is asked for every sweep that is missing
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.name.endswith(_ENDING))


def render(plan: PoolPlan, folder: Path, part: int = 0, parts: int = 1, *, first_towns: int = 0) -> int:
    """Simulate the towns part, part + parts, ... of a pool, sweeps that are there left out.

    It may be killed at any moment: a sweep is there as a whole or not at all.

    Args:
        plan: of the pool.
        folder: where the sweeps go; made where it is missing.
        part: first town that is rendered here.
        parts: step to the next one: as many processes share the work.
        first_towns: about so many towns, spread over the pool, have one sweep before any town has all: who
            starts early sees many. Each costs the building of its town once more.

    Returns:
        sweeps written.

    Raises:
        FormatError: the folder holds sweeps that were simulated otherwise.
    """
    _claim(plan, folder)
    early = _spread(plan, first_towns)[part::parts] if first_towns else ()
    n = sum(_render(plan, folder, town, [plan.sweeps // 2]) for town in early)
    towns = range(part, plan.towns, parts)
    return n + sum(_render(plan, folder, town, range(plan.sweeps)) for town in towns)


def render_sample(plan: PoolPlan, folder: Path, towns: int = 24) -> int:
    """Simulate the middle sweep of some towns, evenly spread over the pool, as `render` does."""
    _claim(plan, folder)
    return sum(_render(plan, folder, town, [plan.sweeps // 2]) for town in _spread(plan, towns))


def _spread(plan: PoolPlan, towns: int) -> Sequence[int]:
    """About that many towns, evenly spread, with every sensor."""
    step = max(plan.towns // towns, 1)
    while math.gcd(step, len(plan.sensors)) > 1:
        # else towns of one sensor only
        step += 1
    return range(0, plan.towns, step)


def _render(plan: PoolPlan, folder: Path, town: int, sweeps: Iterable[int]) -> int:
    indices = [town * plan.sweeps + sweep for sweep in sweeps]
    missing = [index for index in indices if not plan.path(folder, index).is_file()]
    if missing:
        labels, world = LabelMap.load("synthetic"), make_town(plan.seed + town, plan.sweeps * plan.stride)
        drive = simulated.Drive(world, sensor_named(plan.sensor(town)), "bvh")
        for index in missing:
            rows = _packed(drive.sweep(index % plan.sweeps, plan.stride), labels)
            _store(plan.path(folder, index), rows)
    return len(missing)


def _packed(sweep: simulated.Sweep, labels: LabelMap) -> npt.NDArray[np.void]:
    farthest = float(np.abs(sweep.points).max(initial=0.0))
    if farthest > _STEP * np.iinfo(np.int16).max:
        raise RangeError(f"a point lies {farthest:.0f} m away, and a pool holds {_STEP * 32767:.0f} m")
    rows = np.zeros(len(sweep.points), _ROW)
    rows["place"] = np.round(sweep.points / _STEP)
    rows["intensity"] = np.round(sweep.intensity * _BRIGHT)
    rows["target"] = labels.to_target(sweep.semantic.astype(np.uint32))
    rows["instance"] = sweep.instance
    rows["beam"] = sweep.ring
    return rows


def _store(path: Path, rows: npt.NDArray[np.void]) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    with unfinished.open("wb") as file:
        np.save(file, rows)
    unfinished.replace(path)


class RenderedSweeps:
    """The sweeps of a pool, a `SweepSource` that can be trained on before the pool is complete.

    A sweep that is not there yet is stood in for by one that is, of any town alike. So a training that starts
    early sees the first ones more often, and what it sees depends on the speed of the rendering; of a
    complete pool every sweep has its own place, and the same bytes.

    Args:
        plan: of the pool.
        folder: where `render` writes it.

    Raises:
        FormatError: the folder holds sweeps that were simulated otherwise.

    Attributes:
        label_map: what the targets mean.
    """

    def __init__(self, plan: PoolPlan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.label_map = LabelMap.load("synthetic")
        check_pool(plan, folder)

    def __len__(self) -> int:
        return len(self.plan)

    @property
    def present(self) -> list[str]:
        """Names of the files that are there, in order."""
        return _sweeps_in(self.folder)

    def class_shares(self, most: int = 48) -> tuple[float, ...]:
        """How frequent each class is among the labelled points of at most that many sweeps that are there.

        Raises:
            FormatError: no sweep is there at all.
        """
        present = self.present
        if not present:
            raise FormatError(f"{self.folder} holds no sweep; start the rendering, or name another folder")
        counts = np.zeros(self.label_map.n_classes, np.int64)
        for name in present[:: -(-len(present) // most)]:
            targets = read_rendered(self.folder / name).targets
            assert targets is not None
            counts += np.bincount(targets[targets >= 0], minlength=len(counts))
        return tuple((counts / max(int(counts.sum()), 1)).tolist())

    def __getitem__(self, index: int) -> Sweep:
        """Sweep `index`, or a stand-in.

        Raises:
            FormatError: no sweep is there at all.
        """
        path = self.plan.path(self.folder, index)
        if not path.is_file():
            present = self.present
            if not present:
                raise FormatError(f"{self.folder} holds no sweep yet; wait for the rendering, or start it")
            path = self.folder / _stand_in(present, *divmod(index, self.plan.sweeps))
        return read_rendered(path)


def _stand_in(present: list[str], town: int, sweep: int) -> str:
    """A sweep that is there: of a town for each that is missing, however many sweeps of it there are."""
    # names begin with the town's seed, and are sorted
    seeds = [name.partition("-")[0] for name in present]
    starts = [i for i, seed in enumerate(seeds) if i == 0 or seed != seeds[i - 1]]
    start, stop = (*starts, len(present))[town % len(starts) :][:2]
    return present[start + sweep % (stop - start)]


def read_rendered(path: Path) -> Sweep:
    """Read a sweep that `render` wrote.

    Raises:
        FormatError: the file is no such sweep.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} is no rendered sweep ({error}); remove it and render again") from error
    if rows.dtype != _ROW:
        raise FormatError(f"{path} holds {rows.dtype}, not a rendered sweep; remove it and render again")
    return Sweep(
        points=rows["place"] * np.float32(_STEP),
        intensity=rows["intensity"] * np.float32(1 / _BRIGHT),
        targets=rows["target"].astype(np.int64),
        name=path.stem,
        instances=rows["instance"].astype(np.int64),
        beams=rows["beam"].astype(np.int64),
    )
