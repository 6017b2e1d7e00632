"""Simulated objects in one file, which also says how they were made."""

import io
import json
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pcsparse.data.synthetic.objects import CLASSES, Objects, make_objects
from pcsparse.data.synthetic.sensor import sensor_named
from pcsparse.errors import FormatError
from pcsparse.whole_file import write_whole

# raised whenever the makers draw other shapes from the same seed
FORMAT = 3
_ARRAYS = ("points", "intensity", "labels", "distance", "echoes")


@dataclass(frozen=True)
class ObjectFacts:
    """From what objects follow; see `make_objects`."""

    per_class: int
    n_points: int
    sensor: str
    seed: int
    caster: str = "bvh"

    def make(self) -> Objects:
        """Simulate them; 15 ms an object.

        Raises:
            RangeError, UnsupportedError: as `make_objects` and `sensor_named`.
        """
        return make_objects(
            self.per_class, self.n_points, sensor_named(self.sensor), seed=self.seed, caster=self.caster
        )


def write_objects(path: Path | str, objects: Objects, facts: ObjectFacts) -> None:
    """Write an .npz file whole: the arrays of `Objects`, and `record`, JSON of format, classes and facts."""
    content = io.BytesIO()
    record = json.dumps({"format": FORMAT, "classes": CLASSES, **asdict(facts)})
    arrays = {name: getattr(objects, name) for name in _ARRAYS}
    np.savez_compressed(content, record=np.array(record), **arrays)
    write_whole(Path(path), content.getvalue())


def read_objects(path: Path | str) -> tuple[Objects, ObjectFacts]:
    """Inverse of `write_objects`.

    Raises:
        FormatError: no such file, another format or other classes, arrays that do not fit each other, values
            that are not finite, or other labels than `make_objects` gives.
    """
    path = Path(path)
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            record = json.loads(str(content["record"]))
            arrays = {name: content[name] for name in _ARRAYS}
        found, classes = record.pop("format"), tuple(record.pop("classes"))
        facts = ObjectFacts(**record)
    # AttributeError: one bare array, and no archive; the last four: of zipfile and of numpy, where headers
    # are damaged
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile,
            zlib.error, NotImplementedError, RuntimeError, SyntaxError,
            tokenize.TokenError) as error:  # fmt: skip
        raise FormatError(
            f"{path} holds no simulated objects ({error}); delete it and make it again"
        ) from error
    if found != FORMAT or classes != CLASSES:
        raise FormatError(
            f"{path} has format {found} with the classes {', '.join(classes)}; this version writes format "
            f"{FORMAT} with {', '.join(CLASSES)}: delete it and make it again"
        )
    objects = Objects(**arrays)
    n = facts.per_class * len(CLASSES)
    shapes = {name: array.shape for name, array in arrays.items()}
    wanted = dict.fromkeys(_ARRAYS, (n,)) | {
        "points": (n, facts.n_points, 3),
        "intensity": (n, facts.n_points),
    }
    if shapes != wanted:
        raise FormatError(f"{path} has arrays {shapes}, its record says {wanted}; make it again")
    floats = [arrays[name] for name in ("points", "intensity", "distance")]
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in floats):
        raise FormatError(f"{path} has values that are no finite float32; delete it and make it again")
    if not np.array_equal(objects.labels, np.tile(np.arange(len(CLASSES)), facts.per_class)):
        raise FormatError(f"{path} has other labels than its record; delete it and make it again")
    return objects, facts


def cached_objects(
    path: Path | str, facts: ObjectFacts, report: Callable[[str], None] = lambda line: None
) -> Objects:
    """The objects of `facts`, from the file if it holds them, else made and written there.

    Args:
        path: .npz file; its folder must exist.
        facts: what is wanted.
        report: takes a line that says which it was.

    Raises:
        FormatError: the file is there but holds other objects, or none.
    """
    path = Path(path)
    if path.is_file():
        objects, there = read_objects(path)
        if there != facts:
            raise FormatError(f"{path} was made from {there}, wanted are {facts}; delete it or name another")
        report(f"{path}: {len(objects)} objects, made before")
        return objects
    objects = facts.make()
    write_objects(path, objects, facts)
    report(f"{path}: {len(objects)} objects of {len(CLASSES)} classes made")
    return objects
