"""The search space of a network: its cost is that of the table, its networks are slices."""

import pytest
import torch

from pcsparse import SparseTensor
from pcsparse.compress.channel_scores import channel_scores
from pcsparse.compress.cost_measure import measure_cost
from pcsparse.compress.graph import ChannelGraph
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.uniform import Uniform
from pcsparse.compress.sensitivity_table import Evaluation, Point, SensitivityTable
from pcsparse.compress.space_of import curves_of, kept_of, network_of, space_of
from pcsparse.errors import RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from tests.clouds import PLANE

RATIOS = (0.25, 0.5, 0.75)


@pytest.fixture(scope="module")
def parts(one_thread):
    torch.manual_seed(0)
    model = MinkUNet(MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 4)).eval()
    graph = ChannelGraph.of(model)
    x = SparseTensor(torch.randn(len(PLANE.coords), 3), PLANE.coords)
    fused = measure_cost(model, [x], graph=graph, multiple=2, step=1000, runs=1)
    plain = measure_cost(model, [x], graph=graph, multiple=2, step=1000, runs=1, fused=False)
    return model, graph, x, {"fused": fused, "plain": plain}


@pytest.mark.parametrize("unit", ["ms", "MACs", "bytes"])
@pytest.mark.parametrize("form", ["fused", "plain"])
def test_the_cost_of_an_assignment_is_that_of_the_table(parts, unit, form):
    _, graph, _, tables = parts
    space = space_of(graph, tables[form], unit, ratios=RATIOS, multiple=2)
    rng = torch.Generator().manual_seed(1)
    sizes = torch.tensor(space.sizes)
    seen = set()
    for _ in range(40):
        draw = (torch.rand(len(sizes), generator=rng) * sizes).int().tolist()
        assignment = space.assignment(draw)
        seen.add(assignment)
        widths = graph.widths(kept_of(space, assignment))
        assert space.cost(assignment) == pytest.approx(tables[form].total(unit, widths), rel=1e-9)
    assert len(seen) == 40
    assert space.cost(space.largest) == pytest.approx(tables[form].total(unit), rel=1e-9)


def test_steps_are_the_groups_with_what_a_search_wants_to_know(parts):
    _, graph, x, tables = parts
    space = space_of(graph, tables["fused"], ratios=RATIOS, multiple=2)
    assert [step.name for step in space.steps] == [group.name for group in graph.free]
    first = space.steps[0]
    assert (first.name, first.widths, first.c_in, first.c_out) == ("stem.0", (2, 4, 6, 8), 3, 8)
    assert (first.kernel, first.stride, first.voxels, first.kind) == (27, 1, len(x), 0)
    down = space.steps[[step.name for step in space.steps].index("down.0.0")]
    assert (down.stride, down.kernel) == (2, 8)
    # a skip is one term over what it joins and what it writes
    term = next(term for term in space.terms if term.name == "decoder.3.0.conv1 (conv)")
    assert set(term.groups) == {"up.3.0", "stem.2", "decoder.3.0.conv1"}


def test_a_network_of_an_assignment_has_its_widths(parts):
    model, graph, x, tables = parts
    space = space_of(graph, tables["fused"], "MACs", ratios=RATIOS, multiple=2)
    scores = channel_scores(model, graph)
    assignment = space.assignment([i % size for i, size in enumerate(space.sizes)])
    net = network_of(model, graph, scores, space, assignment)
    assert {group.name: group.width for group in ChannelGraph.of(net).free} == kept_of(space, assignment)
    again = measure_cost(net, [x], multiple=2, step=1000, runs=1)
    assert space.cost(assignment) == pytest.approx(again.total("MACs"))


def test_a_search_runs_over_it(parts):
    model, graph, x, tables = parts
    space = space_of(graph, tables["fused"], "MACs", ratios=RATIOS, multiple=2)
    scores = channel_scores(model, graph)
    with torch.no_grad():
        expected = model(x).feats

    def evaluate(assignment) -> float:
        with torch.no_grad():
            found = network_of(model, graph, scores, space, assignment)(x).feats
        return float(1.0 / (1.0 + (found - expected).abs().mean()))

    budget = 0.5 * space.cost(space.largest)
    result = search(space, evaluate, budget, 4, method=Uniform())
    assert result.best.cost <= budget


