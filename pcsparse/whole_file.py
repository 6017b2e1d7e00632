"""Files that are there whole or not at all."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# the process and the thread that write
_TEMPORARY = re.compile(r"\.(\d+)\.\d+\.tmp(\.\w+)?$")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: to a temporary name in its folder, flushed to disk, then renamed.

    Raises:
        OSError: the file cannot be written; it names `path`.
    """
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name in the folder of `path`, with its ending, for writers that want a name.

    Where the block ends without an error the file is flushed to disk and renamed to `path`; else it goes.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # a full disk names no file, the others a temporary one
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        # on a read-only disk this fails too
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes of this machine that were killed while they wrote.

    Args:
        folder: that one program at a time writes into; this one has not begun.
    """
    for path in folder.glob(".*.tmp*"):
        found = _TEMPORARY.search(path.name)
        if found is not None and not _is_alive(int(found.group(1))):
            with suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    if process == os.getpid():
        # of an earlier one: in a container all have the same few numbers
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        # another user's
        return True
    return True
