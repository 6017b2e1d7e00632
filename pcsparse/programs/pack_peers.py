"""Peers of the GPU benchmarks in one archive, for a machine that has a GPU and no network."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pcsparse.bench.device.peer_archive import MANIFEST, Part, added_folder, unpacked_wheel, write_archive
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError
from pcsparse.whole_file import write_whole

# what each peer needs of a registry, and a machine with torch, numpy and Triton has not
PEERS: dict[str, tuple[str, ...]] = {
    "spconv": (
        "spconv-cu126==2.3.8",
        "cumm-cu126>=0.7.11,<0.8",
        "pccm",
        "ccimport",
        "fire",
        "pybind11",
        "lark",
        "portalocker",
        "termcolor",
    ),
    "spconv_triton": ("spconv-triton==1.0.0",),
}
_OUT, _WORK = Path("bench-out"), Path("bench-out/pack-peers")
# pip takes a wheel of a platform by its exact name
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux2010")

Download = Callable[[str, str, Path], Path]


@dataclass(frozen=True)
class Added:
    """A folder that goes into the archive as it is.

    Attributes:
        name: of the peer.
        version: a version or a commit.
        folder: with its packages in it.
    """

    name: str
    version: str
    folder: Path

    @staticmethod
    def of(text: str) -> "Added":
        """From NAME@VERSION=FOLDER.

        Raises:
            RangeError: it has another form.
        """
        left, equals, folder = text.partition("=")
        name, at, version = left.partition("@")
        if not (name and at and version and equals and folder):
            raise RangeError(f"--add takes NAME@VERSION=FOLDER, got {text!r}")
        return Added(name, version, Path(folder))


@dataclass(frozen=True)
class PackSettings:
    """What to pack for which machine.

    Attributes:
        python: its version, such as 3.12.
        torch: its version, which the manifest names.
        cuda: its version, which the manifest names.
        arch: of its GPU, such as 90.
        whole: whether libraries keep the code of all GPUs.
        peers: of `PEERS`.
        added: folders beside them.
        work: where downloads and unpacked wheels are kept.
        out: folder of the archive.
    """

    python: str
    torch: str
    cuda: str
    arch: int
    whole: bool
    peers: tuple[str, ...]
    added: tuple[Added, ...]
    work: Path
    out: Path

    @property
    def archive(self) -> Path:
        """Named by the machine that it is for."""
        python, cuda = self.python.replace(".", ""), self.cuda.replace(".", "")
        return self.out / f"peers-cp{python}-cu{cuda}-sm{self.arch}.tar.xz"


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and run it: 0, or 1 if a part is missing."""
    parser = argparse.ArgumentParser(description="Pack the peers of the GPU benchmarks; needs no GPU.")
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU")
    parser.add_argument("--torch", default="2.11", help="of that machine, for the manifest")
    parser.add_argument("--cuda", default="13.0", help="of that machine's torch, for the manifest")
    parser.add_argument("--arch", type=int, default=90, help="its GPU: 90 for compute capability 9.0")
    parser.add_argument("--whole", action="store_true", help="keep the code of all GPUs: some 100 MB more")
    parser.add_argument("--peers", nargs="*", choices=tuple(PEERS), default=list(PEERS))
    parser.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME@VERSION=FOLDER",
        help="packages that are ready in a folder; may be repeated",
    )
    parser.add_argument("--work", type=Path, default=_WORK, help="kept for the next run")
    parser.add_argument("--out", type=Path, default=_OUT, help="folder of the archive")
    given = parser.parse_args(arguments)
    added = tuple(Added.of(text) for text in given.add)
    return run(
        PackSettings(
            given.python,
            given.torch,
            given.cuda,
            given.arch,
            given.whole,
            tuple(given.peers),
            added,
            given.work,
            given.out,
        )
    )


def run(settings: PackSettings, download: Download | None = None) -> int:
    """Write the archive and say what is in it; a part that cannot be had is named, and the others go on.

    Args:
        settings: what to pack.
        download: gets a requirement for a version of Python into a folder; pip by default.
    """
    settings.work.mkdir(parents=True, exist_ok=True)
    parts: list[Part] = []
    versions = f"Python {settings.python}, torch {settings.torch}, CUDA {settings.cuda}"
    head = [f"peers for {versions}, sm_{settings.arch}"]
    absent = 0
    jobs: list[tuple[str, Callable[[], list[Part]]]] = [
        *((name, partial(_of_registry, name, settings, download or _pip)) for name in settings.peers),
        *((one.name, partial(_added, one, settings)) for one in settings.added),
    ]
    for name, make in jobs:
        try:
            parts.extend(make())
            head.append(f"here: {name}")
        except (PcsparseError, OSError) as error:
            absent += 1
            head.append(f"absent: {name}: {error}")
        print(head[-1], flush=True)
    if not parts:
        print("nothing to pack")
        return 1
    _write(parts, head, settings)
    return int(absent > 0)


def _write(parts: list[Part], head: list[str], settings: PackSettings) -> None:
    target, known = settings.archive, settings.work / f"{settings.archive.name}.txt"
    manifest = "\n".join([*head, *(note for part in parts for note in part.notes)]) + "\n"
    if target.is_file() and known.is_file() and known.read_text() == manifest:
        print(f"as it was: {target}")
    else:
        print("packing, some minutes", flush=True)
        known.unlink(missing_ok=True)
        write_archive(parts, manifest, target)
        write_whole(known, manifest.encode())
    print(f"written: {target}, {target.stat().st_size / 1e6:.1f} MB; {MANIFEST} in it says what it holds")
    print(f"there: python3 -m tarfile -e {target.name} peers && export PYTHONPATH=$PWD/peers")


def _of_registry(name: str, settings: PackSettings, download: Download) -> list[Part]:
    arch = None if settings.whole else settings.arch
    wheels = [_wheel(requirement, settings, download) for requirement in PEERS[name]]
    return [unpacked_wheel(wheel, settings.work, arch) for wheel in wheels]


def _added(one: Added, settings: PackSettings) -> list[Part]:
    arch = None if settings.whole else settings.arch
    return [added_folder(one.name, one.version, one.folder, settings.work, arch)]


def _wheel(requirement: str, settings: PackSettings, download: Download) -> Path:
    """What was downloaded for that Python before, or now."""
    folder = settings.work / f"wheels-{settings.python}"
    folder.mkdir(exist_ok=True)
    index = folder / "wheels.json"
    known: dict[str, str] = json.loads(index.read_text()) if index.is_file() else {}
    if requirement not in known or not (folder / known[requirement]).is_file():
        print(f"downloading {requirement}", flush=True)
        known[requirement] = download(requirement, settings.python, folder).name
        write_whole(index, json.dumps(known, indent=1).encode())
    return folder / known[requirement]


def _pip(requirement: str, python: str, folder: Path) -> Path:
    platforms = [part for name in _PLATFORMS for part in ("--platform", f"{name}_x86_64")]
    wanted = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", *wanted, "--dest", fresh]
        done = subprocess.run([*command, requirement], capture_output=True, text=True, check=False)
        found = sorted(Path(fresh).glob("*.whl"))
        if done.returncode or len(found) != 1:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise UnsupportedError(f"pip has no wheel of {requirement} for Python {python}: {' '.join(last)}")
        return found[0].replace(folder / found[0].name)
