"""Whether this process was forked: what runs in threads does not survive that.

`import pcsparse` loads this file: a fork is noticed also where the child is the first to use a kernel.
"""

import os


class _Process:
    """What is known of this process; a fork changes it, nothing else does."""

    def __init__(self) -> None:
        self.forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        self.forked = True


_PROCESS = _Process()


def was_forked() -> bool:
    """Whether a fork made this process after pcsparse was imported."""
    return _PROCESS.forked
