"""Tuned choices on disk: {device, versions} -> {problem bucket, pass} -> choice.

A file has one section for each device and set of versions it was tuned with. Nothing is looked up behind the
user's back: a table is loaded by name and handed to `plan_for`.
"""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import torch

from pcsparse.checks import usable_device
from pcsparse.engine.choice import PASSES, Choice, Pass
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.sorted_implicit_gemm import product_precision
from pcsparse.errors import FormatError
from pcsparse.kernels.map_ways import MapRule

# 2: buckets say how products of float32 are rounded; a table of 1 may hold choices for tf32 under float32
# 3: layers of one map are tuned together, and the rule's choices are stored where they stay; beside entries
# of 2, which know neither, a map would derive what its layers were not tuned with
SCHEMA = 3
_PACKAGES = ("pcsparse", "torch", "numba")
# where there is a GPU; what cupy compiles is CUDA's, and comes with torch
_GPU_PACKAGES = ("triton",)
# what kernels look for; the model's name says nothing of what a virtual machine hides
_FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd")
# where they are set, kernels are compiled for another CPU than the one they run on
_TARGETS = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")


@dataclass(frozen=True)
class Bucket:
    """Problems that share one tuning.

    Exact in what shapes the inner loops, by powers of two in what only shapes the cache's contents: a new
    cloud of about the same size and density must not need a new tuning.

    Attributes:
        device: type of the device.
        dtype: of features and weights, such as "float32".
        precision: of products, "ieee" or "tf32", as torch allows it on a GPU; "torch" while a graph is
            compiled, which serves both and finds no tuning.
        k: kernel offsets.
        c_in: input channels.
        c_out: output channels.
        symmetric: a submanifold map of an odd kernel.
        rows: b where 2^(b - 1) <= n_out < 2^b; 0 for none.
        pairs: b where 2^(b - 1) <= n_pairs / n_out < 2^b; 0 for fewer pairs than rows; None where nobody
            counted them.
    """

    device: str
    dtype: str
    precision: str
    k: int
    c_in: int
    c_out: int
    symmetric: bool
    rows: int
    pairs: int | None

    @staticmethod
    def of(problem: ConvProblem) -> "Bucket":
        """The bucket of a problem."""
        n_out = problem.n_out
        return Bucket(
            device=problem.device,
            dtype=str(problem.dtype).removeprefix("torch."),
            # a CPU knows no tf32, whatever torch allows
            precision=product_precision(problem.dtype) if problem.device == "cuda" else "ieee",
            k=problem.k,
            c_in=problem.c_in,
            c_out=problem.c_out,
            symmetric=problem.symmetric,
            rows=_doublings(n_out, 1),
            pairs=None if problem.n_pairs is None else _doublings(problem.n_pairs, max(n_out, 1)),
        )


def _doublings(value: int, unit: int) -> int:
    # comparisons, not bit_length: a compiled graph keeps sizes as symbols, and so serves a whole bucket
    bits = 0
    while unit << bits <= value:
        bits += 1
    return bits


def device_key(device: torch.device | str) -> str:
    """A device as far as a tuning depends on it: CPU, threads, what the kernels are compiled for, the GPU.

    Args:
        device: cpu, cuda for the current GPU, or cuda:N. That of a CPU names no GPU.

    Raises:
        DeviceError: torch sees no such device here.
    """
    place = usable_device(device)
    info = _cpu_info()
    model = info.get("model name") or platform.processor() or platform.machine()
    flags = info.get("flags", info.get("Features", "")).split()
    features = " ".join(name for name in _FEATURES if name in flags) or "no known features"
    targets = (f"{name}={os.environ[name]}" for name in _TARGETS if name in os.environ)
    gpus = [torch.cuda.get_device_name(place)] if place.type == "cuda" else []
    return "; ".join([model, features, f"{torch.get_num_threads()} threads", *targets, *gpus])


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    fields = (line.partition(":") for line in path.read_text().split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in fields}


def versions() -> dict[str, str]:
    """Versions of the packages whose change makes a tuning stale."""
    found = {}
    for package in (*_PACKAGES, *_GPU_PACKAGES) if torch.cuda.is_available() else _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "none"
    return found


