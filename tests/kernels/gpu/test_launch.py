"""How kernels are launched, without a GPU: which form is called, and with what."""

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


class Kernel:
    """A jitted function that notes how it was started, and compiles to one that does, too."""

    def __init__(self) -> None:
        self.bound, self.direct = [], []

    def __getitem__(self, grid):
        def start(*arguments, **options):
            self.bound.append((grid, arguments, options))
            return SimpleNamespace(
                run=lambda *given: self.direct.append(given), function="function", packed_metadata="packed"
            )

        return start


@pytest.fixture
def kernel(monkeypatch):
    gpu_kernels()
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: 0, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 77 + device, raising=False)
    return Kernel()


def _launcher(kernel):
    from pcsparse.kernels.gpu.launch import Launcher

    return Launcher(kernel)


def test_a_form_is_compiled_once_and_then_called_with_addresses(kernel):
    launcher, tensors = _launcher(kernel), (OnCuda(256), None, OnCuda(512, torch.int32))
    launcher((3, 2, 1), tensors, (7, 8), (64, "ieee"), 8, 5)
    options = {"num_warps": 8, "num_stages": 5, "enable_fp_fusion": True}
    assert kernel.bound == [((3, 2, 1), (*tensors, 7, 8, 64, "ieee"), options)]
    assert kernel.direct == []

    others = (OnCuda(1024), None, OnCuda(2048, torch.int32))
    launcher((4, 1, 1), others, (9, 1), (64, "ieee"), 8, 5)
    assert len(kernel.bound) == 1
    assert kernel.direct == [
        (4, 1, 1, 77, "function", "packed", None, None, None, 1024, None, 2048, 9, 1, 64, "ieee")
    ]


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
    assert kernel.direct == []


def test_an_address_off_the_widest_load_goes_through_triton_every_time(kernel):
    launcher, aligned, off = _launcher(kernel), (OnCuda(256), OnCuda(512)), (OnCuda(256), OnCuda(520))
    for tensors in (aligned, off, off, aligned):
        launcher((1, 1, 1), tensors, (), (64,), 8, 5)

    assert [call[1][:2] for call in kernel.bound] == [aligned, off, off]
    assert len(kernel.direct) == 1


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


def test_a_tensor_of_another_device_is_refused(kernel):
    launcher, elsewhere = _launcher(kernel), OnCuda(512)
    launcher((1, 1, 1), (OnCuda(256), elsewhere), (), (64,))
    elsewhere.device = 1
    with pytest.raises(DeviceError, match=r"on 0 and on 1; move them to one device"):
        launcher((1, 1, 1), (OnCuda(256), elsewhere), (), (64,))
    assert kernel.direct == []


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
