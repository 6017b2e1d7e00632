"""One archive of packages for a machine without a network: unpacked wheels and folders, and what they are.

The same wheels and folders give the same bytes. What a wheel holds is unpacked once; libraries with code of
many GPUs are cut to one unless they are to stay whole.
"""

import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pcsparse.bench.device.fat_binary import cut_library
from pcsparse.errors import FormatError
from pcsparse.whole_file import whole_file

MANIFEST = "PEERS.txt"
_FILES, _NOTES = "files", "notes.txt"
# what a rule of cutting gave must not be taken for what the next one gives
_FORM = 1
_ELF = b"\x7fELF"


@dataclass(frozen=True)
class Part:
    """What one wheel or folder puts into the archive.

    Attributes:
        root: a folder; what is in it goes onto the path.
        notes: lines of the manifest.
    """

    root: Path
    notes: tuple[str, ...]


def unpacked_wheel(wheel: Path, work: Path, arch: int | None) -> Part:
    """A wheel's files in a folder of `work`; at once where they are there.

    Args:
        wheel: a wheel.
        work: where folders are kept from run to run.
        arch: that libraries are cut to; None leaves them whole.

    Raises:
        FormatError: it is no wheel, or a library has no code for `arch`.
    """
    digest = _digest(wheel.read_bytes())
    note = f"wheel {wheel.name} sha256 {digest}"

    def fill(root: Path) -> None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root)
        except zipfile.BadZipFile as error:
            raise FormatError(f"{wheel}: {error}; delete it and start again") from error

    return _kept(f"{wheel.stem}-{digest[:16]}", work, arch, note, fill)


def added_folder(name: str, version: str, folder: Path, work: Path, arch: int | None) -> Part:
    """A copy of a folder that is to be on the path: packages that no registry has in this form.

    Args:
        name: of the part.
        version: as it is to stand in the manifest, such as a commit.
        folder: with the packages in it.
        work: where folders are kept from run to run.
        arch: that libraries are cut to; None leaves them whole.

    Raises:
        FormatError: there is no file in it, or a library has no code for `arch`.
    """
    files = _files(folder)
    if not files:
        raise FormatError(f"{folder} has no files; name the folder in which the packages of {name} are")
    lines = [f"{path.relative_to(folder)} {_digest(path.read_bytes())}" for path in files]
    digest = _digest("\n".join(lines).encode())

    def fill(root: Path) -> None:
        for path in files:
            place = root / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)

    return _kept(f"{name}-{digest[:16]}", work, arch, f"folder {name} {version} sha256 {digest}", fill)


def write_archive(parts: Sequence[Part], manifest: str, out: Path) -> None:
    """All parts side by side and the manifest as `MANIFEST`.

    Args:
        parts: whose files do not meet, or are the same.
        manifest: its text.
        out: a name that ends in `.tar.xz`.

    Raises:
        FormatError: two parts have different files of one name.
    """
    members: dict[str, Path] = {}
    for part in parts:
        for path in _files(part.root):
            name = path.relative_to(part.root).as_posix()
            known = members.setdefault(name, path)
            if known != path and known.read_bytes() != path.read_bytes():
                raise FormatError(f"{name} is in {known} and, another one, in {path}; pack one of the two")
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(out) as temporary, tarfile.open(temporary, "w:xz") as archive:
        _add(archive, MANIFEST, manifest.encode())
        for name in sorted(members):
            _add(archive, name, members[name].read_bytes())


def _kept(name: str, work: Path, arch: int | None, note: str, fill: Callable[[Path], None]) -> Part:
    """The folder of that name, filled and cut where it is not there."""
    place = work / f"{name}-{'whole' if arch is None else f'sm{arch}'}-{_FORM}"
    if not place.is_dir():
        begun = work / f".{place.name}.{os.getpid()}"
        shutil.rmtree(begun, ignore_errors=True)
        root = begun / _FILES
        root.mkdir(parents=True)
        fill(root)
        notes = [note, *([] if arch is None else _cut_all(root, arch))]
        (begun / _NOTES).write_text("\n".join(notes))
        # whole or not at all
        begun.rename(place)
    return Part(place / _FILES, tuple((place / _NOTES).read_text().splitlines()))


def _cut_all(root: Path, arch: int) -> list[str]:
    notes = []
    for path in _files(root):
        with path.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                continue
        data = path.read_bytes()
        try:
            less, cut = cut_library(data, arch)
        except FormatError as error:
            raise FormatError(f"{path.relative_to(root)}: {error}") from error
        if cut is None:
            continue
        path.write_bytes(less)
        notes.append(
            f"  {path.relative_to(root).as_posix()}: sm_{arch} alone of "
            f"{', '.join(f'sm_{code}' for code in cut.architectures)}; "
            f"sha256 {_digest(data)} before, {_digest(less)} after"
        )
    return notes


def _files(root: Path) -> list[Path]:
    found = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(found)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    # no times and no owners: the same parts are the same bytes
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
