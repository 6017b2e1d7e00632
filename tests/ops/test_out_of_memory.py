"""Lack of memory names the sizes and what to lower, and leaves a process that can go on."""

import gc
import weakref
from contextlib import suppress

import pytest
import torch

from pcsparse import SparseTensor, cat, collate, nn
from pcsparse.coords import cache as cache_module
from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kept_outputs import kept_outputs
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.plan import DATAFLOWS
from pcsparse.errors import OutOfMemoryError, PcsparseError
from pcsparse.lack_of_memory import lacks_memory
from pcsparse.ops import partial_conv, partial_sparse_conv, sparse_conv
from tests.clouds import UNSORTED

N = len(UNSORTED.coords)
SAID = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture
def full(monkeypatch):
    """Lets a pass of the dataflow fail that all these convolutions take, with a buffer half made."""
    ghosts: list[weakref.ref] = []

    def fail_in(name: str) -> list[weakref.ref]:
        def fail(*_):
            buffer = torch.zeros(10)
            ghosts.append(weakref.ref(buffer))
            raise torch.OutOfMemoryError(f"{SAID}\nmore of it")

        monkeypatch.setattr(type(DATAFLOWS["output_stationary"]), name, fail)
        return ghosts

    return fail_in


def _operands(rng, c_out: int = 4):
    kmap = CoordCache().kernel_map(UNSORTED.coords, UNSORTED.coords, Relation.of(3))
    feats = torch.randn(N, 3, generator=rng, requires_grad=True)
    return feats, torch.randn(27, 3, c_out, generator=rng, requires_grad=True), kmap


SIZES = f"of a convolution of {N} rows of 3 float32 channels \\(0 MiB\\) to {N} rows of 4 .* at 27 offsets"
BACK = f"of a convolution of {N} rows of 4 float32 channels \\(0 MiB\\) to {N} rows of 3 .* at 27 offsets"
LOWER = "make the batch smaller, the voxels larger or the layers narrower, or compute in 16 bits"


@pytest.mark.parametrize("inference", [False, True], ids=["operator", "inference"])
def test_a_forward_pass_names_its_sizes(rng, full, inference):
    feats, weight, kmap = _operands(rng)
    full("forward")
    with torch.set_grad_enabled(not inference), pytest.raises(OutOfMemoryError, match=SIZES) as error:
        sparse_conv(feats, weight, kmap)
    assert str(error.value).startswith("no memory for the forward pass of")
    assert LOWER in str(error.value)
    assert str(error.value).endswith(f"({SAID})")


@pytest.mark.parametrize(("name", "text"), [("grad_feats", f"the input gradient {BACK}"),
                                            ("grad_weight", f"the weight gradient {SIZES}")])  # fmt: skip
def test_a_backward_pass_names_its_sizes(rng, full, name, text):
    feats, weight, kmap = _operands(rng)
    out = sparse_conv(feats, weight, kmap)
    full(name)
    with pytest.raises(OutOfMemoryError, match=f"no memory for {text}"):
        out.sum().backward()


def test_a_convolution_of_some_rows_names_its_sizes_too(rng, full):
    feats, weight, kmap = _operands(rng, 3)
    out = partial_sparse_conv(feats, weight, kmap, torch.arange(N) % 2 == 0)
    for name, run in (
        ("grad_weight", lambda: out.sum().backward(retain_graph=True)),
        ("grad_feats", lambda: out.sum().backward()),
        ("forward", lambda: partial_sparse_conv(feats, weight, kmap, torch.arange(N) % 2 == 0)),
        ("forward", lambda: partial_sparse_conv(feats.detach(), weight.detach(), kmap, torch.arange(N) > 3)),
    ):
        full(name)
        with pytest.raises(OutOfMemoryError, match=f"{N} rows of 3 float32 channels"):
            run()


@pytest.mark.parametrize(("place", "name"), [(torch, "where"), (torch.Tensor, "masked_fill"),
                                             (partial_conv, "bias_grad")])  # fmt: skip
def test_what_comes_with_the_gradients_of_some_rows_names_its_sizes_too(rng, monkeypatch, place, name):
    def fail(*_):
        raise torch.OutOfMemoryError(SAID)

    feats, weight, kmap = _operands(rng, 3)
    bias, mask = torch.zeros(3, requires_grad=True), torch.arange(N) % 2 == 0
    out = partial_sparse_conv(feats.detach(), weight, kmap, mask, bias=bias, relu=True)
    monkeypatch.setattr(place, name, fail)
    said = f"^no memory for the gradients of a convolution to {N} rows of 3 float32 channels .*; {LOWER} "
    with pytest.raises(OutOfMemoryError, match=said):
        out.sum().backward()


