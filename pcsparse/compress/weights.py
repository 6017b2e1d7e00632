"""Fine-grained pruning: single weights become zero, by magnitude, and stay zero in fine-tuning.

The network keeps its shape: a dense engine is not faster for it. Smaller files and sparse heads are what it
is for (`packed.huffman`, `compress.heads`), and the sensitivity of layers is read most finely by it.

Source: Han et al., NeurIPS 2015 (arXiv 1506.02626), section 3.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.compress.nm_pattern import NM
from pcsparse.compress.shared_weights import keep_largest
from pcsparse.compress.weight_layout import in_axis
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.nn.conv import SparseConv

Ratio = float | Mapping[str, float]
"""The share of weights that become zero, in [0, 1): of every layer, or by name of the layer."""


def weight_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that can be pruned one by one: of convolutions and linear layers, by name of the layer.

    A weight that a parametrisation or a hook makes anew is none of them; `all_weight_layers` refuses those.
    """
    return {name: weight for name, weight in _weights(model).items() if isinstance(weight, nn.Parameter)}


def all_weight_layers(model: nn.Module) -> dict[str, nn.Parameter]:
    """The same, where no layer may be left out.

    Raises:
        UnsupportedError: weights that a parametrisation or a hook makes.
    """
    found = weight_layers(model)
    made = [name for name in _weights(model) if name not in found]
    if made:
        raise UnsupportedError(
            f"the weights of {', '.join(made)} are made by a parametrisation; remove it first, or name the "
            "layers to prune"
        )
    return found


def _weights(model: nn.Module) -> dict[str, Tensor]:
    kinds = (SparseConv, nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    return {name: part.weight for name, part in model.named_modules() if isinstance(part, kinds)}


def check_ratio(ratio: float, of: str) -> None:
    """Raise RangeError unless `ratio` is a number in [0, 1)."""
    # a config file may hold words, null and .nan
    is_share = isinstance(ratio, Real) and not isinstance(ratio, bool) and 0.0 <= ratio < 1.0
    if not is_share:
        raise RangeError(
            f"the ratio of {of} must be in [0, 1), the share to remove, got {ratio!r}; leave the layer out "
            "of the network to remove all of it"
        )


@dataclass(frozen=True, eq=False)
class WeightMasks:
    """Which weights stay, by name of the layer; bool, shapes of the weights. Other layers keep all."""

    kept: Mapping[str, Tensor]

    @staticmethod
    def of_zeros(model: nn.Module) -> "WeightMasks":
        """The masks of a pruned network: all weights that are not zero, in layers that have zeros."""
        found = {name: weight.detach() != 0 for name, weight in weight_layers(model).items()}
        return WeightMasks({name: kept for name, kept in found.items() if not bool(kept.all())})

    @property
    def density(self) -> float:
        """The share of weights that stay in the masked layers; 1 where there are none."""
        total = sum(kept.numel() for kept in self.kept.values())
        return sum(int(kept.sum()) for kept in self.kept.values()) / total if total else 1.0

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Make the other weights zero, in place.

        Raises:
            RangeError: the model has no such layer.
            UnsupportedError: a weight that a parametrisation makes.
            ShapeError: a weight of another shape.
        """
        for weight, kept in self._pairs(model):
            # not a product: a NaN would survive it
            weight.masked_fill_(~kept.to(weight.device), 0.0)

    @contextmanager
    def held(self, model: nn.Module) -> Iterator[None]:
        """Keep the other weights zero while the block trains `model`, whatever the optimiser does.

        Their gradients are zero, so that they add nothing to norms and moments, and before each call of the
        network they are made zero again, as at the end of the block.
        """
        self.apply(model)
        handles: list[Any] = [
            weight.register_hook(_Masked(kept)) for weight, kept in self._pairs(model) if weight.requires_grad
        ]
        handles.append(model.register_forward_pre_hook(lambda module, inputs: self.apply(module)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.apply(model)

    def _pairs(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, Tensor]]:
        weights = weight_layers(model)
        for name, kept in self.kept.items():
            _check_named(name, model, weights)
            if weights[name].shape != kept.shape:
                raise ShapeError(
                    f"the mask of {name} has shape {tuple(kept.shape)}, the weight "
                    f"{tuple(weights[name].shape)}; masks are made after channels are pruned"
                )
            yield weights[name], kept


def _check_named(name: str, model: nn.Module, weights: Mapping[str, nn.Parameter]) -> None:
    if name in weights:
        return
    if name in _weights(model):
        raise UnsupportedError(f"the weights of {name} are made by a parametrisation; remove it first")
    raise RangeError(f"there is no layer {name!r} with weights; there are {', '.join(weights)}")


class _Masked:
    def __init__(self, kept: Tensor) -> None:
        self._gone = ~kept

    def __call__(self, grad: Tensor) -> Tensor:
        return grad.masked_fill(self._gone.to(grad.device), 0.0)


def magnitude_masks(model: nn.Module, ratio: Ratio | NM) -> WeightMasks:
    """Masks that remove the smallest weights of each layer, or of each group of an N:M pattern.

    Args:
        model: any network.
        ratio: share to remove; a number holds for every convolution and linear layer. Or a pattern.

    Raises:
        RangeError: no such layer, a ratio outside [0, 1), a weight that is not finite, or two ratios for one
            weight that two layers share.
        ShapeError: a layer whose input channels the pattern does not divide; the text names it.
        UnsupportedError: weights that a parametrisation makes.
    """
    if isinstance(ratio, NM):
        return _pattern_masks(model, ratio)
    ratios = ratio if isinstance(ratio, Mapping) else dict.fromkeys(all_weight_layers(model), float(ratio))
    weights = weight_layers(model)
    for name, share in ratios.items():
        _check_named(name, model, weights)
        check_ratio(share, f"layer {name!r}")
    _check_alike(ratios, weights)
    return WeightMasks({name: keep_largest(weights[name], 1.0 - share) for name, share in ratios.items()})


def _pattern_masks(model: nn.Module, pattern: NM) -> WeightMasks:
    weights = weight_layers(model)
    kept = {}
    for name in all_weight_layers(model) if pattern.layers is None else pattern.layers:
        _check_named(name, model, weights)
        kept[name] = pattern.mask(weights[name], in_axis(model.get_submodule(name)), f"layer {name!r}")
    return WeightMasks(kept)


def _check_alike(ratios: Mapping[str, float], weights: Mapping[str, nn.Parameter]) -> None:
    seen: dict[int, str] = {}
    for name, share in ratios.items():
        first = seen.setdefault(id(weights[name]), name)
        if share != ratios[first]:
            raise RangeError(
                f"{first} and {name} share their weight: one ratio for both, not {ratios[first]} and {share}"
            )


def prune_weights(model: nn.Module, ratio: Ratio | NM) -> WeightMasks:
    """Make the smallest weights of each layer zero, in place; or of each group, with an `NM(2, 4)`.

    Args:
        model: any network.
        ratio: see `magnitude_masks`.

    Returns:
        The masks; `held` keeps them in fine-tuning.

    Raises:
        RangeError, ShapeError, UnsupportedError: see `magnitude_masks`; nothing is changed then.
    """
    masks = magnitude_masks(model, ratio)
    masks.apply(model)
    return masks
