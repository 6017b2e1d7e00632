"""How kernels are launched, without a GPU: which form is called, and with what."""

import ctypes
import struct
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from pcsparse.errors import DeviceError
from tests.emulation import gpu_kernels


class OnCuda:
    """As much of a tensor as a launch looks at."""

    is_cuda = True

    def __init__(self, address: int, dtype: torch.dtype = torch.float16, device: int = 0) -> None:
        self.address, self.dtype, self.device = address, dtype, device

    def data_ptr(self) -> int:
        return self.address

    def get_device(self) -> int:
        return self.device


def _assembly(*bits: int) -> str:
    return _entry(*(f".u{n} k_param_{i}" for i, n in enumerate(bits)))


def _entry(*arguments: str) -> str:
    listed = ",\n".join(f"\t.param {argument}" for argument in arguments)
    return f".visible .entry k(\n{listed}\n)\n.reqntid 256\n{{ ld.param.b64 %rd1, [k_param_0]; }}"


class Kernel:
    """A jitted function that notes how it was started, and compiles to one that does, too.

    Attributes:
        bound: calls through Triton's binder.
        direct: those of Triton's launcher.
        driver: those of the driver: its arguments, and the words of the kernel's.
    """

    def __init__(self) -> None:
        self.bound, self.direct, self.driver = [], [], []
        self.facts = {
            "num_warps": 8, "num_ctas": 1, "shared": 4096, "launch_pdl": False,
            "launch_cooperative_grid": False, "global_scratch_size": 0, "profile_scratch_size": 0,
        }  # fmt: skip
        # two addresses, two numbers, and Triton's two of scratch memory
        self.assembly = _assembly(64, 64, 32, 32, 64, 64)

    def launch_kernel(self, *given):
        words = (ctypes.c_void_p * 32).from_address(given[-2])
        bits = [32 if n in (2, 3) else 64 for n in range(6)]
        kinds = {64: ctypes.c_longlong, 32: ctypes.c_int}
        arguments = [kinds[n].from_address(place).value for n, place in zip(bits, words, strict=False)]
        self.driver.append((given[:-2], arguments))

    def __getitem__(self, grid):
        def start(*arguments, **options):
            self.bound.append((grid, arguments, options))
            return SimpleNamespace(
                run=lambda *given: self.direct.append(given),
                function=1234,
                packed_metadata="packed",
                metadata=SimpleNamespace(**self.facts),
                asm={"ptx": self.assembly},
            )

        return start


@pytest.fixture
def kernel(monkeypatch):
    gpu_kernels()
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 77 + device, raising=False)
    from pcsparse.kernels.gpu import cuda_text

    kernel = Kernel()
    monkeypatch.setattr(cuda_text, "_driver", lambda: kernel.launch_kernel)
    monkeypatch.setattr(cuda_text, "_make_current", lambda device: None)
    return kernel


def _launcher(kernel):
    from pcsparse.kernels.gpu.launch import Launcher

    return Launcher(kernel)


def test_a_form_is_compiled_once_and_then_the_driver_is_called_with_addresses(kernel):
    launcher, tensors = _launcher(kernel), (OnCuda(256), None, OnCuda(512, torch.int32))
    launcher((3, 2, 1), tensors, (7, 8), (64, "ieee"), 8, 5, absent=2)
    options = {"num_warps": 8, "num_stages": 5, "enable_fp_fusion": True}
    assert kernel.bound == [((3, 2, 1), (*tensors, None, None, 7, 8, 64, "ieee"), options)]
    assert kernel.driver == kernel.direct == []

    from pcsparse.kernels.gpu import cuda_text

    # a launch before it had more words
    cuda_text._ARGUMENTS.words[:] = [7] * 32
    others = (OnCuda(1 << 40), None, OnCuda(2048, torch.int32))
    launcher((4, 1, 1), others, (-9, 2**31 - 1), (64, "ieee"), 8, 5, absent=2)
    assert len(kernel.bound) == 1
    assert kernel.direct == []
    # eight warps; no scratch memory
    words = [1 << 40, 2048, -9, 2**31 - 1, 0, 0]
    assert kernel.driver == [((1234, 4, 1, 1, 256, 1, 1, 4096, 77), words)]

    with pytest.raises(struct.error):
        launcher((4, 1, 1), others, (0, 2**31), (64, "ieee"), 8, 5, absent=2)


