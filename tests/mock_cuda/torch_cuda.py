"""What stands for `torch.cuda`, and for the methods that ask it first."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from tests.mock_cuda import waits
from tests.mock_cuda.graphs import Graph, Recording
from tests.mock_cuda.tensors import DEVICE, GENERATORS, MockTensor


class Stream:
    """Everything is done as soon as it is asked for."""

    cuda_stream = 0
    device = DEVICE

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def synchronize(self) -> None:
        if waits.MIND.recording:
            waits.note("synchronize")

    def wait_stream(self, other: "Stream") -> None:
        pass

    def wait_event(self, event: "Event") -> None:
        pass

    def record_event(self, event: "Event | None" = None) -> "Event":
        return event or Event()

    def query(self) -> bool:
        return True


class Event(Stream):
    """As `torch.cuda.Event`."""

    def record(self, stream: Any = None) -> None:
        pass

    def wait(self, stream: Any = None) -> None:
        pass

    def elapsed_time(self, other: "Event") -> float:
        # milliseconds
        return 1.0


class Properties:
    """A small device of compute capability 9.0."""

    name = "mocked CUDA device"
    major, minor = 9, 0
    multi_processor_count = 4
    total_memory = 1 << 34
    L2_cache_size = 1 << 20
    shared_memory_per_block_optin = 227 << 10
    regs_per_multiprocessor = 65536
    max_threads_per_multi_processor = 2048
    warp_size = 32


class _Without:
    """A context of no effect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


def _set_sync_debug_mode(mode: int | str) -> None:
    waits.MIND.mode = waits.MODES[mode] if isinstance(mode, str) else mode


_TORCH_CUDA: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "synchronize": lambda device=None: waits.note("synchronize") if waits.MIND.recording else None,
    "current_stream": lambda device=None: Stream(),
    "default_stream": lambda device=None: Stream(),
    "set_stream": lambda stream: None,
    "stream": _Without,
    "device": _Without,
    "Stream": Stream,
    "Event": Event,
    "CUDAGraph": Graph,
    "graph": Recording,
    "is_current_stream_capturing": lambda: waits.MIND.recording,
    "get_device_properties": lambda device=None: Properties(),
    "get_device_capability": lambda device=None: (Properties.major, Properties.minor),
    "get_device_name": lambda device=None: Properties.name,
    "mem_get_info": lambda device=None: (Properties.total_memory // 2, Properties.total_memory),
    "memory_allocated": lambda device=None: 0,
    "max_memory_allocated": lambda device=None: 0,
    "reset_peak_memory_stats": lambda device=None: None,
    "empty_cache": lambda: None,
    "is_bf16_supported": lambda *args, **kwargs: True,
    "get_sync_debug_mode": lambda: waits.MIND.mode,
    "set_sync_debug_mode": _set_sync_debug_mode,
    "get_rng_state": lambda device=None: torch.get_rng_state(),
    "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
}
_METHODS = {
    "cuda": lambda self, device=None, **options: self.to(DEVICE, **options),
    "pin_memory": lambda self, device=None: torch.ops.aten._pin_memory.default(self),
    "record_stream": lambda self, stream: None,
}


@contextmanager
def stand_ins() -> Iterator[None]:
    """Have them."""
    with ExitStack() as stack:
        for name, value in _TORCH_CUDA.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        for name, method in _METHODS.items():
            stack.enter_context(patch.object(torch.Tensor, name, method))
        for name in ("_cuda_getDevice", "_cuda_getCurrentRawStream", "_cuda_sleep"):
            stack.enter_context(patch.object(torch._C, name, lambda *args: 0, create=True))
        stack.enter_context(patch.object(torch, "Generator", _Generator))
        stack.enter_context(patch.object(torch.nn.Module, "_apply", _moving(torch.nn.Module._apply)))
        yield


_HOSTS = torch.Generator


class _Generator(torch.Generator):
    """As `torch.Generator`; the device's is one of the host that is known to be the device's."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        made = super().__new__(_HOSTS)
        if torch.device(device).type == DEVICE.type:
            GENERATORS[made._cdata] = made
        return made


def _moving(apply: Callable[..., Any]) -> Callable[..., Any]:
    """`nn.Module._apply` gives parameters other memory in place, whose `held` must follow."""

    def applied(module: torch.nn.Module, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        made: list[tuple[torch.Tensor, torch.Tensor]] = []

        def seen(tensor: torch.Tensor) -> torch.Tensor:
            made.append((tensor, out := fn(tensor)))
            return out

        result = apply(module, seen, *args, **kwargs)
        for tensor, out in made:
            # a buffer stays as it was
            if tensor is not out and (tensor.device, tensor.dtype) == (out.device, out.dtype):
                _become(tensor, out)
        return result

    return applied


def _become(tensor: torch.Tensor, out: torch.Tensor) -> None:
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    if isinstance(out, MockTensor):
        tensor.__class__ = MockTensor
        tensor.held = out.held  # type: ignore[attr-defined]
        if is_parameter:
            tensor._is_param = True  # type: ignore[attr-defined]
    elif isinstance(tensor, MockTensor):
        tensor.__class__ = torch.nn.Parameter if is_parameter else torch.Tensor  # type: ignore[assignment]
