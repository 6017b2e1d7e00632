"""Codes of a matrix whose weights share few values already."""

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.errors import RangeError
from pcsparse.packed.eie import EIEFormat


def codes_of(weight: Tensor, widths: EIEFormat | None = None) -> tuple[Tensor, Tensor]:
    """Codes and codebook of a matrix whose weights share few values already.

    Args:
        weight: (n_out, n_in) float32, finite, with at most 2^code_bits - 1 different values beside 0.
        widths: of the format; the chip's if None.

    Returns:
        (n_out, n_in) uint8 codes and the (2^code_bits,) codebook, 0 and the values in ascending order, for
        `pack_eie`.

    Raises:
        ShapeError, DtypeError: no float32 matrix.
        RangeError: a weight that is not finite, or too many values.
    """
    widths = widths or EIEFormat()
    check_shape("weight", weight, (None, None))
    check_dtype("weight", weight, torch.float32)
    weight = weight.detach().cpu()
    if not bool(weight.isfinite().all()):
        raise RangeError("a weight is not finite; look for what made it so")
    values = weight[weight != 0].unique()
    most = (1 << widths.code_bits) - 1
    if len(values) > most:
        raise RangeError(
            f"the weights have {len(values)} different values beside 0, and codes of {widths.code_bits} bits "
            f"tell {most} apart; let them share values with compress.heads.share_weights"
        )
    codes = torch.searchsorted(values, weight) + 1
    codebook = torch.zeros(1 << widths.code_bits, dtype=torch.float32, device="cpu")
    codebook[1 : 1 + len(values)] = values
    return torch.where(weight == 0, 0, codes).to(torch.uint8), codebook
