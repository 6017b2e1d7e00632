"""The libraries of the GPU kernels, looked for before any of them is imported."""

from importlib.util import find_spec

import torch

from pcsparse.errors import UnsupportedError


def check_libraries() -> None:
    """Raise where the GPU kernels could not run.

    Raises:
        UnsupportedError: cupy or triton is missing; the text names the extra that brings both.
    """
    for name in ("cupy", "triton"):
        if find_spec(name) is None:
            cuda = torch.version.cuda
            raise UnsupportedError(
                f"the GPU kernels need {name}, which is not installed; pip install 'pcsparse[gpu13]' for "
                "CUDA 13, or 'pcsparse[gpu12]' for CUDA 12 "
                f"(this torch is built {f'for CUDA {cuda}' if cuda else 'without CUDA'})"
            )
