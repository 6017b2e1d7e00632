"""A trained classifier moved to a world in which classes are more or less frequent."""

from collections.abc import Sequence

import torch
from torch import nn

from pcsparse.errors import RangeError, UnsupportedError


def shift_priors(model: nn.Module, trained: Sequence[float], wanted: Sequence[float]) -> None:
    """Add log(wanted / trained) to the bias of a model's classifier, in place.

    Exact for a network trained without class weights; after weighted losses a rule of thumb, as their own
    shift stays in it.

    What a network says of a class holds the share that the class had in training; where classes look alike
    but are of other frequency, this is what Bayes' rule changes. A class without a share in training, or of
    which none is wanted, stays as it is.

    Args:
        model: with a linear layer `classifier` that has a bias, as MinkUNet.
        trained: shares of the classes in training, which need not add up to 1.
        wanted: shares where the model is used.

    Raises:
        UnsupportedError: the model has no such classifier.
        RangeError: the shares are not as many as classes, negative, or all 0.

    Source: M. Saerens, P. Latinne, C. Decaestecker, Adjusting the outputs of a classifier to new a priori
    probabilities, Neural Computation 14, 2002, section 2.2.
    """
    bias = getattr(getattr(model, "classifier", None), "bias", None)
    if not isinstance(bias, nn.Parameter):
        raise UnsupportedError(f"{type(model).__name__} has no classifier with a bias to shift")
    shares = torch.tensor([list(trained), list(wanted)], dtype=torch.float64, device="cpu")
    if shares.shape[1] != len(bias) or bool((shares < 0).any()) or bool((shares.sum(dim=1) == 0).any()):
        raise RangeError(
            f"{len(bias)} classes need as many shares, none negative and not all 0, got {list(trained)} and "
            f"{list(wanted)}"
        )
    before, after = shares / shares.sum(dim=1, keepdim=True)
    known = (before > 0) & (after > 0)
    change = torch.where(known, (after / before.clamp_min(1e-12)).clamp_min(1e-12).log(), 0.0)
    with torch.no_grad():
        bias.add_(change.to(bias))
