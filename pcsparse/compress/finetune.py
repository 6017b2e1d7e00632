"""Fine-tuning after pruning: rounds of pruning and training, batch norms measured anew, distillation.

How a network is trained is the caller's: `fit` is passed in. What makes training after pruning different
stands here. The learning rate is a tenth to a hundredth of that of the first training (Han et al., NeurIPS
2015, arXiv 1506.02626, section 3.3).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from pcsparse.checks import check_shape
from pcsparse.compress.channel_scores import Losses, Score
from pcsparse.compress.channels import MULTIPLE, prune_channels
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.weights import Ratio, WeightMasks, all_weight_layers, magnitude_masks
from pcsparse.errors import RangeError
from pcsparse.nn import RecordedForward, fuse
from pcsparse.nn.modes import modes_kept
from pcsparse.sparse_tensor import SparseTensor

Fit = Callable[[nn.Module, float], object]
"""Trains a network in place, at a peak learning rate; how long and on what is the caller's."""


@dataclass(frozen=True)
class Rounds:
    """How pruning is spread over the fine-tuning.

    Attributes:
        n: rounds of pruning and training; 1 prunes all at once.
        lr: peak learning rate of the first training of the network.
        lr_factor: share of it that fine-tuning takes.

    Raises:
        RangeError: no round, or a rate or factor that is not above 0.
    """

    lr: float
    n: int = 1
    lr_factor: float = 0.1

    def __post_init__(self) -> None:
        if self.n < 1 or not self.lr > 0 or not 0 < self.lr_factor <= 1:
            raise RangeError(
                f"rounds must be at least 1, lr above 0 and lr_factor in (0, 1], got n={self.n}, "
                f"lr={self.lr}, lr_factor={self.lr_factor}"
            )

    def shares(self) -> tuple[float, ...]:
        """How much of the pruning is done after each round: much at first, less where weights are few.

        Source: Zhu and Gupta, 2017 (arXiv 1710.01878), equation 1.
        """
        return tuple(1.0 - (1.0 - (i + 1) / self.n) ** 3 for i in range(self.n))


def tune_channels(
    model: nn.Module,
    widths: Mapping[str, int],
    fit: Fit,
    rounds: Rounds,
    *,
    score: Score = "magnitude",
    multiple: int = MULTIPLE,
    losses: Losses | None = None,
    batches: Callable[[], Iterable[Any]] | None = None,
    graph_of: Callable[[nn.Module], ChannelGraph] = ChannelGraph.of,
) -> nn.Module:
    """Prune channels and fine-tune, in one round or several; channels are scored anew in each.

    Args:
        model: trained; it is not changed.
        widths: channels that each group keeps in the end; groups that are not named keep all.
        fit: trains the pruned network of each round.
        rounds: how many, and at which learning rate.
        score: see `channel_scores`.
        multiple: widths between the rounds are multiples of it; those of the last are `widths`.
        losses: for score="taylor".
        batches: makes inputs to measure batch norms anew before each training; None leaves them.
        graph_of: reads the graph of a network, anew in each round; `lambda net: ChannelGraph.of(net, x)` for
            one that needs an input.

    Returns:
        The fine-tuned network.

    Raises:
        RangeError: see `prune_channels`; before any training.
    """
    graph = graph_of(model)
    graph.widths(widths)
    full = {group.name: group.width for group in graph.groups}
    for share in rounds.shares():
        model = narrowed(
            model, widths, full, share, score=score, multiple=multiple, losses=losses, graph_of=graph_of
        )
        if batches is not None:
            recalibrate(model, batches())
        fit(model, rounds.lr * rounds.lr_factor)
    return model


def narrowed(
    model: nn.Module,
    widths: Mapping[str, int],
    full: Mapping[str, int],
    share: float,
    *,
    score: Score = "magnitude",
    multiple: int = MULTIPLE,
    losses: Losses | None = None,
    graph_of: Callable[[nn.Module], ChannelGraph] = ChannelGraph.of,
) -> nn.Module:
    """What a round prunes: a share of the way from the whole widths to the last ones.

    Args:
        model: as the round before left it; it is not changed.
        widths: see `tune_channels`.
        full: widths of the groups of the whole network.
        share: of the way, 0 to 1; see `Rounds.shares`.
        score: see `channel_scores`.
        multiple: see `tune_channels`.
        losses: for score="taylor".
        graph_of: see `tune_channels`.

    Raises:
        RangeError: see `prune_channels`.
    """
    graph = graph_of(model)
    now = {group.name: group.width for group in graph.free}
    keep = {name: _between(full.get(name, width), width, share, multiple) for name, width in widths.items()}
    # never wider again
    keep = {name: min(width, now.get(name, width)) for name, width in keep.items()}
    return prune_channels(model, keep, graph=graph, score=score, multiple=1, losses=losses)


