"""What the mocked device refuses, and does, as a GPU would. Run by `tests/test_mock_cuda.py`."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn

from tests.mock_cuda.graphs import Graph, Recording, on_device


@pytest.fixture
def row(device):
    return torch.arange(6.0).to(device)


def test_tensors_say_where_they_are(device, row):
    made = [
        torch.zeros(2, device=device),
        torch.tensor([1, 2], device="cuda"),
        torch.rand(3, device="cuda:0"),
    ]
    made += [row[::2], row + 1, row.new_ones(2), torch.zeros_like(row), row.double(), copy.deepcopy(row)]
    assert {str(one.device) for one in made} == {"cuda:0"}
    assert row.cpu().device.type == "cpu"
    assert row.cpu().tolist() == [0, 1, 2, 3, 4, 5]
    with torch.device(device):
        assert torch.ones(3).is_cuda


@pytest.mark.parametrize(
    "mix",
    [
        lambda a: a + torch.ones(6),
        lambda a: torch.cat([a, torch.ones(6)]),
        lambda a: torch.ones(6)[a.long()],
        lambda a: a.index_select(0, torch.tensor([1])),
        lambda a: a.add_(torch.ones(6)),
        lambda a: nn.Linear(6, 2)(a),
        lambda a: a.copy_(torch.ones(6)).mul_(torch.ones(6)),
        lambda a: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda a: a.uniform_(generator=torch.Generator()),
    ],
)
def test_what_lies_elsewhere_is_refused(row, mix):
    with pytest.raises(RuntimeError, match=r"same device|'cuda' device type for generator"):
        mix(row)


def test_what_may_lie_elsewhere(row):
    assert (row + torch.tensor(2.0)).tolist() == [2, 3, 4, 5, 6, 7]
    assert row[torch.tensor([1, 3])].tolist() == [1, 3]
    assert torch.rand(3, device="cuda", generator=torch.Generator("cuda")).is_cuda


@pytest.mark.parametrize("read", [lambda a: a.numpy(), np.asarray, np.array])
def test_an_array_of_it_is_refused(row, read):
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        read(row)


def test_a_kernel_takes_tensors_of_the_device_alone(row):
    with pytest.raises(AssertionError, match="kernel k was given a tensor on cpu"):
        on_device("k", (row, torch.ones(2), 3), lambda *args: None)


def test_a_module_moves_there_and_learns(device):
    layer = nn.Linear(3, 2)
    weights = layer.weight
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    layer.to(device)
    # as on a GPU the parameter is the same object
    assert layer.weight is weights
    before = weights.cpu()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = layer(torch.ones(4, 3, device=device))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert weights.grad.is_cuda
    optimizer.step()
    assert not torch.equal(weights.cpu(), before)
    assert type(layer.cpu().weight) is nn.Parameter


def test_other_threads_have_it_too(device):
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.zeros(2, device=device).device))
    thread.start()
    thread.join()
    assert [str(one) for one in found] == ["cuda:0"]


def test_it_divides_by_numbers_of_the_host_as_cuda_does(device):
    a = torch.tensor([1.75], dtype=torch.float64)
    assert (a / 0.07).item() != (a.to(device) / 0.07).item() == 1.75 * (1 / 0.07)
    assert (a.to(device) / torch.tensor([0.07], dtype=torch.float64, device=device)).item() == 1.75 / 0.07


WAITS = {
    "item": lambda a: a[0].item(), "tolist": lambda a: a.tolist(), "cpu": lambda a: a.cpu(),
    "nonzero": lambda a: a.nonzero(), "mask": lambda a: a[a > 1], "numbers": lambda a: a.new_tensor([1.0]),
    "upload": lambda a: torch.ones(6).to(a.device), "copy": lambda a: a.copy_(torch.ones(6)),
    "unique": lambda a: a.unique(), "bool": lambda a: bool(a[0] > 1),
}  # fmt: skip


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_warned_of_and_refused(row, name):
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="called a synchronizing CUDA operation"):
            WAITS[name](row)
        torch.cuda.set_sync_debug_mode("warn")
        with pytest.warns(UserWarning, match="called a synchronizing CUDA operation"):
            WAITS[name](row)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"), Recording(Graph()):
        WAITS[name](row)


def test_what_does_not_wait(row):
    torch.cuda.set_sync_debug_mode("error")
    try:
        row.to("meta")
        row.copy_(torch.ones(6).pin_memory(), non_blocking=True)
        row.add_(1).sum()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_graph_replays_what_it_recorded_with_the_numbers_of_then(row):
    graph, factor = Graph(), 3
    with Recording(graph):
        view = row[1:3]
        out = (view * factor).sum(0, keepdim=True)
        row[0].add_(1)
    factor = 5
    assert out.tolist() == [9]
    row.copy_(torch.arange(6.0).add(10))
    graph.replay()
    assert out.tolist() == [(11 + 12) * 3]
    assert row.tolist() == [11, 11, 12, 13, 14, 15]