@pytest.mark.parametrize(
    "change",
    [
        {"assembly": _assembly(64, 64, 32, 64, 64, 64)},
        {"assembly": _assembly(64, 64, 32)},
        {"assembly": _assembly(64, 64, 32, 32, 64, 64, 64)},
        {"assembly": _entry(".u64 a", ".u64 b", ".u32 c", ".u32 d", ".align 64 .b8 e[128]", ".u64 f")},
        {"assembly": _entry(".u64 a", ".u64 b", ".align 8 .b8 c[16]", ".u32 d", ".u32 e", ".u64 f")},
        {"assembly": _entry(".u64 a", ".u64 b", ".u32 c", ".f32 d", ".u64 e", ".u64 f")},
        {"assembly": _entry(".u64 a", ".u64 b", ".u32 c", ".b32 d[2]", ".u64 e", ".u64 f")},
        {"assembly": ""},
        {"facts": {"shared": 228 * 1024 + 1}},
        {"facts": {"num_ctas": 2}},
        {"facts": {"launch_pdl": True}},
        {"facts": {"launch_cooperative_grid": True}},
        {"facts": {"global_scratch_size": 8}},
        {"facts": {"profile_scratch_size": 8}},
    ],
    ids=str,
)
def test_a_kernel_that_takes_something_else_is_left_to_triton(kernel, change):
    kernel.assembly = change.get("assembly", kernel.assembly)
    kernel.facts |= change.get("facts", {})
    launcher, tensors = _launcher(kernel), (OnCuda(256), OnCuda(512, torch.int32))
    for _ in range(2):
        launcher((4, 1, 1), tensors, (9, 1), (64, "ieee"), 8, 5, absent=1)
    assert kernel.driver == []
    assert kernel.direct == [
        (4, 1, 1, 77, 1234, "packed", None, None, None, 256, 512, None, 9, 1, 64, "ieee")
    ]


def test_an_assembly_that_says_more_of_its_addresses_is_understood(kernel):
    address = ".u64 .ptr .global .align 1"
    kernel.assembly = _entry(*(f"{address} a", f"{address} b", ".u32 c", ".b32 d", f"{address} e", ".b64 f"))
    launcher, tensors = _launcher(kernel), (OnCuda(256), OnCuda(512, torch.int32))
    for _ in range(2):
        launcher((4, 1, 1), tensors, (9, 1), (64, "ieee"), 8, 5)
    assert [words for _, words in kernel.driver] == [[256, 512, 9, 1, 0, 0]]


@pytest.mark.parametrize("grid", [(0, 1, 1), (3, 0, 1), (3, 1, 0)], ids=str)
def test_no_programs_are_not_asked_of_the_driver(kernel, grid):
    launcher, given = _launcher(kernel), ((OnCuda(256), OnCuda(512)), (9, 1), (64,))
    for programs in (grid, (3, 1, 1), grid, (3, 1, 1), grid):
        launcher(programs, *given)

    assert [call[0] for call in kernel.bound] == [(3, 1, 1)]
    assert [call[0][1:4] for call in kernel.driver] == [(3, 1, 1)]


@pytest.mark.parametrize(
    ("tensors", "constants", "warps", "stages"),
    [
        ((OnCuda(256, torch.float32), None), (64,), 8, 5),
        ((OnCuda(256), OnCuda(256)), (64,), 8, 5),
        ((OnCuda(256), None), (128,), 8, 5),
        ((OnCuda(256), None), (64,), 4, 5),
        ((OnCuda(256), None), (64,), 8, 3),
    ],
    ids=["dtype", "a tensor more", "constant", "warps", "stages"],
)
def test_another_form_is_compiled_anew(kernel, tensors, constants, warps, stages):
    launcher = _launcher(kernel)
    launcher((1, 1, 1), (OnCuda(256), None), (), (64,), 8, 5)
    launcher((1, 1, 1), tensors, (), constants, warps, stages)

    assert len(kernel.bound) == 2
    assert kernel.direct == kernel.driver == []


