"""One process at a time in a folder."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import O_RDONLY, close
from os import open as open_file
from pathlib import Path

from pcsparse.errors import PcsparseError

# loader workers of a process that was killed hold its lock until they notice, which takes torch 5 s
PATIENCE_S = 15.0
_EACH_S = 0.1


@contextmanager
def sole_user(folder: Path, patience: float = PATIENCE_S) -> Iterator[None]:
    """Keep other processes that ask for the same out of a folder, until the block or the process ends.

    The folder itself is locked, so that nothing is left in it; it is made where it is missing. Where there
    are no such locks, on Windows and on some network drives, nothing is kept out.

    Args:
        folder: to work in.
        patience: seconds to wait for another process that is about to end.

    Raises:
        PcsparseError: another process is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = open_file(folder, O_RDONLY)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise PcsparseError(
                        f"another process is at work in {folder}, and two would spoil each other's files; "
                        "wait for it, end it, or choose another name="
                    ) from None
                time.sleep(_EACH_S)
            except OSError:
                # a network drive without locks
                break
        yield
    finally:
        close(handle)
