"""Where the host would wait for the device, and which memory of the host is pinned."""

import sys
import warnings
from typing import Any

import torch

from tests.host_waits import waits_for

_aten = torch.ops.aten
# whose frames are no place where somebody waits
_INSIDE = ("mock_cuda", "torch")
MODES = {"default": 0, "warn": 1, "error": 2}


class _Mind:
    """What is to happen at a wait: as `torch.cuda.set_sync_debug_mode`; and whether launches are recorded."""

    mode = 0
    recording = False


MIND = _Mind()


def note(what: str) -> None:
    """The host waits here."""
    if MIND.recording:
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")
    if MIND.mode == 2:
        raise RuntimeError(f"called a synchronizing CUDA operation ({what})")
    if MIND.mode == 1:
        warnings.warn(f"called a synchronizing CUDA operation ({what})", stacklevel=_depth())


def look(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], kind: type[torch.Tensor]) -> None:
    """Note the wait of an operation whose result or whose size the host needs."""
    if func is _aten._to_copy.default:
        to = kwargs.get("device")
        here, there = isinstance(args[0], kind), to is not None and torch.device(to).type == "cuda"
        # what has shapes alone is not waited for
        crosses = to is not None and here != there and torch.device(to).type != "meta"
        if crosses and not _passes(args[0], kwargs.get("non_blocking", False)):
            note("to")
    elif func is _aten.copy_.default:
        flag = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        if isinstance(args[0], kind) != isinstance(args[1], kind) and not _passes(args[1], flag):
            # a single number of the host travels with a launch
            if isinstance(args[0], kind) and args[1].dim() == 0:
                return
            note("copy_")
    elif waits_for(func.overloadpacket, args, kwargs):
        note(func.overloadpacket.__name__)


def _passes(source: torch.Tensor, non_blocking: bool) -> bool:
    return non_blocking and (source.is_cuda or is_pinned(source) or not MIND.recording)


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, whose memory stays from now on."""
    tensor.untyped_storage().is_mocked_as_pinned = True  # type: ignore[attr-defined]
    return tensor


def is_pinned(tensor: torch.Tensor) -> bool:
    """Whether its memory stays."""
    return getattr(tensor.untyped_storage(), "is_mocked_as_pinned", False)


def _depth() -> int:
    """To the caller outside of torch and these mocks."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and any(f"/{part}/" in frame.f_code.co_filename for part in _INSIDE):
        depth, frame = depth + 1, frame.f_back
    return depth
