"""One head made sparse by one method: scores of its stages, bytes, milliseconds, and the file read back."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from pcsparse.compress.heads import (
    EIESettings,
    HeadsReport,
    TwoFourSettings,
    load_heads,
    save_heads,
    sparsify_heads,
)
from pcsparse.errors import FormatError
from pcsparse.programs.sparse_heads_score import Score, accuracy, gain
from pcsparse.programs.sparse_heads_tasks import Task, count_right, train
from pcsparse.timing import Timing, time_in_turns
from pcsparse.train.evaluation import evaluating

CONTROL, LAST = "dense, fine-tuned", "packed"
Way = Literal["auto", "sparse", "dense"]


@dataclass(frozen=True)
class FineTuning:
    """How the head is trained between its stages.

    Args:
        epochs: of each fit: after pruning, and once more after sharing.
        lr_share: peak learning rate as a share of the task's.
        shared_share: the same for centroids.
        seed: of order and augmentation.
    """

    epochs: int
    lr_share: float = 0.3
    shared_share: float = 0.1
    seed: int = 1


@dataclass(frozen=True)
class HeadRun:
    """What came of it.

    Attributes:
        task: name.
        method: "eie" or "2:4".
        report: of `sparsify_heads`.
        scores: of each stage of the report, in its order.
        cost: accuracy of the packed head less that of the dense network that was trained as long.
        file: where the packed layers are.
        file_bytes: of that file, biases and header included.
        huffman_file_bytes: of the same with Huffman codes; None where the format has none.
        dense: time of the dense head for one item, caches warm.
        packed: of the packed one, which takes the product that it finds faster.
        products: what each layer chose and why, by name.
        seconds: that pruning, fine-tuning and all evaluations took.
    """

    task: str
    method: str
    report: HeadsReport
    scores: tuple[Score, ...]
    cost: Score
    file: Path
    file_bytes: int
    huffman_file_bytes: int | None
    dense: Timing
    packed: Timing
    products: dict[str, tuple[str, ...]]
    seconds: float

    def score(self, stage: str) -> Score | None:
        """Of a stage by its name; None where it did not occur."""
        found = (
            score for given, score in zip(self.report.stages, self.scores, strict=True) if given.name == stage
        )
        return next(found, None)


def run_head(
    task: Task,
    trained: nn.Module,
    method: EIESettings | TwoFourSettings,
    tuning: FineTuning,
    folder: Path,
    *,
    timed_runs: int = 50,
) -> HeadRun:
    """Make the head of a trained network sparse, fine-tune, write it, read it back, and time it.

    Args:
        task: that it was trained on.
        trained: stays as it is.
        method: and its settings.
        tuning: between the stages.
        folder: gets the files; must exist.
        timed_runs: of each head.

    Raises:
        FormatError: the network that was read back predicts something else.
    """
    counts: list[Tensor] = []

    def evaluate(model: nn.Module) -> float:
        counts.append(count_right(model, task))
        right, counted = counts[-1].sum(dim=0).tolist()
        return right / counted

    def fit(share: float) -> Callable[[nn.Module], float]:
        return lambda model: train(model, task, tuning.epochs, share * task.lr, tuning.seed)

    model = copy.deepcopy(trained)
    begin = time.perf_counter()
    report = sparsify_heads(
        model,
        method,
        heads=(task.head,),
        evaluate=evaluate,
        fit=fit(tuning.lr_share),
        fit_shared=fit(tuning.shared_share) if isinstance(method, EIESettings) else None,
        with_dense_control=True,
    )
    seconds = time.perf_counter() - begin
    stages = [stage.name for stage in report.stages]
    name = f"{task.name}-{report.method.replace(':', 'to')}"
    file, coded = folder / f"{name}.safetensors", folder / f"{name}-huffman.safetensors"
    save_heads(model, file)
    with_codes = report.huffman_bytes is not None
    if with_codes:
        save_heads(model, coded, with_huffman=True)
    for path in (file, coded) if with_codes else (file,):
        check_file(task, model, path)
    times, products = _time_heads(task, trained, model, timed_runs)
    return HeadRun(
        task.name,
        report.method,
        report,
        tuple(map(accuracy, counts)),
        gain(counts[stages.index(CONTROL)], counts[stages.index(LAST)]),
        file,
        file.stat().st_size,
        coded.stat().st_size if with_codes else None,
        times["dense"],
        times["packed"],
        products,
        seconds,
    )


def check_file(task: Task, model: nn.Module, path: Path) -> None:
    """Read packed layers into a new network, which must predict what `model` does, bit for bit.

    What is not in the file, the rest of the network, is taken from `model`. Both take the dense product: the
    faster one may be another one in each, and with it the last bits.

    Args:
        task: whose held-out data are predicted.
        model: with packed layers.
        path: file of them.

    Raises:
        FormatError: another prediction, or layers that are missing.
    """
    fresh = task.network()
    names = load_heads(fresh, path, mode="dense")
    ours = copy.deepcopy(model)
    for name in names:
        ours.get_submodule(name).mode = "dense"  # type: ignore[assignment]
    rest = {
        key: value
        for key, value in model.state_dict().items()
        if not any(key.startswith(f"{name}.") for name in names)
    }
    missing, unexpected = fresh.load_state_dict(rest, strict=False)
    strange = [key for key in missing if not any(key.startswith(f"{name}.") for name in names)]
    if strange or unexpected:
        raise FormatError(f"{path}: the file and the network share no parameters {strange + unexpected}")
    with evaluating(fresh), evaluating(ours):
        for batch in task.test_batches():
            if not torch.equal(fresh(*batch.inputs), ours(*batch.inputs)):
                raise FormatError(f"{path}: a network that reads its head from this file predicts otherwise")


def _time_heads(
    task: Task, trained: nn.Module, model: nn.Module, runs: int
) -> tuple[dict[str, Timing], dict[str, tuple[str, ...]]]:
    """Both heads on what arrives at the dense one for the first held-out item."""
    arrived: list[Tensor] = []
    before, after = trained.get_submodule(task.head), model.get_submodule(task.head)
    handle = before.register_forward_pre_hook(lambda module, args: arrived.append(args[0]))
    try:
        with evaluating(trained):
            trained(*next(task.test_batches(1)).inputs)
    finally:
        handle.remove()
    x = arrived[0]
    with evaluating(trained), evaluating(model):
        # the packed layers measure here, if they have not met a batch of one yet
        after(x)
        times = time_in_turns(
            {"dense": lambda: before(x), "packed": lambda: after(x)}, runs=runs, warmup=3, settle=1
        )
    products = {
        name: tuple(map(str, module.choices))
        for name, module in model.named_modules()
        if hasattr(module, "choices") and name.startswith(f"{task.head}.") and not name.endswith(".linear")
    }
    return times, products
