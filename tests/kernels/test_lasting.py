"""What kernels make of weights that will not change: once, and again after every change that counts."""

import gc
import subprocess
import sys

import pytest
import torch

from pcsparse.kernels import lasting
from pcsparse.kernels.lasting import made_of, will_last


class _Made:
    """Counts how often it was asked."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.times = tensor, 0

    def __call__(self) -> torch.Tensor:
        self.times += 1
        return self.tensor.detach().clone()

    def of(self, key: object = "copy") -> torch.Tensor:
        return made_of(self.tensor, key, self)


def test_made_at_every_call_where_nobody_has_promised_anything():
    made = _Made(torch.arange(6.0))
    made.of()
    made.of()
    assert made.times == 2


def test_made_once_a_key():
    made = _Made(torch.arange(6.0))
    will_last(made.tensor)
    assert made.of() is made.of()
    made.of("another")
    assert made.times == 2


def _in_place(weight: torch.nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


def _loaded(weight: torch.nn.Parameter) -> None:
    holder = torch.nn.Module()
    holder.weight = weight
    holder.load_state_dict({"weight": torch.full_like(weight, 7.0)})


def _there_and_back(weight: torch.nn.Parameter) -> None:
    weight.data = weight.data.half()
    # the memory of the first is not given away as long as what was made of it is kept
    weight.data = weight.data.float()


def _turned(weight: torch.nn.Parameter) -> None:
    weight.data = weight.data.flip(0)


@pytest.mark.parametrize("change", [_in_place, _loaded, _there_and_back, _turned])
def test_made_again_after_a_change(change):
    weight = torch.nn.Parameter(torch.linspace(0.0, 1.0, 7), requires_grad=False)
    will_last(weight)
    made = _Made(weight)
    before = made.of()
    change(weight)
    assert made.of() is not before
    torch.testing.assert_close(made.of(), weight.detach(), rtol=0, atol=0)
    assert made.times == 2


def test_of_an_inference_tensor_nothing_is_kept():
    with torch.inference_mode():
        made = _Made(torch.arange(6.0))
        will_last(made.tensor)
        made.of()
        made.of()
    assert made.times == 2


@pytest.mark.parametrize("how", [{"foreach": True}, {"fused": True}])
def test_nothing_is_kept_of_what_is_trained(how):
    weight = torch.nn.Parameter(torch.linspace(0.0, 1.0, 7), requires_grad=False)
    will_last(weight)
    made = _Made(weight)
    made.of()
    weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([weight], lr=0.1, **how)
    for _ in range(2):
        torch.testing.assert_close(made.of(), weight.detach(), rtol=0, atol=0)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    weight.requires_grad_(False)
    torch.testing.assert_close(made.of(), weight.detach(), rtol=0, atol=0)


def test_nothing_is_kept_of_what_became_an_inference_tensor():
    weight = torch.nn.Parameter(torch.linspace(0.0, 1.0, 7), requires_grad=False)
    will_last(weight)
    made = _Made(weight)
    with torch.inference_mode():
        weight.data = weight.data.double()
        made.of()
        weight.mul_(2)
        torch.testing.assert_close(made.of(), weight, rtol=0, atol=0)


def test_kernels_may_be_imported_first_where_tensors_are_made_elsewhere():
    program = """
import torch
with torch.device("meta"):
    import pcsparse.kernels.cpu
from pcsparse import SparseTensor, nn
x = SparseTensor(torch.ones(1, 4), torch.zeros(1, 4, dtype=torch.int32), batch_size=1)
print(nn.SubmanifoldConv3d(4, 4, 3)(x).feats.shape)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "[1, 4]" in done.stdout, done.stderr


def test_ends_with_the_tensor():
    gc.collect()
    before = len(lasting._LASTING)
    made = _Made(torch.arange(6.0))
    will_last(made.tensor)
    made.of()
    assert len(lasting._LASTING) == before + 1
    del made
    gc.collect()
    assert len(lasting._LASTING) == before
