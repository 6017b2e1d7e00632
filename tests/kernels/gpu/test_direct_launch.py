"""The driver's entry beside Triton's launcher on a GPU: the same bits of every kernel of the hot path."""

import ctypes
import gc
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.sparse_tensor import SparseTensor
from tests.clouds import lidar_like
from tests.emulation import gpu_kernels
from tests.kernels.gpu.test_launch import Kernel, _assembly

gpu_kernels()
from pcsparse.kernels.gpu.launch import Launcher  # noqa: E402
from tests.kernels.gpu.compared import compared_launches  # noqa: E402
from tests.kernels.gpu.offline import NARROW, WIDE, others  # noqa: E402

# of what is compiled elsewhere: ends of parts, by their number -> rows of one
_ENDS = {9: 8, 28: 64, 65: 1}


def _step(dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Loss of one training step of a small network, its gradients checked for numbers."""
    torch.manual_seed(3)
    model = MinkUNet(MinkUNetSpec.minkunet18(4, 5, 0.25)).to(device).train()
    coords = lidar_like(900, seed=1)
    x = SparseTensor(torch.randn(len(coords), 4).to(device), coords.to(device), batch_size=1)
    targets = torch.randint(0, 5, (len(coords),)).to(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        loss = functional.cross_entropy(model(x).feats.float(), targets)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    return loss.detach()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_training_step_is_the_same_by_either_launcher(device, dtype):
    if device.type != "cuda":
        pytest.skip("there is no driver to start a kernel")
    plain = _step(dtype, device)
    with compared_launches() as found:
        loss = _step(dtype, device)
    print(f"{dtype}: driver {dict(found.direct)}, Triton {dict(found.by_triton)}")
    assert found.differing == []
    assert len(found.direct) >= 10
    assert torch.equal(loss, plain)


@pytest.mark.gpu
def test_every_kernel_of_the_hot_path_is_the_same_by_either_launcher(device, monkeypatch):
    if device.type != "cuda":
        pytest.skip("there is no driver to start a kernel")
    zeros, draw = torch.zeros, torch.Generator(device).manual_seed(5)

    def drawn(*size, dtype=torch.float32, **options):
        """In the place of zeros: floats that are drawn, parts that have rows; a row is still row 0."""
        made = zeros(*size, dtype=dtype, **{"device": device, **options})
        if made.is_floating_point():
            return made.normal_(generator=draw)
        ends = made.dim() == 1 and len(made) in _ENDS
        return torch.arange(len(made)).to(made) * _ENDS[len(made)] if ends else made

    with compared_launches() as found:
        monkeypatch.setattr(torch, "zeros", drawn)
        with torch.device(device):
            for run in {**WIDE, **NARROW, **others()}.values():
                run()
        monkeypatch.setattr(torch, "zeros", zeros)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            _step(dtype, device)
    print(f"driver {dict(found.direct)}, Triton {dict(found.by_triton)}")
    assert found.differing == []
    # those that were there when the session began are frozen, and `gc` lists no such
    gc.unfreeze()
    # by name: no two share one, see test_offline_compile
    # not isinstance: torch warns of an old name of its own when it is asked for its class
    every = {one._kernel.__name__ for one in gc.get_objects() if type(one) is Launcher}
    assert len(every) > 10
    assert every - found.direct.keys() == set()


class _Adding(Kernel):
    """A kernel that writes the sum of the second tensor and a number into the first, by either launcher.

    Args:
        more: what the driver adds beyond that.
    """

    __name__ = "adding"

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more
        self.assembly = _assembly(64, 64, 32, 64, 64)

    def launch_kernel(self, *given):
        words = (ctypes.c_void_p * 3).from_address(given[-2])
        out, source = (
            (ctypes.c_int * 4).from_address(ctypes.c_longlong.from_address(word).value) for word in words[:2]
        )
        number = ctypes.c_int.from_address(words[2]).value
        out[:] = [out[i] + source[i] + number + self.more for i in range(4)]

    def __getitem__(self, grid):
        def start(out, source, number, *others, **options):
            out += source + number
            return SimpleNamespace(
                function=1234,
                packed_metadata="packed",
                metadata=SimpleNamespace(**self.facts),
                asm={"ptx": self.assembly},
                run=lambda *given: start(out, source, number),
            )

        return start


def _aligned() -> torch.Tensor:
    memory = torch.zeros(64, dtype=torch.int32)
    return memory[-memory.data_ptr() // 4 % 4 :][4:8]


@pytest.mark.parametrize("more", [0, 5])
def test_a_launch_is_compared_from_the_same_memory(monkeypatch, more):
    from pcsparse.kernels.gpu import cuda_text

    kernel = _Adding(more)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: -1, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 77, raising=False)
    monkeypatch.setattr(cuda_text, "_driver", lambda: kernel.launch_kernel)
    monkeypatch.setattr(cuda_text, "_make_current", lambda device: None)
    out, source = _aligned(), _aligned()
    source += torch.arange(4)
    launcher = Launcher(kernel)
    with compared_launches() as found:
        launcher((1, 1, 1), (out, source), (7,), ())
        launcher((0, 1, 1), (out, source), (7,), ())
        # off the widest load it goes through Triton
        launcher((1, 1, 1), (out[1:], source[1:]), (7,), ())
    assert found.direct == {"adding": 1}
    assert found.by_triton == {"adding": 1}
    # three numbers of four bytes had another lowest one
    assert found.differing == ([("adding", 4)] if more else [])
    assert out.tolist() == [7, 16, 18, 20]
