"""CUDA text: launched as it says, and run honestly on a host."""

import ctypes
import re
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch

from pcsparse.kernels import reference
from tests.emulation import gpu_kernels

gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import cuda_text  # noqa: E402
from tests.kernels import cuda_shim  # noqa: E402

REVERSE = """
extern "C" __global__ void reverse(const int *in, int *out, long long n) {
    __shared__ int tile[64];
    int t = threadIdx.x;
    tile[t] = in[blockIdx.x * 64 + t];
    SYNC
    out[blockIdx.x * 64 + t] = tile[63 - t];
}
extern "C" __global__ void warp_sums(const long long *in, long long *out) {
    long long v = in[blockIdx.x * blockDim.x + threadIdx.x];
    for (int step = 16; step > 0; step >>= 1) v += __shfl_xor_sync(0xffffffffu, v, step);
    unsigned odd = __ballot_sync(0xffffffffu, threadIdx.x & 1);
    v += __reduce_max_sync(0xffffffffu, threadIdx.x % 32 ^ 3) + __reduce_add_sync(0xffffffffu, 2u);
    if (threadIdx.x % 32 == 0) out[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = v + odd;
}
extern "C" __global__ void fresh_shared(int *out) {
    __shared__ int left;
    extern __shared__ int more[];
    if (threadIdx.x > 0) return;
    out[2 * blockIdx.x] = left, out[2 * blockIdx.x + 1] = more[3];
    left = more[3] = 7;
}
extern "C" __global__ void beyond(int *out, long long place) { out[place] = 1; }
extern "C" __global__ void stuck(int *out) {
    if (threadIdx.x < 32) __syncthreads();
    else if (threadIdx.x < 63) __syncwarp();
    else __syncthreads();
}
"""


def test_the_shim_runs_threads_in_step():
    numbers = torch.arange(192, dtype=torch.int32)
    out = torch.empty_like(numbers)
    cuda_shim.run_text(REVERSE.replace("SYNC", "__syncthreads();"), "reverse", 3, 64, numbers, out, 0)
    assert torch.equal(out, numbers.view(3, 64).flip(1).reshape(-1))


def test_the_shim_shows_a_missing_synchronisation():
    numbers = torch.arange(64, dtype=torch.int32)
    out = torch.empty_like(numbers)
    cuda_shim.run_text(REVERSE.replace("SYNC", ""), "reverse", 1, 64, numbers, out, 0)
    assert not torch.equal(out, numbers.flip(0))


def test_the_shim_has_warps():
    numbers = torch.arange(128) ** 3
    out = torch.empty(4, dtype=torch.int64)
    cuda_shim.run_text(REVERSE.replace("SYNC", ""), "warp_sums", 2, 64, numbers, out)
    assert torch.equal(out, numbers.view(4, 32).sum(1) + 0xAAAAAAAA + 31 + 64)


def test_the_shim_poisons_shared_memory_for_every_block():
    out = torch.zeros(6, dtype=torch.int32)
    cuda_shim.run_text(REVERSE.replace("SYNC", ""), "fresh_shared", 3, 32, out, shared=64)
    assert out.tolist() == [-0x40404041] * 6


@pytest.mark.parametrize(("place", "side"), [(-1, "before"), (10, "after"), (900, "after")])
def test_the_shim_finds_a_write_beside_a_tensor(place, side):
    out = torch.zeros(10, dtype=torch.int32)
    with pytest.raises(AssertionError, match=f"kernel beyond wrote {side} a tensor of 40 bytes"):
        cuda_shim.run_text(REVERSE.replace("SYNC", ""), "beyond", 1, 1, out, place)


def test_the_shim_finds_threads_that_wait_for_each_other():
    out = torch.zeros(1, dtype=torch.int32)
    for _ in range(2):
        with pytest.raises(AssertionError, match="kernel stuck: threads of a block that wait"):
            cuda_shim.run_text(REVERSE.replace("SYNC", ""), "stuck", 1, 96, out)


FAULTS = """
extern "C" __global__ void misaligned(int4 *out) { out[0].x = 1; }
extern "C" __global__ void shifted(int *out, long long by) { out[0] = 1 << (int)by; }
extern "C" __global__ void divided(int *out, long long by) { out[0] = 1 / (int)by; }
extern "C" __global__ void indexed(int *out, long long at) { int few[3] = {1, 2, 3}; out[0] = few[at]; }
"""


@pytest.mark.parametrize(
    ("name", "number", "fault"),
    [
        ("misaligned", 0, "no multiple"),
        ("shifted", 32, "shift"),
        ("divided", 0, "zero"),
        ("indexed", 3, "beyond"),
    ],
)
def test_the_shim_finds_what_a_host_would_forgive(name, number, fault):
    out = torch.zeros(10, dtype=torch.int32)
    with pytest.raises(AssertionError, match=f"kernel {name}: .*{fault}"):
        cuda_shim.run_text(FAULTS, name, 1, 1, out[1:], number)


def test_tensors_that_share_memory_share_it_in_the_shim():
    numbers = torch.arange(128, dtype=torch.int32)
    cuda_shim.run_text(
        REVERSE.replace("SYNC", "__syncthreads();"), "reverse", 1, 64, numbers[64:], numbers[:64], 0
    )
    assert torch.equal(numbers, torch.cat([torch.arange(127, 63, -1), torch.arange(64, 128)]).int())


class Kernel:
    ptr = 4711


