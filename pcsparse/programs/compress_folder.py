"""The folder of a compression: which steps are done, from which inputs, and what may be taken over."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

from pcsparse.errors import FormatError
from pcsparse.whole_file import write_whole

_FORMAT = 1
RECORD = "steps.json"
_REMOVED = "was being removed"
_OF_RUNS = ("model.safetensors", "last.pt", "config.yaml")

Inputs = Mapping[str, Any]
"""What a step is made from, JSON values: equal inputs give equal files, but for what is measured."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of it.
        result: the file or folder that is there once it is done.
        others: files and folders that it leaves besides.
        after: the steps that it takes results of.
    """

    name: str
    result: str
    others: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class RunFolder:
    """What an earlier process left, as far as it belongs to the same inputs.

    A step that was begun and not finished goes on from its own log or checkpoint.

    Args:
        path: of the folder.
        steps: in their order.
        inputs: of each step, by name.
        resume: "auto" takes over what is done and refuses other inputs; "never" refuses a folder that holds
            a compression; "overwrite" makes anew the steps whose inputs differ, and those that follow them.

    Raises:
        FormatError: the folder holds something that `resume` does not allow to go on with; the text says what
            differs and what to do.
    """

    def __init__(self, path: Path, steps: Sequence[Step], inputs: Mapping[str, Inputs], resume: str) -> None:
        self.path = path
        self._steps = {step.name: step for step in steps}
        # as a file gives it back: tuples become lists
        self._inputs: dict[str, Any] = json.loads(
            json.dumps({step.name: inputs[step.name] for step in steps})
        )
        self._record = self._read()
        if resume == "never" and self._record:
            raise FormatError(
                f"{path} already holds a compression; resume=auto continues it, resume=overwrite replaces "
                "what was made from other inputs"
            )
        stale = self._stale()
        if stale and resume != "overwrite":
            listed = "; ".join(f"{name}: {why}" for name, why in stale.items())
            if _REMOVED in stale.values():
                raise FormatError(
                    f"{path} was left while resume=overwrite removed files of it ({listed}); only "
                    "resume=overwrite goes on there, or choose another name="
                )
            raise FormatError(
                f"{path} holds a compression with other inputs ({listed}); restore them, choose another "
                "name=, or make these steps anew with resume=overwrite"
            )
        for name in stale:
            self._forget(name)

    def done(self, name: str) -> bool:
        """Whether the results of a step are there."""
        return bool(self._record.get(name, {}).get("done")) and self.file(name).exists()

    def file(self, name: str) -> Path:
        """The result of a step."""
        return self.path / self._steps[name].result

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Note that a step begins, and where nothing is raised that it is done."""
        self._note(name, done=False)
        yield
        self._note(name, done=True)

    def _stale(self) -> dict[str, str]:
        """Steps that were begun from something else than is there today, and what differs."""
        found: dict[str, str] = {}
        anew: set[str] = set()
        for name, step in self._steps.items():
            entry = self._record.get(name)
            before = [other for other in step.after if other in anew or self._is_of_another(entry, other)]
            if entry is None or (entry["done"] and not self.file(name).exists()):
                anew.add(name)
            elif entry["inputs"] is None:
                found[name] = _REMOVED
                anew.add(name)
            elif differs := _differences(entry["inputs"], self._inputs[name]):
                found[name] = differs
                anew.add(name)
            # a step that was never finished has nothing that others could have taken
            elif not entry["done"]:
                anew.add(name)
            if entry is not None and before and name not in found:
                found[name] = f"follows {', '.join(before)}"
                anew.add(name)
        return found

    def _is_of_another(self, entry: dict[str, Any] | None, other: str) -> bool:
        """Whether a step took what `other` has since made anew, in a run that did not list that step."""
        taken = (entry or {}).get("of", {})
        return other in taken and taken[other] != self._record.get(other, {}).get("made")

    def _forget(self, name: str) -> None:
        step = self._steps[name]
        # stale until all files are gone: a kill in between leaves files that nobody trusts
        self._record[name] = {"done": False, "inputs": None}
        self._write()
        for file in (step.result, *step.others):
            path = self.path / file
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._record.pop(name)
        self._write()

    def _note(self, name: str, *, done: bool) -> None:
        of = {other: self._record.get(other, {}).get("made") for other in self._steps[name].after}
        inputs = self._inputs[name]
        before = self._record.get(name)
        # what is made anew is something else, even of equal inputs: times are measured
        made = before.get("made") if before and (done or not before["done"]) else None
        made = made or token_hex(8)
        self._record[name] = {"done": done, "inputs": inputs, "made": made, "of": of}
        self._write()

    def _write(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        content = {"format": _FORMAT, "steps": self._record}
        write_whole(self.path / RECORD, (json.dumps(content, indent=1) + "\n").encode())

    def _read(self) -> dict[str, Any]:
        path = self.path / RECORD
        if not path.exists():
            # the record is the first that a compression writes
            if others := [name for name in _OF_RUNS if (self.path / name).exists()]:
                raise FormatError(
                    f"{self.path} holds {', '.join(others)} of another run; choose another name="
                )
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise FormatError(f"{path} has format {content['format']}, this version reads {_FORMAT}")
            steps: dict[str, Any] = content["steps"]
            if not all({"done", "inputs"} <= entry.keys() for entry in steps.values()):
                raise ValueError("a step lacks its inputs")
        except (OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"{path} is no record of a compression ({error}); choose another name="
            ) from error
        return steps


def _differences(then: Any, now: Any, name: str = "") -> str:
    """`key then, key now`, for each value that differs; empty where all are equal."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted(then.keys() | now.keys())
        parts = (_differences(then.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return ", ".join(part for part in parts if part)
    return "" if then == now else f"{name} {then!r} then, {now!r} now"
