"""Sensitivity: how much worse a network gets when one layer or one group alone is pruned, ratio by ratio.

Each curve should be flat at first, then fall; one that falls at once says that its layer must stay, or that
pruning is implemented wrong. That layers act on each other is ignored.

Source: Han et al., NeurIPS 2015 (arXiv 1506.02626), section 3.1 and Fig. 6, for weights.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from pcsparse.compress.search.executor import Executor, InProcess
from pcsparse.compress.sensitivity_axes import Axis as Axis
from pcsparse.compress.sensitivity_axes import ChannelsAxis as ChannelsAxis
from pcsparse.compress.sensitivity_axes import WeightsAxis as WeightsAxis
from pcsparse.compress.sensitivity_axes import axis_of
from pcsparse.compress.sensitivity_evaluation import Cut, PrunedScore
from pcsparse.compress.sensitivity_evaluation import Evaluate as Evaluate
from pcsparse.compress.sensitivity_log import PointLog
from pcsparse.compress.sensitivity_table import Evaluation, Point, SensitivityTable
from pcsparse.compress.weights import check_ratio
from pcsparse.errors import RangeError
from pcsparse.nn.conv import SparseConv

# of torch, which MinkUNet takes
_USUAL_EPS = 1e-5

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def scan(
    model: nn.Module,
    evaluate: Evaluate,
    *,
    axis: str | Axis = "weights",
    ratios: Sequence[float] = RATIOS,
    names: Sequence[str] | None = None,
    log: Path | None = None,
    stop_after: float | None = None,
    worst: float = 0.0,
    tag: str = "",
    on_point: Callable[[Point], object] | None = None,
    executor: Executor[Cut | None, Evaluation] | None = None,
) -> SensitivityTable:
    """Prune every layer or group alone at every ratio, and evaluate; nothing is trained.

    The model is pruned in place and comes back bit for bit after each evaluation, also where that raises.
    Which executor is used, and with how many workers, changes no point; only the order in which they are
    logged. A scan that was cut off goes on with any other.

    Args:
        model: trained.
        evaluate: scores it, the same for the same weights. A score that is not finite is logged as failed,
            is never suggested, and stands in curves as `worst`.
        axis: "weights", "channels", "offsets", "voxels", or an axis with settings of its own, as
            `ChannelsAxis` with a cost, or `OffsetsAxis` with sweeps: by its name alone it goes by the sizes
            of weights, as if all offsets had as many pairs, and knows no costs.
        ratios: shares to remove, each in [0, 1). Where rounding makes two the same, it is evaluated once, and
            points tell the ratio that came out; where it leaves all, as the network as it is.
        names: which layers or groups; all if None.
        log: a file of JSON lines, made or resumed: what it holds is not evaluated again. A kill loses the
            evaluations that were running.
        stop_after: leave out the larger ratios of a layer once its metric fell by more than this.
        worst: what a failed evaluation counts as in curves; choose less than the network as it is has.
        tag: says what `evaluate` does, its sweeps above all; a log with another tag is refused.
        on_point: called with each point as it is there.
        executor: where evaluations run, by default in this process, layer by layer. In others each has a copy
            of the model, and `evaluate` is sent there once: a function or an object of a class at the top of
            a module. With `stop_after` all layers wait for each other at each of their ratios. Milliseconds
            come from the cost of the axis, never from workers.

    Raises:
        RangeError: ratios outside [0, 1), an unknown name, or a dense network whose metric is not finite.
        UnsupportedError: no such axis, an operator that the channel graph does not know, or what cannot be
            sent to another process.
        FormatError: `log` belongs to another scan.
    """
    _check_ratios(ratios)
    how = axis_of(axis, model)
    sizes = how.sizes()
    chosen = list(sizes) if names is None else list(names)
    unknown = [name for name in chosen if name not in sizes]
    if unknown:
        raise RangeError(
            f"nothing is called {unknown[0]!r} on the axis {how.name}; there are {', '.join(sizes)}"
        )
    curves = [
        [(name, kept) for kept in sorted({how.kept(name, ratio) for ratio in ratios}, reverse=True)]
        for name in dict.fromkeys(chosen)
    ]
    facts = {"axis": how.name, "model": fingerprint(model), "worst": worst, "tag": tag, **how.facts()}
    score = PrunedScore(model, how, evaluate)
    found: dict[Cut, Point] = {}
    # before any work: an axis may be somebody's own
    labels = dict(how.labels())
    with PointLog(log, facts) as known:
        points = _Points(how, score, executor or InProcess(), known)
        dense = points.dense()

        def fell(point: Point) -> bool:
            # whatever `worst` is: what failed fell by more than any number
            fallen = math.inf if point.metric is None else dense.metric - point.metric
            return stop_after is not None and fallen > stop_after

        for lanes in _lanes(curves, in_order=executor is None, each=stop_after is None):
            for cut, point in points.along(lanes, fell):
                found[cut] = point
                if on_point is not None:
                    on_point(point)
    listed = tuple(found[cut] for curve in curves for cut in curve if cut in found)
    return SensitivityTable(how.name, dense, listed, worst, labels)


def _lanes(curves: Sequence[list[Cut]], *, in_order: bool, each: bool) -> Iterator[list[list[Cut]]]:
    """What may be evaluated side by side: lists of which each element waits for the one before it."""
    if each:
        # nothing stops a curve, so that nothing waits
        yield [[cut] for curve in curves for cut in curve]
    elif in_order:
        yield from ([curve] for curve in curves)
    else:
        yield list(curves)


class _Points:
    """Evaluations from the log, or else made and logged."""

    def __init__(
        self, axis: Axis, score: PrunedScore, executor: Executor[Cut | None, Evaluation], log: PointLog
    ) -> None:
        self._axis, self._score, self._executor, self._log = axis, score, executor, log
        self._sizes = axis.sizes()
        self._dense: Evaluation | None = None

    def dense(self) -> Evaluation:
        dense = self._log.dense()
        if dense is None:
            (finished,) = self._executor.run(self._score, [None])
            dense = finished.score
            if not math.isfinite(dense.metric):
                raise RangeError(
                    f"the metric of the network as it is, is {dense.metric}; there is nothing to scan"
                )
            self._log.write_dense(dense)
        self._dense = dense
        return dense

    def along(
        self, lanes: Sequence[Sequence[Cut]], stops: Callable[[Point], bool]
    ) -> Iterator[tuple[Cut, Point]]:
        """The points of all lanes, each as it is there; a lane ends behind a point that stops it."""
        waiting = [list(lane) for lane in lanes]
        while any(waiting):
            batch = [lane[0] for lane in waiting if lane]
            ended = set()
            for cut, point in self._batch(batch):
                yield cut, point
                if stops(point):
                    ended.add(cut)
            waiting = [[] if not lane or lane[0] in ended else lane[1:] for lane in waiting]

    def _batch(self, cuts: Sequence[Cut]) -> Iterator[tuple[Cut, Point]]:
        missing = []
        for cut in cuts:
            point = self._log.point(*cut)
            if point is None and self._dense is not None and cut[1] == self._sizes[cut[0]]:
                # rounding left all of it: that is the network as it is
                point = self._logged(cut, self._dense, 0.0)
            if point is None:
                missing.append(cut)
            else:
                # the log may be of a time when the cost was not measured yet
                yield cut, replace(point, macs=self._axis.macs(*cut), ms=self._axis.milliseconds(*cut))
        for finished in self._executor.run(self._score, missing):
            cut = missing[finished.position]
            yield cut, self._logged(cut, finished.score, finished.seconds)

    def _logged(self, cut: Cut, found: Evaluation, seconds: float) -> Point:
        name, kept = cut
        costs = self._axis.macs(*cut), self._axis.milliseconds(*cut)
        point = Point.of(name, kept, self._sizes[name], *costs, found, seconds)
        self._log.write(point)
        return point


def fingerprint(model: nn.Module) -> str:
    """A short hash of all parameters and buffers, and of how modules use them: equal for equal networks.

    Modules of a user's own count by their tensors, their parts, and what their `extra_repr` says.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    for name, part in model.named_modules():
        if unusual := _unusual(part):
            digest.update(f"{name} {unusual}".encode())
    return digest.hexdigest()[:16]


