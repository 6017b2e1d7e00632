"""A CUDA device that is none: its tensors say `cuda:0`, lie in the host's memory, and mix with none of it.

Kernels that are emulated on tensors of the CPU show that the kernels are right, and not that what calls them
would be on a GPU: an index that nobody moved, a number that the host reads while launches are recorded. Here
torch's operations refuse what CUDA's refuse, a kernel takes tensors of the device alone, and a CUDA graph
replays what was recorded, with the numbers that it was recorded with.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

from pcsparse.kernels import reference
from tests import emulation
from tests.mock_cuda import tensors, torch_cuda
from tests.mock_cuda.graphs import noted, on_device
from tests.mock_cuda.library import library

DEVICE = tensors.DEVICE


class Twins:
    """The kernels of the device, by their twins."""

    TABLES = True

    def __getattr__(self, name: str) -> Callable[..., Any]:
        twin = getattr(reference, name)

        def plain(*args: Any, **options: Any) -> Any:
            with _disable_current_modes():
                return twin(*args, **options)

        def launched(*args: Any, **options: Any) -> Any:
            tensors.refuse_hosts(name, (args, options))
            return tensors.mocked(noted(plain, tensors.held(args), tensors.held(options), there=True))

        return launched


@contextmanager
def mock_cuda(*, twins: bool = False) -> Iterator[torch.device]:
    """Have the device: its kernels are emulated.

    Before the first backward pass of a process, as autograd starts a thread for each device then.

    Args:
        twins: the kernels' twins in plain torch take their place, which are quicker than what emulates them.
    """
    emulation.gpu_kernels()
    # whose interpreter is none of the package's concern where no device is mocked
    from triton.runtime.interpreter import GridExecutor

    from pcsparse.kernels import select
    from pcsparse.kernels.gpu import cuda_text
    from pcsparse.ops import operator
    from tests.kernels import cuda_shim
    from tests.kernels.triton_bfloat16 import multiply_bfloat16
    from tests.kernels.triton_index import index_by_arrays_of_one

    interpret, start, length = GridExecutor.__call__, threading.Thread.run, torch._C._len_torch_dispatch_stack

    def launch(file: str, name: str, blocks: int, threads: int, *args: Any, shared: int = 0) -> None:
        if blocks:
            on_device(name, args, partial(cuda_shim.launch, file, name, blocks, threads, shared=shared))

    def interpreted(kernel: Any, *args: Any, **options: Any) -> None:
        on_device(kernel.fn.__name__, args, partial(interpret, kernel, **options))

    def run_with_device(thread: threading.Thread) -> None:
        with tensors.Factories():
            start(thread)

    with ExitStack() as stack:
        monkeypatch = stack.enter_context(pytest.MonkeyPatch.context())
        multiply_bfloat16(monkeypatch)
        index_by_arrays_of_one(monkeypatch)
        for owner, name, value in (
            (cuda_text, "launch", launch),
            (GridExecutor, "__call__", interpreted),
            (threading.Thread, "run", run_with_device),
            # neither a tracer nor a subclass that the package does not know
            (torch._C, "_len_torch_dispatch_stack", lambda: max(length() - 1, 0)),
            (operator, "_TENSORS", operator._TENSORS | {tensors.MockTensor}),
        ):
            stack.enter_context(patch.object(owner, name, value))
        if twins:
            load, ours = select._load, Twins()
            patched = patch.object(select, "_load", lambda kind: ours if kind == DEVICE.type else load(kind))
            stack.enter_context(patched)
        stack.enter_context(torch_cuda.stand_ins())
        library().mock_cuda(1)
        stack.callback(library().mock_cuda, 0)
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        stack.enter_context(tensors.Factories())
        yield DEVICE
