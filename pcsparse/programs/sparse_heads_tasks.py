"""What a task on which sparse heads are judged gives, and how networks learn it and are counted on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pcsparse.data.label_map import IGNORE
from pcsparse.errors import RangeError
from pcsparse.train.evaluation import evaluating
from pcsparse.train.schedule import build_optimizer, lr_factor, set_lr
from pcsparse.train.settings import OptimSettings, ScheduleSettings

Report = Callable[[str], None]

_SCHEDULE = ScheduleSettings("cosine", warmup=0.1, final=0.01)


@dataclass(frozen=True, eq=False)
class Batch:
    """What a network takes, what is right, and whose it is.

    Attributes:
        inputs: arguments of the network's forward.
        targets: of the logits' shape without their dimension 1, int64; `IGNORE` does not count.
        groups: (items,) int64, positions in the groups that are drawn for a confidence interval.
    """

    inputs: tuple[Tensor | int | None, ...]
    targets: Tensor
    groups: Tensor


class Task(Protocol):
    """A small task with data to learn from and data that are held out.

    Attributes:
        name: one word.
        classes: names, by target.
        n_groups: held-out groups that do not depend on each other.
        n_batches: training batches an epoch.
        lr: peak learning rate of a network that knows nothing.
        head: name of the network's head.
    """

    name: str
    classes: tuple[str, ...]
    n_groups: int
    n_batches: int
    lr: float
    head: str

    def network(self) -> nn.Module:
        """A new network; seed torch before."""
        ...

    def train_batches(self, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch, in the order and with the augmentation that `generator` draws."""
        ...

    def test_batches(self, size: int | None = None) -> Iterator[Batch]:
        """The held-out data, `size` items at a time; the task's own size if None."""
        ...


def train(model: nn.Module, task: Task, epochs: int, lr: float, seed: int) -> float:
    """Train all parameters by AdamW with a cosine schedule.

    Args:
        model: changed in place; in training mode afterwards.
        task: what to learn.
        epochs: passes over its training data.
        lr: peak learning rate.
        seed: of order, augmentation and dropout.

    Returns:
        The mean loss of the last epoch.

    Raises:
        RangeError: the loss stopped being finite.
    """
    # dropout draws from torch's own generator: from the seed too, and nobody else's numbers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(model, task, epochs, lr, torch.Generator().manual_seed(seed))


def _train(model: nn.Module, task: Task, epochs: int, lr: float, generator: torch.Generator) -> float:
    optimizer = build_optimizer(model, OptimSettings("adamw", lr, weight_decay=0.01))
    model.train()
    losses: list[float] = []
    step, n_steps = 0, epochs * task.n_batches
    for _ in range(epochs):
        losses = []
        for batch in task.train_batches(generator):
            set_lr(optimizer, lr * lr_factor(step, n_steps, _SCHEDULE))
            loss = cross_entropy(model(*batch.inputs), batch.targets, ignore_index=IGNORE)
            losses.append(float(loss.detach()))
            if not np.isfinite(losses[-1]):
                raise RangeError(
                    f"{task.name}: the loss is {losses[-1]} at step {step} of {n_steps}; lower lr={lr}"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
    return float(np.mean(losses))


def count_right(model: nn.Module, task: Task) -> Tensor:
    """Right and counted predictions of each held-out group: (n_groups, 2) int64."""
    found = torch.zeros(task.n_groups, 2, dtype=torch.int64)
    with evaluating(model):
        for batch in task.test_batches():
            right = model(*batch.inputs).argmax(dim=1) == batch.targets
            counted = (batch.targets != IGNORE).flatten(1).sum(dim=1) if right.dim() > 1 else None
            n_right = right.flatten(1).sum(dim=1) if right.dim() > 1 else right.long()
            n_counted = torch.ones_like(n_right) if counted is None else counted
            found.index_add_(0, batch.groups, torch.stack([n_right, n_counted], dim=1))
    return found


def commonest_share(task: Task) -> float:
    """Accuracy of always naming the class that is commonest among the held-out targets."""
    counts = torch.zeros(len(task.classes), dtype=torch.int64)
    for batch in task.test_batches():
        counts += torch.bincount(batch.targets[batch.targets != IGNORE], minlength=len(counts))
    return int(counts.max()) / int(counts.sum())
