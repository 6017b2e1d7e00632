"""Dense layers made sparse: pruning by magnitude and weights that share a few values.

Source: Deep Compression (Han et al., ICLR 2016), sections 2 and 3.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pcsparse.checks import check_dtype, check_shape
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.packed.eie import MOST_BITS, EIEFormat, EIEMatrix, pack_eie

Initial = Literal["linear", "density", "random"]
_MOST_ROUNDS = 300


@dataclass(frozen=True, eq=False)
class SharedWeights:
    """A matrix whose weights are 0 or one of a few shared values.

    Attributes:
        codes: (n_out, n_in) uint8, which value each weight is; 0 where it is 0. While a convolution trains
            they have its shape.
        codebook: (2^code_bits,) float32, the values; the first is 0.
    """

    codes: Tensor
    codebook: Tensor

    def to_dense(self) -> Tensor:
        """The weights, (n_out, n_in) float32."""
        return self.codebook[self.codes.long()]

    def pack(self, widths: EIEFormat | None = None) -> EIEMatrix:
        """The same in EIE's format, see `packed.eie.pack_eie`."""
        return pack_eie(self.codes, self.codebook, widths)


def keep_largest(weight: Tensor, density: float) -> Tensor:
    """Which weights to keep, by magnitude.

    Args:
        weight: any shape, finite.
        density: share to keep, 0 to 1; of equal magnitudes the first ones stay.

    Returns:
        bool, the shape of `weight`, True for round(density * numel) weights.

    Raises:
        RangeError: a density outside [0, 1], a weight that is not finite.
    """
    if not 0.0 <= density <= 1.0:
        raise RangeError(f"density must be a share from 0 to 1, got {density}")
    _check_finite(weight)
    kept = torch.zeros(weight.numel(), dtype=torch.bool, device=weight.device)
    order = weight.detach().abs().reshape(-1).argsort(descending=True, stable=True)
    kept[order[: round(density * weight.numel())]] = True
    return kept.view(weight.shape)


def share_weights(
    weight: Tensor, *, code_bits: int = 4, initial: Initial = "linear", seed: int = 0
) -> SharedWeights:
    """Let the weights that are not 0 share 2^code_bits - 1 values, by k-means.

    Lloyd's rounds on sorted values with running sums, so that a round costs one search a centroid; they end
    when no weight changes its centroid, or after 300. If there are no more different weights than centroids,
    each keeps its value. Ties between two centroids go to the lower one.

    Args:
        weight: (n_out, n_in) float32, finite; zeros stay zeros.
        code_bits: 1 to 8.
        initial: "linear": centroids spread evenly from the smallest to the largest weight; "density": at
            equal shares of the weights; "random": weights drawn with `seed`.
        seed: of the draw.

    Returns:
        The shared weights; the sum of squared changes is as small as rounds of Lloyd find it.

    Raises:
        ShapeError, DtypeError: no float32 matrix.
        RangeError: a weight that is not finite, code_bits outside 1 to 8, or another `initial`.

    Source: Deep Compression, section 3.1 (clusters) and 3.2 (initialisation; linear was best).
    """
    check_shape("weight", weight, (None, None))
    check_dtype("weight", weight, torch.float32)
    _check_finite(weight)
    if not 1 <= code_bits <= MOST_BITS:
        raise RangeError(f"code_bits must be 1 to {MOST_BITS}, got {code_bits}")
    flat = weight.detach().cpu().reshape(-1).numpy()
    values = np.sort(flat[flat != 0]).astype(np.float64)
    centroids = _centroids(values, (1 << code_bits) - 1, initial, seed).astype(np.float32)
    codes = np.zeros(flat.shape, np.uint8)
    codes[flat != 0] = 1 + np.searchsorted(_borders(centroids.astype(np.float64)), flat[flat != 0])
    codebook = np.zeros(1 << code_bits, np.float32)
    codebook[1 : 1 + len(centroids)] = centroids
    return SharedWeights(torch.from_numpy(codes).view(weight.shape), torch.from_numpy(codebook))