@dataclass(frozen=True)
class TuneTable:
    """Choices measured on one device.

    Attributes:
        device: see `device_key`.
        versions: of packages.
        entries: choices by bucket and pass; not to be changed.
        maps: the rule by which a GPU makes kernel maps; None where nobody measured one.
    """

    device: str
    versions: Mapping[str, str]
    entries: Mapping[tuple[Bucket, Pass], Choice] = field(default_factory=dict)
    maps: MapRule | None = None

    @classmethod
    def here(
        cls,
        device: torch.device | str,
        entries: Mapping[tuple[Bucket, Pass], Choice] | None = None,
        maps: MapRule | None = None,
    ) -> Self:
        """A table for a device of this machine and these versions.

        Raises:
            DeviceError: torch sees no such device here.
        """
        return cls(device_key(device), versions(), dict(entries or {}), maps)

    def choice(self, problem: ConvProblem, of: Pass) -> Choice | None:
        """The tuned choice for one pass of a problem, None if its bucket is unknown."""
        return self.entries.get((Bucket.of(problem), of))

    def merged(self, newer: "TuneTable") -> "TuneTable":
        """Entries of both; those of `newer` win."""
        maps = self.maps if newer.maps is None else newer.maps
        return replace(self, entries={**self.entries, **newer.entries}, maps=maps)


def load_table(path: Path | str, device: torch.device | str, *, key: str | None = None) -> TuneTable:
    """Read the section for a device of this machine and these versions.

    Args:
        path: file written by `store_table`.
        device: of this machine, where the convolutions will run.
        key: of another machine's section, to run with its choices and so its bits; that of `device` if None.

    Raises:
        DeviceError: torch sees no such device here.
        FormatError: no such file, another schema, a broken file, or no section of this key and these
            versions; the text lists those there are.
    """
    path = Path(path)
    if not path.is_file():
        raise FormatError(
            f"no tuning at {path}; make one with `pcsparse tune --out {path} --device {device}`"
        )
    tables = _read(path)
    here, current = device_key(device), versions()
    wanted = here if key is None else key
    for table in tables:
        if table.device == wanted and table.versions == current:
            return table
    listed = "; ".join(f"[{table.device}] {_text(table.versions)}" for table in tables) or "nothing"
    way = f"run `pcsparse tune --out {path} --device {device}` to add it"
    if key is not None:
        way = f"take one of these, or run `pcsparse tune --out {path}` on that machine"
    raise FormatError(f"{path} has no tuning for [{wanted}] {_text(current)}, but for {listed}; {way}")


def store_table(path: Path | str, table: TuneTable) -> None:
    """Merge a table into a file, which is made if it is not there.

    Several processes may store into one file: each waits for the others and keeps their entries.

    Raises:
        FormatError: the file is there and is no such table; it is left alone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sole_writer(path):
        tables = _read(path) if path.is_file() else []
        same = [t for t in tables if (t.device, t.versions) == (table.device, table.versions)]
        others = [t for t in tables if (t.device, t.versions) != (table.device, table.versions)]
        merged = same[0].merged(table) if same else table
        content = {"schema": SCHEMA, "sections": [_to_json(t) for t in (*others, merged)]}
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _sole_writer(path: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        # elsewhere the last of several writers wins
        yield
        return
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _to_json(table: TuneTable) -> dict[str, Any]:
    entries = [
        {**asdict(bucket), "pass": of, "choice": choice.encode()}
        for (bucket, of), choice in table.entries.items()
    ]
    maps = {} if table.maps is None else {"maps": table.maps.to_json()}
    return {"device": table.device, "versions": dict(table.versions), "entries": entries, **maps}


def _read(path: Path) -> list[TuneTable]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
        tables = [_table(section) for section in content["sections"]] if schema == SCHEMA else []
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(
            f"{path} is not a table of tunings ({type(error).__name__}: {error}); remove it, or name another "
            "file"
        ) from error
    if schema != SCHEMA:
        raise FormatError(
            f"{path} has schema {schema!r}, this version reads {SCHEMA}; tune again into another file"
        )
    return tables


def _table(section: dict[str, Any]) -> TuneTable:
    current = section["versions"] == versions()
    entries = {}
    # the choices of other versions need not be known to this one; they are kept as they are
    for entry in section["entries"]:
        fields = dict(entry)
        of, text = fields.pop("pass"), fields.pop("choice")
        if of not in PASSES:
            raise ValueError(f"no pass {of!r}")
        entries[(Bucket(**fields), of)] = Choice.decode(text) if current else _Kept(text)
    maps: MapRule | None = None
    if section.get("maps") is not None:
        maps = MapRule.from_json(section["maps"]) if current else _KeptRule(section["maps"])
    return TuneTable(str(section["device"]), dict(section["versions"]), entries, maps)


@dataclass(frozen=True)
class _Kept(Choice):
    """The text of a choice that is not understood, only written back."""

    dataflow: str
    config: Any = None

    def encode(self) -> str:
        return self.dataflow


class _KeptRule(MapRule):
    """A rule that is not understood, only written back."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__({}, (0, 0, 0, 0))
        object.__setattr__(self, "_fields", fields)

    def to_json(self) -> dict[str, Any]:
        return self._fields  # type: ignore[attr-defined, no-any-return]


def _text(of: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {number}" for package, number in of.items())
