"""The lecture's setting as a check on AMC itself: a small dense CNN at half of its multiply-adds.

Plain-20 on images of simulated objects stands for Plain-20 on CIFAR-10 (He et al., ECCV 2018, section 4.1),
where AMC had 90.2 % and uniform widths 89.7. The agent is that of the sparse networks; graph, cost and
slices are too.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.channels import choose_channels
from pcsparse.compress.cost_dense import measure_dense_cost
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.reconstruction import reconstruct
from pcsparse.compress.search.figures import search_figure
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.trials import SearchResult
from pcsparse.compress.sensitivity import fingerprint
from pcsparse.compress.space_of import kept_of, network_of, space_of
from pcsparse.data.synthetic.objects import CLASSES
from pcsparse.errors import RangeError
from pcsparse.models.plain_cnn import PlainCNNSpec
from pcsparse.programs.bench_compress_claim import check_study
from pcsparse.programs.bench_compress_images import CHANNELS, ImageSizes, ImageTask, image_sets
from pcsparse.programs.bench_compress_methods import SEEDED, method_named
from pcsparse.programs.bench_compress_search_table import Judged, rows_of, table_text
from pcsparse.programs.sparse_heads_tasks import count_right, train
from pcsparse.timing import environment
from pcsparse.train.sweep_counts import SweepCounts
from pcsparse.whole_file import write_whole

METHODS = ("uniform", "uniform filled", "random", "evolution", "amc", "amc paper", "amc released code")
_MULTIPLE = 4
"""Sixteen channels in steps of four; no vector unit is asked, the budget is in multiply-adds."""
_RECONSTRUCTED_FROM = 64


@dataclass(frozen=True)
class LectureStudy:
    """What to compare.

    Args:
        out: folder of all files.
        sizes: of the sets of images.
        epochs: of the dense network.
        tuning: epochs of fine-tuning after pruning, at a tenth of the rate.
        share: of the multiply-adds.
        evaluations: of each search.
        seeds: of methods that draw random numbers, and of every fine-tuning: 0, 1, ...
        methods: see `METHODS`; uniform among them.

    Raises:
        RangeError: numbers that no study can be made with, or no uniform widths to compare with.
    """

    out: Path
    sizes: ImageSizes = field(default_factory=ImageSizes)
    epochs: int = 15
    tuning: int = 3
    share: float = 0.5
    evaluations: int = 150
    seeds: int = 3
    methods: tuple[str, ...] = tuple(method for method in METHODS if method != "evolution")

    def __post_init__(self) -> None:
        check_study(share=self.share, seeds=self.seeds, evaluations=self.evaluations)
        if "uniform" not in self.methods:
            raise RangeError(f"gains are over uniform widths; add uniform to the methods {self.methods}")


class PrunedAccuracy:
    """Accuracy of widths on the search images, right after pruning and reconstruction.

    As in AMC: the channels of the largest response stay, and least squares make up for the others. Without
    that a plain network of twenty layers cut by half tells nothing (docs/log.md).

    Args:
        model: the dense network.
        graph, space: of it.
        calibration: images to reconstruct from.
        task: whose test images are those of the search.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, space: Space, calibration: Tensor, task: ImageTask
    ) -> None:
        self._model, self._graph, self._space = model, graph, space
        self._scores = channel_scores(model, graph, "max_response")
        self._calibration, self._task = calibration, task

    def network(self, widths: Assignment) -> nn.Module:
        """The pruned network."""
        pruned = network_of(self._model, self._graph, self._scores, self._space, widths)
        chosen = choose_channels(self._scores, kept_of(self._space, widths))
        reconstruct(self._model, pruned, self._graph, chosen, [self._calibration])
        return pruned

    def __call__(self, widths: Assignment) -> float:
        """0 to 1."""
        right, counted = count_right(self.network(widths), self._task).sum(dim=0).tolist()
        return float(right / counted)


