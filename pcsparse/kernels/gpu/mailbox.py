"""A few numbers on their way from a kernel to the host, which waits for them and for nothing after them.

A copy by torch takes a tensor to copy from, one to copy to, and a wait for all that the stream holds. Here
the kernel writes into memory of the host. Each word carries the number of its letter beside its value, so
that the host sees word by word what has arrived, in whichever order.

Source: pinned memory that a device writes, CUDA C++ Programming Guide, section "Mapped Memory".
"""

import ctypes
import threading

import torch

WORDS = 64
"""Values of a letter, at most."""
COUNTERS = 32
"""Words (32 bits) of the device that are 0 between two letters."""
# some 0.2 ms: what takes longer is waited for without a running processor
_LOOKS = 2000
_STAMPS = (1 << 31) - 1


class Mailbox:
    """Of one thread and device: there is one letter at a time, and who sends one waits for it.

    Where an error keeps him from that, the box is left alone, and the thread gets another.

    Attributes:
        counters: (COUNTERS,) int32 on the device. A kernel finds zeros and leaves zeros.
        address: where the kernel writes, for its letter's word i: the stamp in the upper 32 bits, the value
            in the lower.
    """

    def __init__(self, device: torch.device) -> None:
        with torch.inference_mode(False):
            self._memory = torch.zeros(
                WORDS, dtype=torch.int64, pin_memory=device.type == "cuda", device="cpu"
            )
            # this copy waits, so that work on any stream finds the zeros
            self.counters = torch.zeros(COUNTERS, dtype=torch.int32, device="cpu").to(device)
        self._device = device
        self._stamp = 0
        self.address: int = self._memory.data_ptr()
        self._words = (ctypes.c_longlong * WORDS).from_address(self.address)

    def stamp(self) -> int:
        """The number of the next letter, which is awaited until it is read."""
        _AWAITED.add(self)
        self._stamp = self._stamp % _STAMPS + 1
        return self._stamp

    def read(self, words: int) -> list[int]:
        """The values of the letter whose kernel was launched last on the current stream, as unsigned numbers.

        Args:
            words: how many it has.

        Raises:
            RuntimeError: the kernel failed.
        """
        letter, stamp, values = self._words, self._stamp, []
        for word in range(words):
            looks = _LOOKS
            while (value := letter[word]) >> 32 != stamp:
                looks -= 1
                if looks == 0:
                    self._wait(word)
            values.append(value & 0xFFFFFFFF)
        _AWAITED.discard(self)
        return values

    def _wait(self, word: int) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        if self._words[word] >> 32 != self._stamp:
            raise RuntimeError("a kernel of maps ended without telling the host its result")


# their kernels may still write: torch's allocator of pinned memory, which knows of copies only, would give
# the words of a box to others once its thread has ended
_AWAITED: set[Mailbox] = set()


class _Boxes(threading.local):
    def __init__(self) -> None:
        self.boxes: dict[torch.device, Mailbox] = {}


_HERE = _Boxes()


def mailbox(device: torch.device) -> Mailbox:
    """That of this thread for a device."""
    box = _HERE.boxes.get(device)
    # an error fell between a launch and its letter: the letter may come yet, and the counters may not be 0
    if box is None or box in _AWAITED:
        box = _HERE.boxes[device] = Mailbox(device)
    return box
