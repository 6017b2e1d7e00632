"""Twins of fetch-on-demand: the same sums as an implicit GEMM's, in the order of the offsets."""

from torch import Tensor

from pcsparse.kernels.reference.implicit_gemm import implicit_gemm

# of tiles, which there are none of
_SIZES = (16, 16, 4, 1, 1, "ieee")


def fetch_layout(table: Tensor) -> list[Tensor]:
    return [table]


def fetch_on_demand(
    feats: Tensor,
    weight: Tensor,
    layout: list[Tensor],
    n_out: int,
    lanes: int = 0,
    threads: int = 0,
    mirrored: bool = False,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    through: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
) -> Tensor:
    return implicit_gemm(
        feats,
        weight,
        layout,
        n_out,
        *_SIZES,
        mirrored,
        bias=bias,
        residual=residual,
        relu=relu,
        mask=mask,
        through=through,
        scale=scale,
        shift=shift,
    )
