"""Raw ids in label files <-> targets of a network, names and colours. The only place that knows the shift."""

import hashlib
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pcsparse import resources
from pcsparse.errors import FormatError, RangeError, UnsupportedError

IGNORE = -1
"""Target of a point that never counts: in a loss, in a metric, in a picture."""

_UNKNOWN = -2
_SEMANTIC_MASK = 0xFFFF
# Source: ASPRS, LAS specification 1.4 R15, table 17
_LAS_NEVER_CLASSIFIED = 0
_LAS_UNCLASSIFIED = 1


@dataclass(frozen=True, eq=False)
class LabelMap:
    """One label set: what the raw ids of its files mean.

    A target is the train id - 1, so the classes are 0 ... n_classes - 1, and train id 0 becomes `IGNORE`.
    That shift is made here and nowhere else.

    Attributes:
        label_set: name of the label set, as written into a checkpoint's card.
        names: n_classes names, by target.
        colors: (n_classes, 3) uint8, RGB, by target.
        raw_ids: (n_classes,) uint32, the raw id that a prediction leaves as, by target.
        ignore_raw: the raw id that `IGNORE` leaves as.
        las_codes: (n_classes,) uint8, the class code of the LAS standard by target; 1 where it has none.
    """

    label_set: str
    names: tuple[str, ...]
    colors: npt.NDArray[np.uint8]
    raw_ids: npt.NDArray[np.uint32]
    ignore_raw: int
    las_codes: npt.NDArray[np.uint8]
    # (65536,) int16: target of every raw id, _UNKNOWN where the set has none
    _table: npt.NDArray[np.int16] = field(repr=False)

    @classmethod
    def load(cls, name: str) -> Self:
        """The label map of a data set that pcsparse knows, for example `semantickitti`.

        Raises:
            UnsupportedError: no such data set; the text lists those there are.
        """
        return cls.from_toml(resources.labels_file(name))

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a `labels.toml` (layout: `datasets/semantickitti/labels.toml`).

        A file that holds nothing but `label_set` refers to the folder of that name beside its own.

        Raises:
            FormatError: the file is missing or breaks a rule of the layout; the text says which.
        """
        path = Path(path)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise FormatError(f"{path} is not a label map ({error})") from error
        label_set = content.get("label_set")
        if not isinstance(label_set, str):
            raise FormatError(f"{path}: label_set must be a name, got {label_set!r}")
        if set(content) == {"label_set"} and label_set != path.parent.name:
            return cls.from_toml(path.parent.parent / label_set / path.name)
        try:
            return cls.from_rows(label_set, content["ignore"], content["raw"], content["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(
                f"{path}: {type(error).__name__}: {error}; compare it with datasets/semantickitti/labels.toml"
            ) from error

    @classmethod
    def from_rows(
        cls, label_set: str, ignore: int, raw: list[dict[str, Any]], classes: list[dict[str, Any]]
    ) -> Self:
        """Of the tables of a `labels.toml`.

        Raises:
            KeyError, TypeError, ValueError: they break a rule of the layout; the text says which.
        """
        if ignore != 0:
            raise ValueError(f"ignore must be train id 0, got {ignore}")
        by_id = {row["id"]: row for row in raw}
        if len(by_id) != len(raw) or not all(0 <= key <= _SEMANTIC_MASK for key in by_id):
            raise ValueError(f"raw ids must differ and lie in 0 ... {_SEMANTIC_MASK}, got {sorted(by_id)}")
        if [row["train"] for row in classes] != list(range(len(classes))) or len(classes) < 2:
            raise ValueError("classes must list the train ids 0, 1, 2 ... in order")
        table = np.full(_SEMANTIC_MASK + 1, _UNKNOWN, dtype=np.int16)
        for key, row in by_id.items():
            if not 0 <= row["train"] < len(classes):
                raise ValueError(f"raw id {key}: train id {row['train']} is not in 0 ... {len(classes) - 1}")
            table[key] = row["train"] - 1
        for row in classes:
            if by_id[row["raw"]]["train"] != row["train"]:
                raise ValueError(f"train id {row['train']} leaves as raw id {row['raw']} of another class")
        kept = [by_id[row["raw"]] for row in classes[1:]]
        # a colour beyond 0 ... 255 raises OverflowError, not a wrapped value
        try:
            colors = np.array([row["color"] for row in kept], dtype=np.uint8).reshape(len(kept), 3)
        except OverflowError as error:
            raise ValueError(f"colours must lie in 0 ... 255 ({error})") from error
        return cls(
            label_set=label_set,
            names=tuple(str(row["name"]) for row in kept),
            colors=colors,
            raw_ids=np.array([row["raw"] for row in classes[1:]], dtype=np.uint32),
            ignore_raw=int(classes[0]["raw"]),
            las_codes=np.array([row.get("las", _LAS_UNCLASSIFIED) for row in classes[1:]], dtype=np.uint8),
            _table=table,
        )

    def is_brought(self) -> bool:
        """Whether `load` gives this map for its name, so that the name says all."""
        try:
            return self == self.load(self.label_set)
        except UnsupportedError:
            return False

    def __eq__(self, other: object) -> bool:
        """Whether both have the same name, classes, raw ids, colours and codes."""
        if not isinstance(other, LabelMap):
            return NotImplemented
        return (
            self.label_set == other.label_set
            and self.names == other.names
            and self.ignore_raw == other.ignore_raw
            and all(
                np.array_equal(mine, theirs)
                for mine, theirs in (
                    (self.colors, other.colors),
                    (self.raw_ids, other.raw_ids),
                    (self.las_codes, other.las_codes),
                    (self._table, other._table),
                )
            )
        )

    def __hash__(self) -> int:
        return hash((self.label_set, self.names))

    def digest(self) -> str:
        """16 hexadecimal digits of which raw id is which target; names and colours are not in it."""
        return hashlib.sha256(self._table.astype("<i2").tobytes()).hexdigest()[:16]

    def rows(self) -> dict[str, Any]:
        """Its tables, as `from_rows` takes them: `ignore`, `raw`, `classes`, of numbers and texts alone.

        Names and colours of raw ids that no prediction leaves as are not in it.
        """
        outgoing = {
            int(raw): {"name": name, "color": color}
            for raw, name, color in zip(self.raw_ids, self.names, self.colors.tolist(), strict=True)
        }
        known = np.flatnonzero(self._table != _UNKNOWN).tolist()
        classes = [
            {"train": train, "raw": int(raw), "las": int(las)}
            for train, (raw, las) in enumerate(zip(self.raw_ids, self.las_codes, strict=True), start=1)
        ]
        return {
            "ignore": IGNORE + 1,
            "raw": [
                {"id": raw, "train": int(self._table[raw]) - IGNORE, **outgoing.get(raw, {})} for raw in known
            ],
            "classes": [{"train": 0, "raw": self.ignore_raw}, *classes],
        }

    @property
    def n_classes(self) -> int:
        """Number of classes that count; targets are 0 ... n_classes - 1."""
        return len(self.names)

    def to_target(
        self, raw: npt.NDArray[np.uint32], *, source: str | Path | None = None
    ) -> npt.NDArray[np.int64]:
        """Targets of raw labels; an instance id in the upper 16 bits is dropped.

        Args:
            raw: (n,) uint32, as `read_labels` returns it.
            source: file the labels come from, for the error.

        Returns:
            (n,) int64, 0 ... n_classes - 1 or `IGNORE`.

        Raises:
            FormatError: a raw id that the label set does not have; the text names ids, counts and file.
        """
        semantic = (np.asarray(raw).astype(np.uint32, copy=False) & _SEMANTIC_MASK).astype(np.intp)
        targets = self._table[semantic].astype(np.int64)
        unknown = targets == _UNKNOWN
        if unknown.any():
            ids, counts = np.unique(semantic[unknown], return_counts=True)
            listed = ", ".join(f"id {i} ({n} points)" for i, n in zip(ids[:5], counts[:5], strict=True))
            more = f" and {len(ids) - 5} more ids" if len(ids) > 5 else ""
            where = f"{source}: " if source is not None else ""
            raise FormatError(
                f"{where}label set {self.label_set!r} does not have {listed}{more}; "
                "is it the right label map, and are these uint32 labels?"
            )
        return targets

    def to_raw(self, targets: npt.NDArray[np.integer] | Tensor) -> npt.NDArray[np.uint32]:
        """Raw ids to write for targets: the way a prediction leaves.

        Args:
            targets: (n,) integers, 0 ... n_classes - 1 or `IGNORE`; an array or a tensor on any device.

        Returns:
            (n,) uint32, without instance ids.

        Raises:
            RangeError: a target is neither a class nor `IGNORE`.
        """
        values = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
        if values.size and not (values.min() >= IGNORE and values.max() < self.n_classes):
            raise RangeError(
                f"targets of label set {self.label_set!r} lie in {IGNORE} ... {self.n_classes - 1}, "
                f"got {values.min()} ... {values.max()}"
            )
        # IGNORE = -1 takes the last entry
        outgoing = np.append(self.raw_ids, np.uint32(self.ignore_raw))
        return outgoing[values.astype(np.intp)]

    def to_las(self, targets: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """Class codes of the LAS standard for targets, 0 (never classified) for `IGNORE`.

        Args:
            targets: (n,) integers, 0 ... n_classes - 1 or `IGNORE`.
        """
        # IGNORE = -1 takes the last entry
        return np.append(self.las_codes, np.uint8(_LAS_NEVER_CLASSIFIED))[targets.astype(np.intp)]
