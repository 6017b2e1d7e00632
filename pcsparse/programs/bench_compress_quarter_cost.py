"""What the dense network of the study costs here, and which budget of the table is a share of it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pcsparse.compress.channels import kept_widths
from pcsparse.compress.cost import CostTable
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.space import Assignment, Space
from pcsparse.compress.search.uniform import filled_widths
from pcsparse.compress.space_of import kept_of, space_of
from pcsparse.data.label_map import LabelMap
from pcsparse.engine.autotune import table_of, tune
from pcsparse.engine.conv_call import groups_of
from pcsparse.engine.tune_cache import TuneTable
from pcsparse.errors import FormatError, RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import fuse
from pcsparse.nn.tuning import conv_calls, use_tuning
from pcsparse.programs.bench_compress_quarter_study import QuarterStudy
from pcsparse.programs.bench_compress_score import Sweeps
from pcsparse.programs.bench_compress_streets import IN_CHANNELS
from pcsparse.sparse_tensor import SparseTensor
from pcsparse.timing import time_in_turns
from pcsparse.whole_file import write_whole

TIMED_SWEEPS = 3
_RUNS = 15
# the budget is moved until a narrow network takes its share to within this, at most so often
_CLOSE, _TRIES = 0.02, 4
Milliseconds = dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Costs:
    """What the study knows before anything is trained.

    Attributes:
        dense: the network, its weights drawn at random.
        graph: of it.
        space: its widths, in milliseconds of the table.
        budget: milliseconds of the table.
    """

    dense: MinkUNet
    graph: ChannelGraph
    space: Space
    budget: float

    @property
    def narrow(self) -> Assignment:
        """As uniform as widths can be that use the budget."""
        return filled_widths(self.space, self.budget)

    def network(self, widths: Assignment) -> MinkUNet:
        """A network of these widths, its weights drawn at random."""
        kept = kept_widths(self.graph, kept_of(self.space, widths), 1)
        widths_of = self.graph.widths(kept)
        named = {layer.name: widths_of[layer.name] for layer in self.graph.layers if layer.kind != "norm"}
        return MinkUNet(self.dense.spec.with_channels(named))


def dense_model(study: QuarterStudy) -> MinkUNet:
    """The dense network before its training, always the same one."""
    torch.manual_seed(study.training.seed)
    n_classes = LabelMap.load("synthetic").n_classes
    return MinkUNet(MinkUNetSpec.minkunet18(IN_CHANNELS, n_classes, study.width))


def measure(study: QuarterStudy) -> None:
    """Measure cost.json and budget.json here, where they are not there yet; weights do not matter for times.

    Raises:
        RangeError: a budget that cannot be met; the text says the smallest there is.
    """
    model = dense_model(study)
    graph = ChannelGraph.of(model)
    sweeps = Sweeps(study.streets.batches(study.streets.search), model)
    path = study.out / "cost.json"
    if not path.is_file():
        measure_cost(model, sweeps.inputs, graph=graph).save(path)
    if not (study.out / "budget.json").is_file():
        _find_budget(study, Costs(model, graph, space_of(graph, CostTable.load(path)), 0.0), sweeps)


def costs_of(study: QuarterStudy) -> Costs:
    """What `measure` found, on whichever machine.

    Raises:
        FormatError: it has not been measured.
    """
    model = dense_model(study)
    graph = ChannelGraph.of(model)
    table = CostTable.load(study.out / "cost.json", any_machine=True)
    try:
        budget = float(json.loads((study.out / "budget.json").read_text())["ms"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{study.out / 'budget.json'} cannot be read ({error}); run --part cost first, on the machine "
            "whose milliseconds count"
        ) from error
    return Costs(model, graph, space_of(graph, table), budget)


def _find_budget(study: QuarterStudy, costs: Costs, sweeps: Sweeps) -> None:
    """The milliseconds of the table at which a narrow network measures its share of the dense one.

    Layers that are timed alone find other caches than in a network, so that the table may be some per cent
    off; the narrow control is exact that way, and the pruned one has the same budget.
    """
    space = costs.space
    full, least = space.cost(space.largest), space.cost(space.cheapest)
    budget = study.share * full
    tried: list[dict[str, Any]] = []
    if budget < least:
        raise RangeError(
            f"a budget of {budget:.2f} ms cannot be met: the smallest reachable is {least:.2f} ms, "
            f"{least / full:.1%} of the dense network; give a larger --share or --width"
        )
    while len(tried) < _TRIES and budget >= least:
        now = Costs(costs.dense, costs.graph, space, budget)
        times = times_in_turns({"dense": costs.dense, "narrow": now.network(now.narrow)}, sweeps)
        share = mean_share(times, "narrow")
        tried.append({"table_ms": budget, "share": share, "ms": times})
        print(f"{budget:.1f} ms of {full:.1f} in the table: measured {share:.1%}", flush=True)
        if abs(share / study.share - 1) < _CLOSE or study.share == 1:
            break
        budget *= study.share / share
    best = min(tried, key=lambda one: abs(one["share"] - study.share))
    content = {"ms": best["table_ms"], "tried": tried}
    write_whole(study.out / "budget.json", json.dumps(content, indent=1).encode())


def times_in_turns(nets: Mapping[str, nn.Module], sweeps: Sweeps, *, tuned: bool = False) -> Milliseconds:
    """Milliseconds of networks, maps included, in turns, on a few sweeps; the first is named "dense".

    Args:
        nets: by name.
        sweeps: the first of them are timed.
        tuned: find the fastest plan of each convolution of each network first; otherwise by the rule.
    """
    timed = sweeps.inputs[:TIMED_SWEEPS]
    plans = {name: fastest(net, timed) if tuned else None for name, net in nets.items()}
    fused = {name: use_tuning(fuse(net), plans[name]) for name, net in nets.items()}
    found: dict[str, list[float]] = {name: [] for name in fused}
    with torch.no_grad():
        for x in timed:
            runners = {name: (lambda net=net, x=x: net(x)) for name, net in fused.items()}
            times = time_in_turns({"maps": x.cache.rebuilt, **runners}, runs=_RUNS)
            for name in found:
                found[name].append(1e3 * (times[name].median + times["maps"].median))
    return {name: tuple(values) for name, values in found.items()}


def fastest(net: nn.Module, sweeps: Sequence[SparseTensor]) -> TuneTable:
    """The fastest plan of each convolution in inference, on each of some sweeps."""
    groups = (group for x in sweeps for group in groups_of(conv_calls(net, x)))
    tuned = [tune(group, passes=("forward",)) for group in groups]
    return table_of(tuned, sweeps[0].coords.device)


def mean_share(times: Milliseconds, name: str) -> float:
    """Of the dense network's milliseconds, all sweeps together."""
    return sum(times[name]) / sum(times["dense"])
