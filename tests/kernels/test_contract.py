"""Every backend has the functions of the contract, with the same signatures, and no others."""

import inspect

import pytest
import torch

from pcsparse.errors import DeviceError, UnsupportedError
from pcsparse.kernels import cpu, gpu_libraries, reference
from pcsparse.kernels.protocol import Backend
from pcsparse.kernels.select import backend_of
from tests.emulation import gpu_kernels
from tests.kernels import (
    test_batch_norm,
    test_eie,
    test_eie_rows,
    test_fetch_on_demand,
    test_gather,
    test_implicit_gemm,
    test_importance,
    test_keys,
    test_levels,
    test_match,
    test_neighbors,
    test_output_stationary,
    test_rows,
    test_segment,
    test_tables,
    test_two_four,
    test_weight_gradient,
)

CONTRACT = {name: member for name, member in vars(Backend).items() if inspect.isfunction(member)}
CONTRACT = {name: member for name, member in CONTRACT.items() if not name.startswith("_")}
GPU = gpu_kernels()
BACKENDS = (reference, cpu, GPU)
# the type checker verifies these two lines, the loop below the rest
_REFERENCE: Backend = reference
_CPU: Backend = cpu


def _parameters(function, *, method: bool) -> list[tuple]:
    parameters = list(inspect.signature(function).parameters.values())[1 if method else 0 :]
    return [(p.name, p.kind, p.default, p.annotation) for p in parameters]


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__)
@pytest.mark.parametrize("name", CONTRACT)
def test_backends_have_the_signatures_of_the_contract(backend, name):
    function, contract = getattr(backend, name), CONTRACT[name]

    assert _parameters(function, method=False) == _parameters(contract, method=True)
    assert inspect.signature(function).return_annotation == inspect.signature(contract).return_annotation


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda module: module.__name__)
def test_backends_have_nothing_beyond_the_contract(backend):
    public = {name for name in vars(backend) if inspect.isfunction(getattr(backend, name))}

    assert len(CONTRACT) >= 11
    # it looks for its libraries before all else
    assert public - {"check_libraries"} == set(CONTRACT)


def test_every_kernel_is_compared_with_its_twin():
    modules = (
        test_batch_norm, test_eie, test_eie_rows, test_importance, test_keys, test_levels, test_match,
        test_neighbors, test_output_stationary, test_rows, test_segment, test_two_four,
        test_weight_gradient, test_gather, test_tables, test_implicit_gemm, test_fetch_on_demand,
    )  # fmt: skip
    tests = {name for module in modules for name in vars(module) if name.startswith("test_")}

    missing = [name for name in CONTRACT if f"test_{name}_matches_twin" not in tests]
    assert not missing
    untested = [name for name in CONTRACT if f"test_twin_of_{name}" not in tests]
    assert not untested


def test_backend_of_picks_by_device():
    class OnCuda:
        device = torch.device("cuda")

    assert backend_of(torch.zeros(1), torch.zeros(2)) is cpu
    assert backend_of(OnCuda()) is GPU  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="got cpu, meta"):
        backend_of(torch.zeros(1), torch.zeros(1, device="meta"))
    with pytest.raises(DeviceError, match="no kernels for device type 'meta'"):
        backend_of(torch.zeros(1, device="meta"))
    with pytest.raises(DeviceError, match="none"):
        backend_of()


def test_a_device_of_a_kernel_test_is_the_one_it_says(device, request):
    chosen = backend_of(torch.zeros(1, device=device))
    assert (chosen is cpu) == (request.node.callspec.id == "cpu")
    assert chosen.__name__.endswith("cpu" if chosen is cpu else "gpu")


@pytest.mark.parametrize(("cuda", "built"), [("13.0", "for CUDA 13.0"), (None, "without CUDA")])
@pytest.mark.parametrize("missing", ["cupy", "triton"])
def test_a_missing_library_of_the_gpu_names_the_extra_that_brings_it(monkeypatch, missing, cuda, built):
    found, hint = gpu_libraries.find_spec, r"pcsparse\[gpu13\].*pcsparse\[gpu12\]"
    monkeypatch.setattr(gpu_libraries, "find_spec", lambda name: None if name == missing else found(name))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(
        UnsupportedError, match=rf"need {missing}, which is not installed; .*{hint}.*torch.* {built}"
    ):
        gpu_libraries.check_libraries()