def test_an_address_off_the_widest_load_goes_through_triton_every_time(kernel):
    launcher, aligned, off = _launcher(kernel), (OnCuda(256), OnCuda(512)), (OnCuda(256), OnCuda(520))
    for tensors in (aligned, off, off, aligned):
        launcher((1, 1, 1), tensors, (1, 2), (64,), 8, 5)

    assert [call[1][:2] for call in kernel.bound] == [aligned, off, off]
    assert [words[:2] for _, words in kernel.driver] == [[256, 512]]


def test_stages_are_as_many_as_shared_memory_has_room_for(kernel, monkeypatch):
    # the package has a function of the module's name
    from pcsparse.kernels.gpu.implicit_gemm import fitting_stages

    def device_with(kilobytes: int) -> None:
        properties = SimpleNamespace(shared_memory_per_block_optin=kilobytes * 1024)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        fitting_stages.cache_clear()

    device_with(227)
    assert [fitting_stages(stages, 48 * 1024, 0) for stages in (2, 3, 5, 7, 9)] == [2, 3, 5, 7, 8]
    device_with(99)
    assert [fitting_stages(stages, 48 * 1024, 0) for stages in (2, 3, 5, 7)] == [2, 3, 4, 4]
    assert fitting_stages(7, 32 * 1024, 0) == 6
    fitting_stages.cache_clear()


@pytest.mark.parametrize(("major", "twice"), [(8, True), (9, False), (10, False), (12, True)])
def test_warps_that_multiply_alone_are_twice_as_many_where_registers_are_short(
    kernel, monkeypatch, major, twice
):
    from pcsparse.kernels.gpu.implicit_gemm import fitting, fitting_stages, fitting_warps

    properties = SimpleNamespace(major=major, shared_memory_per_block_optin=163 * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)

    def warps(tile_out: int, wanted: int, *, even: bool, transposed: bool) -> int:
        constants = (128, tile_out, 1, 64, 2, 8, 8, 8, True, even, transposed, False, False, False, "ieee")
        return fitting(constants, 2, wanted, 5, 0)[0]

    fitting_warps.cache_clear()
    assert warps(256, 8, even=False, transposed=True) == (16 if twice else 8)
    assert warps(128, 4, even=False, transposed=True) == (8 if twice else 4)
    # fewer sums, no question whether a channel is there, or rows of weights that are read along
    assert warps(64, 4, even=False, transposed=True) == 4
    assert warps(256, 8, even=True, transposed=True) == 8
    assert warps(256, 8, even=False, transposed=False) == 8
    fitting_warps.cache_clear()
    fitting_stages.cache_clear()


def test_a_tensor_of_another_device_is_refused(kernel):
    launcher, elsewhere = _launcher(kernel), OnCuda(512)
    launcher((1, 1, 1), (OnCuda(256), elsewhere), (), (64,))
    elsewhere.device = 1
    with pytest.raises(DeviceError, match=r"on 0 and on 1; move them to one device"):
        launcher((1, 1, 1), (OnCuda(256), elsewhere), (), (64,))
    assert kernel.direct == kernel.driver == []


def test_cuda_text_refuses_tensors_of_several_devices(monkeypatch):
    gpu_kernels()
    from pcsparse.kernels.gpu import cuda_text

    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: -1, raising=False)
    started = []
    monkeypatch.setattr(cuda_text, "_launch_here", lambda device, *given: started.append(given))
    here, elsewhere = torch.zeros(3), torch.zeros(3, device="meta")
    cuda_text.launch("tables.cu", "transpose_table", 1, 1, here, 7, here)
    assert len(started) == 1
    monkeypatch.setattr(torch.Tensor, "get_device", lambda tensor: -1 if tensor is here else 0)
    with pytest.raises(DeviceError, match="transpose_table on cpu and on meta; move them to one device"):
        cuda_text.launch("tables.cu", "transpose_table", 1, 1, here, 7, elsewhere)
    assert len(started) == 1