def _between(full: int, last: int, share: float, multiple: int) -> int:
    if share >= 1.0:
        return last
    wanted = full - share * (full - last)
    return max(last, min(full, -(-round(wanted) // multiple) * multiple))


def tune_weights(model: nn.Module, ratio: Ratio, fit: Fit, rounds: Rounds) -> WeightMasks:
    """Prune single weights and fine-tune, in one round or several, in place; zeros stay zero.

    Args:
        model: trained.
        ratio: share of weights to remove in the end, of every layer or by layer.
        fit: trains the pruned network of each round.
        rounds: how many, and at which learning rate.

    Returns:
        The masks of the last round.

    Raises:
        RangeError: see `magnitude_masks`.
    """
    ratios = ratio if isinstance(ratio, Mapping) else dict.fromkeys(all_weight_layers(model), float(ratio))
    # all mistakes before any training
    masks = magnitude_masks(model, ratios)
    for share in rounds.shares():
        masks = magnitude_masks(model, {name: share * value for name, value in ratios.items()})
        with masks.held(model):
            fit(model, rounds.lr * rounds.lr_factor)
    return masks


def recalibrate(model: nn.Module, batches: Iterable[Any]) -> None:
    """Measure the running statistics of all batch norms anew, as plain means over some batches, in place.

    A sliced network has other statistics than the one it was cut from; this alone brings back much of what
    it lost, and nothing is trained. All else is in evaluation mode meanwhile. A norm of pcsparse that meets
    no batch of two rows or more keeps its statistics; one of torch raises its ValueError at the first batch
    of a single row. Whatever is raised, by a norm or by `batches`, all statistics are as they were.

    Args:
        model: with batch norms that keep statistics; one without is left as it is.
        batches: inputs of the network, each run once; a tuple are several arguments.

    Raises:
        RangeError: no batches; the statistics are left as they were.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    saved = [{name: tensor.clone() for name, tensor in norm.named_buffers()} for norm in norms]
    n, done = 0, False
    try:
        with modes_kept(model), torch.no_grad():
            model.eval()
            for norm in norms:
                norm.reset_running_stats()
                # the mean of all batches alike
                norm.momentum = None
                norm.train()
            for batch in batches:
                model(*(batch if isinstance(batch, tuple) else (batch,)))
                n += 1
        done = n > 0
    finally:
        for norm, momentum, buffers in zip(norms, momenta, saved, strict=True):
            norm.momentum = momentum
            if not done or not int(norm.num_batches_tracked):  # type: ignore[arg-type]
                norm.load_state_dict(buffers, strict=False)
    if n == 0:
        raise RangeError("recalibrate needs at least one batch, got none; the statistics are as they were")


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """How far a network's probabilities are from those of its teacher, both softened; a scalar.

    The mean over rows of KL(teacher, student) at a temperature, times its square, so that gradients keep
    their size.

    Args:
        student: (n, classes) logits.
        teacher: (n, classes) logits of the wide network; no gradient flows to it.
        temperature: > 0; larger ones show more of what the teacher thinks of wrong classes.

    Raises:
        ShapeError: shapes differ.
        RangeError: a temperature that is not above 0.

    Source: Hinton et al., 2015 (arXiv 1503.02531).
    """
    check_shape("student", student, (None, None))
    check_shape("teacher", teacher, tuple(student.shape))
    if not temperature > 0:
        raise RangeError(f"temperature must be above 0, got {temperature}")
    told = functional.log_softmax(student / temperature, dim=1)
    asked = functional.log_softmax(teacher.detach() / temperature, dim=1)
    return temperature**2 * functional.kl_div(told, asked, reduction="batchmean", log_target=True)


class Distillation:
    """A term for the training loss: how far a network is from its teacher, on any input.

    What `fit` of `pcsparse.train` takes as `extra_loss`.

    Args:
        teacher: the wide network; a fused copy of it runs, in evaluation mode and without gradients.
        weight: of the term, > 0.
        temperature: see `distillation_loss`.

    Raises:
        RangeError: a weight or temperature that is not above 0.
    """

    def __init__(self, teacher: nn.Module, weight: float, temperature: float = 2.0) -> None:
        if not (weight > 0 and temperature > 0):
            raise RangeError(
                f"weight and temperature of a distillation must be above 0, got {weight} and {temperature}"
            )
        self._teacher = fuse(teacher)
        self._recorded: RecordedForward | None = None
        self._weight, self._temperature = weight, temperature
        self._of = fingerprint(teacher)

    def __call__(self, x: SparseTensor, logits: Tensor) -> Tensor:
        """The term, a scalar, for the logits (m, classes) that a student made of `x`."""
        with torch.no_grad():
            told = self._teacher.to(x.device)(x).feats
        return self._weight * distillation_loss(logits.float(), told.float(), self._temperature)

    def told(self, x: SparseTensor) -> Tensor:
        """(m, classes) logits of the teacher, on a GPU by a recorded pass; autocast as at the first call."""
        with torch.no_grad():
            if x.device.type != "cuda":
                return self._teacher(x).feats
            if self._recorded is None:
                self._recorded = RecordedForward(self._teacher.to(x.device), x)
            return self._recorded(x).feats

    def of_rows(self, logits: Tensor, told: Tensor, counts: Tensor) -> Tensor:
        """The term for the rows of `counts`, (m,) bool; the others may hold anything."""
        size = 1.0 / self._temperature
        ours = functional.log_softmax(logits.float() * size, dim=1)
        theirs = functional.log_softmax(told.float() * size, dim=1)
        rows = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        mean = (rows * counts).sum() / counts.sum().clamp_min(1)
        return self._weight * self._temperature**2 * mean

    def __repr__(self) -> str:
        """Weight, temperature and the bits of the teacher: equal where the term is the same."""
        return f"Distillation(weight={self._weight}, temperature={self._temperature}, teacher={self._of})"
