"""The box that a kernel writes to: nobody else gets its memory while one may."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pcsparse.kernels import reference
from tests.emulation import gpu_kernels

gpu = gpu_kernels()
# the package of the GPU kernels asks for cupy, for which there is a stand-in now
from pcsparse.kernels.gpu import cuda_text, mailbox  # noqa: E402

ROWS = torch.tensor([[0, 1, -2, 3], [0, 1, -2, 4], [0, 1, -2, 9]], dtype=torch.int32)


class Interrupted(Exception):
    """Something that falls between a launch and its letter."""


@pytest.fixture
def cut_off(gpu_or_emulated, monkeypatch) -> torch.device:
    """The device; after its next kernel the host does not come to wait."""
    monkeypatch.setattr(mailbox, "_HERE", mailbox._Boxes())
    monkeypatch.setattr(mailbox, "_AWAITED", set())
    launch = cuda_text.launch

    def launched(*args, **given):
        launch(*args, **given)
        monkeypatch.setattr(cuda_text, "launch", launch)
        raise Interrupted

    monkeypatch.setattr(cuda_text, "launch", launched)
    return gpu_or_emulated


def test_a_box_outlives_its_thread_while_a_kernel_may_write_to_it(cut_off):
    coords, words = ROWS.to(cut_off), []

    def interrupted() -> None:
        with pytest.raises(Interrupted):
            gpu.pack_rows(coords)
        box = mailbox._HERE.boxes[coords.device]
        words.extend(map(weakref.ref, (box._memory, box.counters)))

    def whole() -> None:
        gpu.pack_rows(coords)
        words.append(weakref.ref(mailbox._HERE.boxes[coords.device]))

    for work in (interrupted, whole):
        with ThreadPoolExecutor(1) as fresh:
            fresh.submit(work).result()
    gc.collect()
    assert [word() is not None for word in words] == [True, True, False]


def test_a_letter_that_nobody_read_does_not_reach_the_next_one(cut_off):
    coords = ROWS.to(cut_off)
    with pytest.raises(Interrupted):
        gpu.pack_rows(coords)
    box = mailbox._HERE.boxes[coords.device]
    # as it is until that kernel ends
    box.counters.fill_(5)
    for _ in range(2):
        keys, *facts = gpu.pack_rows(coords)
        expected, *told = reference.pack_rows(ROWS)
        assert torch.equal(keys.cpu(), expected)
        assert facts == told
    assert mailbox.mailbox(coords.device) is not box


def test_a_box_serves_its_thread_again_and_again(gpu_or_emulated):
    coords = ROWS.to(gpu_or_emulated)
    gpu.pack_rows(coords)
    box = mailbox.mailbox(coords.device)
    gpu.key_extent(gpu.pack_rows(coords)[0])
    assert mailbox.mailbox(coords.device) is box
    assert box not in mailbox._AWAITED


def test_a_kernel_that_told_nothing_is_an_error_and_its_box_is_left_alone(gpu_or_emulated, monkeypatch):
    monkeypatch.setattr(mailbox, "_HERE", mailbox._Boxes())
    monkeypatch.setattr(mailbox, "_AWAITED", set())
    box = mailbox.mailbox(gpu_or_emulated)
    box.stamp()
    with pytest.raises(RuntimeError, match="ended without telling the host"):
        box.read(1)
    assert mailbox.mailbox(gpu_or_emulated) is not box
