"""One optimiser step: accumulation, clipping, averaging; and the state they leave behind."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pcsparse.checks import usable_device
from pcsparse.data.collate import VoxelBatch
from pcsparse.errors import RangeError
from pcsparse.train.checkpoint import TrainState, rng_state, set_rng_state
from pcsparse.train.clock import RunClock
from pcsparse.train.ema import ExponentialAverage
from pcsparse.train.passes import ExtraLoss, Passes, Penalty
from pcsparse.train.schedule import build_optimizer, lr_factor, set_lr
from pcsparse.train.settings import FitSettings


@dataclass(frozen=True)
class StepFacts:
    """What one step did.

    Attributes:
        loss: mean over the network passes that counted, and the penalty; 0 where none did.
        lr: learning rate.
        grad_norm: norm of all gradients together, before clipping.
        n_sweeps, n_voxels, n_labelled: of the step; n_labelled are the voxels that counted.
        n_skipped: network passes left out because nothing in them was labelled.
    """

    loss: float
    lr: float
    grad_norm: float
    n_sweeps: int
    n_voxels: int
    n_labelled: int
    n_skipped: int


class Stepper:
    """The moving parts of one run.

    Args:
        model: moved to the device of the settings.
        settings: of the run.
        n_steps: optimiser steps of the whole run.
        weights: (n_classes,) class weights, or None.
        extra_loss: added to the loss, see `ExtraLoss`; None for none.
        penalty: added to the loss of a step, see `Penalty`; None for none.

    Attributes:
        step: optimiser steps done.
        best_miou: highest validation mIoU so far, kept here because it is stored; -1 before the first.
        n_skipped: network passes left out so far because nothing in them was labelled.
        clock: of the run's time limit; it runs from the start of the Stepper.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: FitSettings,
        n_steps: int,
        weights: Tensor | None,
        extra_loss: ExtraLoss | None = None,
        penalty: Penalty | None = None,
    ) -> None:
        self.settings = settings
        self.n_steps = n_steps
        self.device = usable_device(settings.device)
        self.model = model.to(self.device)
        self.optimizer = build_optimizer(self.model, settings.optim)
        self.average = ExponentialAverage(self.model, settings.ema_decay) if settings.ema_decay else None
        weights = None if weights is None else weights.to(self.device)
        self._passes = Passes(self.model, settings, weights, extra_loss)
        self._penalty = penalty
        self.clock = RunClock(settings.time_limit)
        self.step = 0
        self.best_miou = -1.0
        self.n_skipped = 0

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are validated and stored."""
        return self.model if self.average is None else self.average.model

    def state(self, facts: dict[str, str]) -> TrainState:
        """All that a resumed run needs; the tensors are the live ones."""
        return TrainState(
            step=self.step,
            best_miou=self.best_miou,
            n_skipped=self.n_skipped,
            facts=facts,
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            average={} if self.average is None else self.average.model.state_dict(),
            rng=rng_state(self.device),
            seconds=self.clock.seconds,
        )

    def restore(self, state: TrainState) -> None:
        """Go back to a stored state."""
        self.model.load_state_dict(state.model)
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None:
            self.average.model.load_state_dict(state.average)
        self.clock.go_on(state.seconds)
        self.step, self.best_miou, self.n_skipped = state.step, state.best_miou, state.n_skipped
        set_rng_state(state.rng, self.device)

    def advance(self, batches: list[VoxelBatch]) -> StepFacts:
        """One optimiser step over some network passes; none at all where nothing in them is labelled.

        Raises:
            RangeError: the loss or a gradient is not finite.
        """
        useful = [batch for batch in batches if batch.n_labelled]
        n_skipped = len(batches) - len(useful)
        # a clock that is ahead of the steps moves the schedule along
        place = max(self.step, self.clock.share * (self.n_steps - 1))
        lr = self.settings.optim.lr * lr_factor(place, self.n_steps, self.settings.schedule)
        set_lr(self.optimizer, lr)
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        losses = [self._passes.run(batch, 1 / len(useful)) for batch in useful]
        if useful and self._penalty is not None:
            losses.append(self._penalty(self.model).to(losses[0]))
        loss_sum, grad_norm = self._update(losses) if useful else (0.0, 0.0)
        if not (np.isfinite(loss_sum) and np.isfinite(grad_norm)):
            raise RangeError(
                f"step {self.step}: loss {loss_sum}, gradient norm {grad_norm}; the weights were left as "
                "they were and the last checkpoint is sound: lower optim.lr, or set grad_clip"
            )
        if self.average is not None:
            self.average.update(self.model, self.step)
        self.step += 1
        self.n_skipped += n_skipped
        return StepFacts(
            loss=loss_sum,
            lr=lr,
            grad_norm=grad_norm,
            n_sweeps=sum(len(batch.names) for batch in batches),
            n_voxels=sum(len(batch.coords) for batch in batches),
            n_labelled=sum(batch.n_labelled for batch in useful),
            n_skipped=n_skipped,
        )

    def _update(self, losses: list[Tensor]) -> tuple[float, float]:
        """Change the weights; returns the sum of the losses, and the norm of the gradients."""
        limit = self.settings.grad_clip or float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        # one wait for the device for all of them
        *values, grad_norm = torch.stack([*losses, norm]).tolist()
        loss_sum = sum(values)
        # a step with such gradients would destroy the weights
        if np.isfinite(loss_sum) and np.isfinite(grad_norm):
            self.optimizer.step()
        return loss_sum, grad_norm