def _centroids(values: np.ndarray, most: int, initial: str, seed: int) -> np.ndarray:
    """At most `most` ascending centroids of sorted values."""
    distinct = np.unique(values)
    if len(distinct) <= most:
        return distinct
    match initial:
        case "linear":
            centroids = np.linspace(values[0], values[-1], most)
        case "density":
            centroids = np.quantile(values, (np.arange(most) + 0.5) / most)
        case "random":
            centroids = np.sort(np.random.default_rng(seed).choice(distinct, most, replace=False))
        case _:
            raise RangeError(f"initial must be 'linear', 'density' or 'random', got {initial!r}")
    sums = np.concatenate([[0.0], np.cumsum(values)])
    cuts = np.zeros(0, np.int64)
    for _ in range(_MOST_ROUNDS):
        before = cuts
        cuts = np.searchsorted(values, _borders(centroids), side="right")
        if np.array_equal(cuts, before):
            break
        starts, ends = np.append(0, cuts), np.append(cuts, len(values))
        counts = ends - starts
        # a centroid that lost all its weights stays where it is, and may win some back
        means = (sums[ends] - sums[starts]) / np.maximum(counts, 1)
        centroids = np.sort(np.where(counts > 0, means, centroids))
    return centroids


def _borders(centroids: np.ndarray) -> np.ndarray:
    """Where the nearest centroid changes; a weight on a border belongs to the lower one."""
    return (centroids[:-1] + centroids[1:]) / 2


def _check_finite(weight: Tensor) -> None:
    n_wrong = int((~weight.detach().isfinite()).sum())
    if n_wrong:
        raise RangeError(f"{n_wrong} of {weight.numel()} weights are not finite; look for what made them so")


class _Lookup(torch.autograd.Function):
    """codebook[codes]; the gradient of a centroid is the sum of its members' (Deep Compression, eq. 3)."""

    @staticmethod
    def forward(ctx, centroids: Tensor, codes: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(codes)
        ctx.n = len(centroids)
        return torch.cat([centroids.new_zeros(1), centroids])[codes.int()]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (codes,) = ctx.saved_tensors
        sums = torch.bincount(codes.reshape(-1).int(), grad.reshape(-1).double(), minlength=ctx.n + 1)
        return sums[1:].to(grad.dtype), None


class SharedParametrization(nn.Module):
    """The weight of a layer as a function of its centroids, for `torch.nn.utils.parametrize`.

    Zeros stay zeros, and weights of one centroid stay equal while the centroids are trained.
    """

    def __init__(self, shared: SharedWeights) -> None:
        super().__init__()
        self.codes: Tensor
        self.register_buffer("codes", shared.codes)
        self._first = shared.codebook[1:].clone()

    def forward(self, centroids: Tensor) -> Tensor:
        """(2^code_bits - 1,) centroids -> weights of the shape of the codes."""
        return _Lookup.apply(centroids, self.codes)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The centroids that the layer starts from; `weight` only says on which device."""
        return self._first.to(weight)


def train_centroids(linear: nn.Linear | nn.Conv2d, shared: SharedWeights) -> None:
    """Replace a layer's weight by its shared values, so that an optimiser moves the centroids.

    Args:
        linear: or a convolution, with a weight of the shape of `shared.codes`; changed in place. Its
            parameters must be handed to the optimiser after this call.
        shared: from `share_weights`.

    Raises:
        ShapeError: another shape.
        UnsupportedError: a weight that is parametrised already.
    """
    # torch's parametrisations, and its older hooks, take the parameter of this name away
    if "weight" not in dict(linear.named_parameters(recurse=False)):
        raise UnsupportedError(
            "the weight of this layer is parametrised already; call trained_centroids, or remove that first"
        )
    check_shape("shared.codes", shared.codes, tuple(linear.weight.shape))
    parametrization = SharedParametrization(shared).to(linear.weight.device)
    parametrize.register_parametrization(linear, "weight", parametrization, unsafe=True)


def trained_centroids(linear: nn.Linear | nn.Conv2d) -> SharedWeights:
    """The shared weights as they are after training; `linear` becomes a plain layer with these weights.

    Raises:
        RangeError: `linear` was not given to `train_centroids`, or a centroid is not finite.
    """
    listed: Any = getattr(getattr(linear, "parametrizations", None), "weight", [None])
    found = listed[0]
    if not isinstance(found, SharedParametrization):
        raise RangeError("this layer has no shared weights; call train_centroids first")
    centroids = listed.original.detach().float().cpu()
    _check_finite(centroids)
    codebook = torch.cat([torch.zeros(1, dtype=torch.float32, device="cpu"), centroids])
    codes = found.codes.cpu().clone()
    parametrize.remove_parametrizations(linear, "weight")
    return SharedWeights(codes, codebook)
