"""The precisions of a benchmark: how tensors are stored and whether tf32 may be used."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """A way to store and multiply.

    Attributes:
        name: in tables and on the command line.
        dtype: of features and weights.
        tf32: whether float32 products may round their factors to tf32.
        rounding: relative error of one rounding of a factor or a result.
    """

    name: str
    dtype: torch.dtype
    tf32: bool
    rounding: float


FP16 = Precision("fp16", torch.float16, False, 2.0**-11)
BF16 = Precision("bf16", torch.bfloat16, False, 2.0**-8)
TF32 = Precision("tf32", torch.float32, True, 2.0**-11)
FP32 = Precision("fp32", torch.float32, False, 2.0**-24)
PRECISIONS = {precision.name: precision for precision in (FP16, BF16, TF32, FP32)}


@contextlib.contextmanager
def allowing(precision: Precision) -> Iterator[None]:
    """Allow tf32 in torch's products, and so in the package's, within the block if the precision says so."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision.tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