def test_it_is_an_error_of_torch_and_of_ours_and_keeps_no_buffer(rng, full):
    feats, weight, kmap = _operands(rng)
    ghosts = full("forward")
    with pytest.raises(torch.OutOfMemoryError) as error:
        sparse_conv(feats, weight, kmap)
    assert isinstance(error.value, PcsparseError)
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)
    gc.collect()
    # though the error is still at hand
    assert ghosts[0]() is None


def test_the_process_goes_on(rng, full, monkeypatch):
    feats, weight, kmap = _operands(rng)
    wanted = sparse_conv(feats, weight, kmap)
    full("forward")
    with pytest.raises(OutOfMemoryError):
        sparse_conv(feats, weight, kmap)
    monkeypatch.undo()
    assert torch.equal(sparse_conv(feats, weight, kmap), wanted)


def test_a_map_names_its_voxels(monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError(SAID)

    x = SparseTensor(torch.zeros(N, 3), UNSORTED.coords)
    monkeypatch.setattr(cache_module, "build_kernel_map", fail)
    with pytest.raises(OutOfMemoryError, match=f"the kernel map of 27 offsets between {N} and {N} voxels"):
        nn.SubmanifoldConv3d(3, 4)(x)
    assert len(x.cache) == 0
    monkeypatch.setattr(cache_module, "strided_levels", fail)
    with pytest.raises(
        OutOfMemoryError, match=rf"kernel \(3, 3, 3\) with stride \(2, .* makes of {N} voxels"
    ):
        nn.SparseConv3d(3, 4, 3, 2)(x)
    monkeypatch.setattr(cache_module, "expanded_level", fail)
    with pytest.raises(OutOfMemoryError, match="the level that a kernel"):
        nn.SparseConvTranspose3d(3, 4)(SparseTensor(torch.zeros(N, 3), UNSORTED.coords, stride=2))


def test_other_errors_between_convolutions_pass_as_they_are():
    x = SparseTensor(torch.zeros(N, 3), UNSORTED.coords)
    for run in (lambda: x + torch.zeros(5, 7), lambda: x.to("nowhere")):
        with pytest.raises(RuntimeError) as error:
            run()
        assert not isinstance(error.value, OutOfMemoryError)


@pytest.mark.parametrize("lacking", [True, False])
def test_an_error_keeps_no_features_once_it_is_forgotten(monkeypatch, lacking):
    def fail(*_):
        raise torch.OutOfMemoryError(SAID) if lacking else RuntimeError("something else")

    feats = torch.zeros(N, 3)
    ghost = weakref.ref(feats)
    monkeypatch.setattr(torch, "add", fail)
    gc.disable()
    try:
        with suppress(RuntimeError):
            _add_to_itself(feats)
        del feats
        # who tries again with less does not wait for the collector
        assert ghost() is None
    finally:
        gc.enable()


def _add_to_itself(feats: torch.Tensor) -> None:
    x = SparseTensor(feats, UNSORTED.coords)
    x + x


def test_other_errors_pass_as_they_are(rng, monkeypatch):
    feats, weight, kmap = _operands(rng)

    def fail(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(type(DATAFLOWS["output_stationary"]), "forward", fail)
    with pytest.raises(RuntimeError, match="something else"):
        sparse_conv(feats, weight, kmap)


ROWS = f"{N} rows of 3 float32 channels \\(0 MiB\\)"
# between convolutions: what fails, what runs, what is said
BETWEEN = {
    "sum": ((torch, "add"), lambda x: x + x, f"arithmetic on {ROWS}"),
    "minus": ((torch.Tensor, "__neg__"), lambda x: -x, f"arithmetic on {ROWS}"),
    "quotient": ((torch.Tensor, "__rtruediv__"), lambda x: 1 / x, f"arithmetic on {ROWS}"),
    "activation": ((torch.nn.functional, "relu"), lambda x: nn.ReLU()(x), f"a function of {ROWS}"),
    "difference": ((torch.Tensor, "__rsub__"), lambda x: 1 - x, f"arithmetic on {ROWS}"),
    "channels": ((torch, "cat"), lambda x: cat([x, x]), f"joining the channels of {ROWS} and {ROWS}"),
    "batch": ((torch, "cat"), lambda x: collate([x, x]), f"a batch of {ROWS} and {ROWS}"),
    "copy": ((torch.Tensor, "to"), lambda x: x.half(), f"a copy of {ROWS}"),
    "grid": ((torch.Tensor, "new_zeros"), lambda x: x.dense(), f"a dense grid of .* cells for {ROWS}"),
    "map": ((KernelMap, "keep_outputs"), lambda x: _kept(x), f"the map of 27 offsets to some of {N} voxels"),
}


def _kept(x: SparseTensor) -> KernelMap:
    kmap = x.cache.kernel_map(x.coords, x.coords, Relation.of(3))
    return kept_outputs(kmap, torch.ones(N, dtype=torch.bool))


@pytest.mark.parametrize(("place", "run", "said"), BETWEEN.values(), ids=BETWEEN.keys())
def test_what_happens_between_convolutions_names_its_sizes(monkeypatch, place, run, said):
    def fail(*_, **__):
        raise torch.OutOfMemoryError(SAID)

    x = SparseTensor(torch.zeros(N, 3), UNSORTED.coords)
    monkeypatch.setattr(*place, fail)
    with pytest.raises(OutOfMemoryError, match=f"^(layer .*: )?no memory for {said}; {LOWER}"):
        run(x)


@pytest.mark.parametrize("partial", [False, True])
def test_a_cast_of_autocast_names_its_sizes(rng, monkeypatch, partial):
    def fail(*_):
        raise torch.OutOfMemoryError(SAID)

    feats, weight, kmap = _operands(rng, 3)
    more = (torch.arange(N) % 2 == 0,) if partial else ()
    run = partial_sparse_conv if partial else sparse_conv
    monkeypatch.setattr(torch.Tensor, "to", fail)
    with torch.autocast("cpu"), pytest.raises(OutOfMemoryError, match=f"a copy in bfloat16 of {ROWS}"):
        run(feats, weight, kmap, *more)


@pytest.mark.not_mocked("memory of its own")
@torch.no_grad()
def test_a_device_that_is_full_can_be_used_again(rng, device):
    if device.type != "cuda":
        pytest.skip("a CPU has no limit of its own to lower; run with --device cuda")
    x = SparseTensor(torch.randn(N, 64, generator=rng), UNSORTED.coords).to(device)
    layer, n = nn.SubmanifoldConv3d(64, 64).to(device), 1 << 22
    wanted = layer(x).feats
    kmap = KernelMap(Relation.of(1), n, n, table=torch.arange(n, dtype=torch.int32, device=device)[None])
    # rows that all are one, so that the features take no memory, and their sums a gigabyte
    feats = torch.randn(1, 64, generator=rng).to(device).expand(n, 64)
    weight = torch.randn(1, 64, 64, generator=rng).to(device)
    used, whole = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(used / whole)
    try:
        with pytest.raises(OutOfMemoryError, match=f"{n} rows of 64 float32 channels"):
            sparse_conv(feats, weight, kmap)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.equal(layer(x).feats, wanted)


FULL_DEVICE = {
    "torch": lambda: torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be"),
    "triton": lambda: RuntimeError("Triton Error [CUDA]: out of memory"),
    "driver": lambda: RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
    "runtime": lambda: RuntimeError("cudaErrorMemoryAllocation: out of memory"),
    "compiler": lambda: RuntimeError("NVRTC_ERROR_OUT_OF_MEMORY (1)"),
    "cublas": lambda: RuntimeError(
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    ),
    "cudnn": lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}
LACKS = FULL_DEVICE | {
    "numpy": lambda: MemoryError("Unable to allocate 74.5 GiB for an array\nmore of it"),
    "numba": MemoryError,
    "torch-cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
    ),
}


@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS.keys())
@pytest.mark.parametrize("name", ["forward", "grad_feats", "grad_weight"])
def test_a_pass_without_memory_names_its_sizes_whoever_says_so(rng, monkeypatch, name, error):
    def fail(*_):
        raise error()

    feats, weight, kmap = _operands(rng)
    out = sparse_conv(feats, weight, kmap)
    monkeypatch.setattr(type(DATAFLOWS["output_stationary"]), name, fail)
    run = out.sum().backward if "grad" in name else lambda: sparse_conv(feats, weight, kmap)
    with pytest.raises(OutOfMemoryError, match=f"{N} rows of") as raised:
        run()
    assert LOWER in str(raised.value)
    said = str(error()).partition("\n")[0] or "MemoryError"
    assert str(raised.value).endswith(f"({said})")


def test_torch_says_what_is_looked_for():
    # more than any address space has
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert lacks_memory(error.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: invalid argument"),
        RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448."),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        ValueError("CUDA error: out of memory"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_what_only_sounds_like_it_is_another_error(rng, monkeypatch, error):
    def fail(*_):
        raise error

    assert not lacks_memory(error)
    feats, weight, kmap = _operands(rng)
    monkeypatch.setattr(type(DATAFLOWS["output_stationary"]), "forward", fail)
    with pytest.raises(type(error)) as raised:
        sparse_conv(feats, weight, kmap)
    assert raised.value is error


@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS.keys())
def test_a_map_without_memory_names_its_voxels_whoever_says_so(monkeypatch, error):
    def fail(*_, **__):
        raise error()

    monkeypatch.setattr(cache_module, "build_kernel_map", fail)
    with pytest.raises(OutOfMemoryError, match=f"the kernel map of 27 offsets between {N} and {N} voxels"):
        CoordCache().kernel_map(UNSORTED.coords, UNSORTED.coords, Relation.of(3))