def _unusual(part: nn.Module) -> dict[str, object]:
    """What no tensor tells of a module; nothing of those of MinkUNet, whose logs from before go on."""
    if isinstance(part, SparseConv):
        return _unusual_conv(part)
    if isinstance(part, _NormBase):
        return {} if part.eps == _USUAL_EPS else {"eps": part.eps}
    # sizes are told by the weight, and a scan drops nothing
    if isinstance(part, nn.Linear | _DropoutNd):
        return {}
    # packed layers print their measured choices from the second line on
    printed = part.extra_repr().partition("\n")[0].replace("inplace=True", "")
    return {"settings": printed} if printed else {}


def _unusual_conv(conv: SparseConv) -> dict[str, object]:
    found: dict[str, object] = {}
    relation = conv.relation
    if relation.stride != ((2, 2, 2) if relation.kernel_size == (2, 2, 2) else (1, 1, 1)):
        found["stride"] = relation.stride
    if relation.padding != (0, 0, 0):
        found["padding"] = relation.padding
    if conv.offsets is not None:
        found["offsets"] = conv.offsets
    if relation.dilation != (1, 1, 1):
        found["dilation"] = relation.dilation
    if conv.voxels is not None:
        found |= {"voxels": conv.voxels, "rest": conv.rest}
    return found


def _check_ratios(ratios: Sequence[float]) -> None:
    if not ratios:
        raise RangeError("a scan needs at least one ratio, got none")
    for ratio in ratios:
        check_ratio(ratio, "a scan")