def test_curves_of_a_scan_have_a_score_for_each_width_that_was_scanned(parts):
    _, graph, _, tables = parts
    space = space_of(graph, tables["fused"], ratios=RATIOS, multiple=2)
    points = [
        Point.of(step.name, kept, step.full, None, None, Evaluation(0.5 + kept / 100), 0.0)
        for step in space.steps
        for kept in step.widths[1:-1]
    ]
    first = points[0].name
    points[0] = Point.of(first, points[0].kept, points[0].size, None, None, Evaluation(float("nan")), 0.0)
    table = SensitivityTable("channels", Evaluation(0.9), tuple(points), worst=0.1)
    curves = curves_of(space, table)
    assert curves.base == 0.9
    for step, scores in zip(space.steps, curves.scores, strict=True):
        expected = [None, *(0.5 + width / 100 for width in step.widths[1:-1]), None]
        if step.name == first:
            # what failed counts as the worst
            expected[1] = 0.1
        assert list(scores) == pytest.approx(expected)
    assert len(curves.losses(space)) == len(space.steps)
    assert curves.losses(space)[1][0] == 0.9
    with pytest.raises(RangeError, match="was not scanned"):
        curves_of(space, SensitivityTable("channels", Evaluation(0.9), tuple(points[4:])))


def scanned(space, kept, scores):
    """A table of the same points for each step; sizes are those of the space."""
    points = [
        Point.of(step.name, one(step.full), step.full, None, None, Evaluation(score), 0.0)
        for step in space.steps
        for one, score in zip(kept, scores, strict=True)
    ]
    return SensitivityTable("channels", Evaluation(0.9), tuple(points))


def test_curves_of_a_scan_at_other_widths_are_lines_between_them(parts):
    _, graph, _, tables = parts
    space = space_of(graph, tables["fused"], ratios=(0.25, 0.5, 0.75), multiple=2)
    first = space.steps[0]
    assert (first.widths, first.full) == ((2, 4, 6, 8), 8)
    # 3 and 7 of 8, neither of which the search may choose
    table = scanned(space, [lambda full: full - full // 8, lambda full: full // 2 - full // 8], [0.8, 0.4])
    assert curves_of(space, table).scores[0] == pytest.approx((None, 0.5, 0.7, None))
    losses = curves_of(space, table).losses(space)[0]
    assert losses == pytest.approx([0.9, 0.4, 0.2, 0.0])
    # up to the next width that did not fail nothing is known
    table = scanned(
        space, [lambda full: full - full // 8, lambda full: full // 2 + 1, lambda _: 1],
        [0.8, float("nan"), 0.4],
    )  # fmt: skip
    assert curves_of(space, table).scores[0] == pytest.approx((0.4 * 3 / 4, 0.4 * 1 / 4, 0.0, None))


def test_a_step_that_was_scanned_as_a_whole_alone_is_refused(parts):
    _, graph, _, tables = parts
    space = space_of(graph, tables["fused"], ratios=(0.5,), multiple=2)
    table = scanned(space, [lambda full: full], [0.9])
    with pytest.raises(RangeError, match=r"leave 'stem\.0' whole, as rounded.*scan larger ratios"):
        curves_of(space, table)
    # nothing is to be known of a step that stays
    whole = space_of(graph, tables["fused"], ratios=(0.0,), multiple=2)
    assert curves_of(whole, table).losses(whole)[0] == [0.0]


def test_tables_that_do_not_fit_are_refused(parts):
    model, graph, x, tables = parts
    coarse = measure_cost(model, [x], graph=graph, multiple=8, step=1000, runs=1)
    with pytest.raises(RangeError, match="was timed at widths"):
        space_of(graph, coarse, ratios=RATIOS, multiple=2)
    other = ChannelGraph.of(MinkUNet(MinkUNetSpec.minkunet18(in_channels=3, n_classes=5, width=1 / 4)))
    with pytest.raises(RangeError, match="has no layer"):
        space_of(other, tables["fused"], ratios=RATIOS)
    with pytest.raises(RangeError, match="a ratio is the share to remove"):
        space_of(graph, tables["fused"], ratios=[1.0])
