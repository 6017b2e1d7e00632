"""The libraries of the GPU kernels, looked for before any of them is imported."""

from importlib.util import find_spec

from pcsparse.errors import UnsupportedError

_HINTS = {
    "cupy": "pip install 'pcsparse[gpu13]' for CUDA 13, or 'pcsparse[gpu12]' for CUDA 12",
    "triton": "it comes with the CUDA builds of torch: install one of those, or pip install triton",
}


def check_libraries() -> None:
    """Raise where the GPU kernels could not run.

    Raises:
        UnsupportedError: cupy or triton is missing; the text says how to install it.
    """
    for name, hint in _HINTS.items():
        if find_spec(name) is None:
            raise UnsupportedError(f"the GPU kernels need {name}, which is not installed; {hint}")
