"""What reads coordinates is no part of a compiled graph: refused while one is traced, else run outside."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from pcsparse.errors import UnsupportedError

Made = TypeVar("Made")


def refuse_tracing(what: str) -> None:
    """Raise UnsupportedError where a graph is traced: what reads coordinates is no part of one."""
    if torch.compiler.is_compiling():
        raise UnsupportedError(
            f"{what} is not built yet, which cannot be compiled; call nn.prepare(model, x) first, for every x"
        )


def apart(build: Callable[..., Made], *args: Any, **kwargs: Any) -> Made:
    """What `build` gives; a compiler that gave up a frame goes on with those that it calls, numba's too."""
    # who compiles has loaded it; to load it takes a second
    if "torch._dynamo" not in sys.modules:
        return build(*args, **kwargs)
    made: Made = torch.compiler.disable(build)(*args, **kwargs)
    return made
