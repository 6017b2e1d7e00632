"""What the device allows, measured in the same run: its matrix products and its memory."""

from dataclasses import dataclass

import torch

from pcsparse.bench.device.clock import time_candidates

_SIDE, _SMALL_SIDE = 8192, 256
_COPY, _SMALL_COPY = 1 << 30, 1 << 20


@dataclass(frozen=True)
class DeviceLimits:
    """Peaks of a device.

    Attributes:
        bf16: operations / s of a large bfloat16 matrix product.
        fp16: the same in float16.
        tf32: the same in float32 with tf32 allowed.
        copy: bytes / s read plus written by a large copy.
    """

    bf16: float
    fp16: float
    tf32: float
    copy: float

    def __str__(self) -> str:
        """One line with units."""
        rates = f"{self.bf16 / 1e12:.4g} bf16, {self.fp16 / 1e12:.4g} fp16, {self.tf32 / 1e12:.4g} tf32"
        return f"{rates} TFLOP/s ({_SIDE}^3 products), {self.copy / 1e12:.3g} TB/s copy"


def measure_device(device: torch.device, *, quick: bool = False) -> DeviceLimits:
    """Median of ten products and copies each; small ones if `quick` or off an accelerator."""
    small = quick and device.type == "cpu"
    side, size = (_SMALL_SIDE, _SMALL_COPY) if small else (_SIDE, _COPY)

    def product(dtype: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        # in place: no allocation is timed
        out = torch.empty_like(a)
        found = time_candidates({"": lambda: torch.mm(a, b, out=out)}, device, runs=10, events=True)
        return 2.0 * side**3 / found[""].best.median

    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        bf16, fp16, tf32 = product(torch.bfloat16), product(torch.float16), product(torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = time_candidates({"": lambda: target.copy_(source)}, device, runs=10, events=True)
    return DeviceLimits(bf16, fp16, tf32, 2.0 * size / copied[""].best.median)