def run(study: LectureStudy) -> int:
    """Train, search, judge; what is done is not done again. Prints two tables; 0."""
    print(environment().header(), flush=True)
    sets = image_sets(study.out / "objects", study.sizes, print)
    tasks = {
        name: ImageTask(PlainCNNSpec.plain20(CHANNELS, len(CLASSES)), sets["train"], sets[name])
        for name in ("search", "held")
    }
    model = _dense(study, tasks["held"])
    graph = ChannelGraph.of(model, torch.zeros(1, CHANNELS, 32, 32))
    image = sets["train"].images[:1]
    table = measure_dense_cost(model, image, graph=graph, multiple=_MULTIPLE, step=1000, runs=1)
    space = space_of(graph, table, "MACs", multiple=_MULTIPLE)
    full = space.cost(space.largest)
    print(f"{len(space.steps)} groups, {full / 1e6:.1f} M multiply-adds an image", flush=True)
    calibration = sets["train"].images[:_RECONSTRUCTED_FROM]
    score = PrunedAccuracy(model, graph, space, calibration, tasks["search"])
    judged: dict[str, list[Judged]] = {"pruned": [], "tuned": []}
    pictured = []
    for method in study.methods:
        for seed in range(study.seeds):
            # a method without random numbers answers once; its fine-tuning has seeds all the same
            result = _search(study, method, seed if method in SEEDED else 0, score, space, full, model)
            pictured += [result] if seed == 0 else []
            net = score.network(result.best.widths)
            if seed == 0 or method in SEEDED:
                counts = _counts(net, tasks["held"])
                judged["pruned"].append(Judged(result, method, study.share, counts, None))
            tuned = _tuned(study, f"{method}-{seed}".replace(" ", "-"), net, seed, tasks["held"])
            judged["tuned"].append(Judged(result, method, study.share, tuned, None))
    dense = _counts(model, tasks["held"])
    texts = []
    for stage, title in (("pruned", "right after pruning"), ("tuned", f"after {study.tuning} epochs")):
        rows = rows_of(judged[stage])
        texts.append(
            f"{title}\n\n{table_text(rows, dense, full / 1e6, None, 'accuracy', 'M MACs', 1e6, 'images')}\n"
        )
    print("\n".join(texts))
    write_whole(study.out / "table.md", "\n".join(texts).encode())
    search_figure(pictured, study.out / "search.png", title=f"Plain-20 at {study.share:.0%} of its MACs")
    return 0


def _dense(study: LectureStudy, task: ImageTask) -> nn.Module:
    """The dense network, trained once."""
    path = study.out / f"dense-{study.epochs}.safetensors"
    torch.manual_seed(0)
    model = task.network()
    if path.is_file():
        model.load_state_dict(load_file(path))
    else:
        begin = time.perf_counter()
        loss = train(model, task, study.epochs, task.lr, seed=0)
        print(f"dense: {study.epochs} epochs in {time.perf_counter() - begin:.0f} s, loss {loss:.3f}")
        write_whole(path, save({name: t.contiguous() for name, t in model.state_dict().items()}))
    right = int(_counts(model, task).right.sum())
    print(f"dense: {right} of {len(task.test)} held-out images right", flush=True)
    return model.eval()


def _search(
    study: LectureStudy, method: str, seed: int, score: PrunedAccuracy, space: Space, full: float,
    model: nn.Module,
) -> SearchResult:  # fmt: skip
    name = f"{method}-{seed}".replace(" ", "-")
    begin = time.perf_counter()
    result = search(
        space, score, study.share * full, study.evaluations, seed,
        method=method_named(method, study.evaluations),
        log=study.out / "logs" / f"{name}.jsonl",
        tag=fingerprint(model),
    )  # fmt: skip
    print(f"{name}: {result.best.counted_score:.4f} in {time.perf_counter() - begin:.0f} s", flush=True)
    return result


def _tuned(study: LectureStudy, name: str, net: nn.Module, seed: int, task: ImageTask) -> SweepCounts:
    """Counts on the held-out images after fine-tuning, from their file where it is there."""
    path = study.out / "tuned" / f"{name}.json"
    facts = {"network": fingerprint(net), "epochs": study.tuning, "seed": seed}
    if path.is_file():
        known = json.loads(path.read_text())
        if known["facts"] == facts:
            return SweepCounts.from_lists(known["counts"])
    if study.tuning:
        train(net, task, study.tuning, 0.1 * task.lr, seed)
    counts = _counts(net, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps({"facts": facts, "counts": counts.to_lists()}).encode())
    return counts


def _counts(net: nn.Module, task: ImageTask) -> SweepCounts:
    """As sweeps of one class, so that the mean IoU is the accuracy."""
    counts = count_right(net, task).numpy()
    right, counted = counts[:, :1], counts[:, 1:]
    return SweepCounts(np.ascontiguousarray(right), counted, counted)


def main(arguments: Sequence[str]) -> int:
    """Parse a command line, without the program's name, and run it."""
    parser = argparse.ArgumentParser(
        prog="bench_compress.py lecture",
        description="AMC on a small dense CNN at half of its multiply-adds, against uniform widths.",
    )
    default = LectureStudy(Path("runs/compress-lecture"))
    parser.add_argument("--out", type=Path, default=default.out, help="folder for all files")
    parser.add_argument("--epochs", type=int, default=default.epochs, help="of the dense network")
    parser.add_argument("--tuning", type=int, default=default.tuning, help="epochs of fine-tuning")
    parser.add_argument("--evaluations", type=int, default=default.evaluations)
    parser.add_argument("--seeds", type=int, default=default.seeds)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=default.methods)
    given = parser.parse_args(arguments)
    return run(
        LectureStudy(
            given.out, epochs=given.epochs, tuning=given.tuning, evaluations=given.evaluations,
            seeds=given.seeds, methods=tuple(given.methods),
        )
    )  # fmt: skip