@pytest.fixture
def launched(monkeypatch) -> list:
    """What the driver was given: which kernel, sizes, stream and as many words as the most arguments."""
    calls = []

    def driver(kernel, *given):
        *sizes, stream, places, extra = given
        addresses = (ctypes.c_void_p * cuda_text.MOST_ARGUMENTS).from_address(places)
        words = [ctypes.c_longlong.from_address(address).value for address in addresses]
        calls.append((kernel, sizes, stream, words, extra))

    monkeypatch.setattr(cuda_text, "_function", lambda *which: Kernel)
    monkeypatch.setattr(cuda_text, "_driver", lambda: driver)
    monkeypatch.setattr(cuda_text, "_make_current", lambda device: None)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: -1, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 77, raising=False)
    return calls


def test_a_launch_passes_addresses_and_numbers(launched):
    numbers = torch.arange(10)
    cuda_text.launch("a.cu", "f", 3, 64, numbers[2:], True, -5, shared=16)
    cuda_text.launch("a.cu", "f", 0, 64, numbers)

    ((kernel, sizes, stream, words, extra),) = launched
    assert (kernel, sizes, stream, extra) == (4711, [3, 1, 1, 64, 1, 1, 16], 77, 0)
    assert words[:3] == [numbers.data_ptr() + 16, 1, -5]


def test_threads_that_launch_do_not_share_their_arguments(launched):
    numbers = torch.arange(4)
    places = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: places.append(cuda_text._ARGUMENTS.address))
        thread.start()
        thread.join()
    cuda_text.launch("a.cu", "f", 1, 1, numbers, 3)
    assert cuda_text._ARGUMENTS.address not in places


def test_a_thread_begins_once_with_each_device_before_it_launches(launched, monkeypatch):
    begun = []
    monkeypatch.setattr(cuda_text, "_make_current", lambda device: begun.append((device, len(launched))))

    def work() -> None:
        for device in (0, 1, 0, 1, 1):
            cuda_text._launch_here(device, "a.cu", "f", 1, 1, [device], 0)

    for thread in range(2):
        with ThreadPoolExecutor(1) as fresh:
            fresh.submit(work).result()
        assert begun == [(0, 0), (1, 1), (0, 5), (1, 6)][: 2 * thread + 2]
    assert [words[0] for *_, words, _ in launched] == [0, 1, 0, 1, 1] * 2


def test_a_fresh_thread_has_its_device_before_a_kernel_is_loaded(monkeypatch):
    context, done = threading.local(), []

    class Module:
        def get_function(self, name):
            assert getattr(context, "device", None) == 1, "CUDA_ERROR_INVALID_CONTEXT"
            done.append(name)
            return SimpleNamespace(kernel=Kernel)

    monkeypatch.setattr(cuda_text, "_make_current", lambda device: setattr(context, "device", device))
    monkeypatch.setattr(cuda_text, "_module", lambda file: Module())
    monkeypatch.setattr(cuda_text, "_driver", lambda: lambda function, *given: done.append(function))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 77, raising=False)
    # of no kernel that others know
    with ThreadPoolExecutor(1) as fresh:
        fresh.submit(cuda_text._launch_here, 1, "none.cu", "first_of_a_thread", 1, 1, [1], 0).result()
    assert done == ["first_of_a_thread", 4711]


def test_a_fresh_thread_may_launch_before_it_does_anything_else(gpu_or_emulated):
    rows = torch.tensor([[0, 1, -2, 3], [5, -6, 7, 8]], dtype=torch.int32)
    keys = reference.pack_rows(rows)[0].to(gpu_or_emulated)
    out = torch.empty_like(rows, device=gpu_or_emulated)
    with ThreadPoolExecutor(1) as fresh:
        fresh.submit(cuda_text.launch, "keys.cu", "unpack_keys", 1, 32, keys, out, 2).result()
        # what the thread has launched is before this, on the same stream
        assert torch.equal(out.cpu(), rows)


def test_a_number_beyond_64_bits_is_refused(launched):
    numbers = torch.arange(4)
    for number in ((1 << 63) - 1, -(1 << 63)):
        cuda_text.launch("a.cu", "f", 1, 1, numbers, number)
        assert launched.pop()[3][1] == number
    with pytest.raises(struct.error):
        cuda_text.launch("a.cu", "f", 1, 1, numbers, 1 << 63)


def test_text_knows_the_layout_of_a_key():
    text = cuda_text.source("keys.cu")
    assert "#define SHIFT_X 34LL\n" in text
    assert "#define BIAS_Z 32768LL\n" in text
    assert text.index("#line 1 ") < text.index("pack_rows")


# nothing is launched, but only `make test-gpu` is sure to find cupy
@pytest.mark.gpu
def test_cupy_has_the_drivers_entry():
    pytest.importorskip("cupy.cuda.function", reason="cupy is not installed here")
    from cupy.cuda.function import Function

    order = re.findall(r"\w+ (\w+)[,)]", cuda_text._driver().__doc__ or "")
    assert order[0] == "f"
    assert order[-4:] == ["shared_mem_bytes", "stream", "kernel_params", "extra"]
    assert len(order) == 11
    assert hasattr(Function, "ptr")


@pytest.mark.gpu
def test_cupy_has_a_call_that_makes_a_context_current(monkeypatch):
    runtime = pytest.importorskip("cupy.cuda", reason="cupy is not installed here").runtime
    chosen = []
    monkeypatch.setattr(runtime, "setDevice", chosen.append)
    cuda_text._make_current(3)
    assert chosen == [3]


@pytest.mark.parametrize("file", ["keys.cu", "levels.cu"])
def test_counters_are_0_for_everybody_before_a_letter_wakes_the_host(file):
    text = cuda_text.source(file)
    (letter,) = re.finditer(r"\*\(volatile u64 \*\)\(?letter", text)
    reset = [found.end() for found in re.finditer(r"atomicExch\(counters( \+ SLOTS)?, 0u\);", text)]
    assert len(reset) == 1
    assert reset[0] < text.rindex("__threadfence_system();", 0, letter.start()) < letter.start()
