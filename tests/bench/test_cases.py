"""The shared list of cases."""

import pytest
import torch

from pcsparse.bench.cases import (
    CONV_CASES,
    DATAFLOW_CASES,
    MAP_CASES,
    NET_CASES,
    REFERENCE_OPERATIONS,
    REFERENCE_PAIRS,
    SCALING_VOXELS,
    Goal,
    tagged,
)

ALL = (*MAP_CASES, *CONV_CASES, *NET_CASES, *DATAFLOW_CASES)


def test_names_are_unique_and_every_case_has_a_tag():
    assert len({case.name for case in ALL}) == len(ALL)
    assert all(case.tags for case in ALL)


@pytest.mark.parametrize(
    "cases",
    [MAP_CASES, CONV_CASES, NET_CASES, DATAFLOW_CASES],
    ids=["maps", "convs", "nets", "dataflows"],
)
def test_each_kind_has_a_quick_and_a_published_case(cases):
    assert tagged(cases, ["ci"])
    assert tagged(cases, ["paper"])


def test_tagged_takes_any_of_the_tags_in_order():
    paper, stress = tagged(CONV_CASES, ["paper"]), tagged(CONV_CASES, ["stress"])
    both = tagged(CONV_CASES, ["stress", "paper"])

    assert set(both) == set(paper) | set(stress)
    assert list(both) == [case for case in CONV_CASES if case in both]
    assert stress
    assert not set(paper) & set(stress)


def _published(backward, dtype):
    cases = [case for case in tagged(CONV_CASES, ["paper"]) if case.layer == "submanifold"]
    return {
        case.c_in: None if case.goal is None else round(1e3 * case.goal.seconds, 3)
        for case in cases
        if case.backward == backward and case.dtype == dtype
    }


def test_the_published_layers_and_their_goals_are_those_of_the_table():
    table = {16: 0.9, 32: 2.5, 64: 7.5, 96: 14.5, 128: 25}
    # widths off the registers have no figure to reach, and stand there so that a cliff would show
    assert _published(False, torch.float32) == {**table, 17: None, 65: None, 100: None}
    assert _published(False, torch.bfloat16) == {64: 5, 96: 9, 128: 15, 256: 52}
    assert _published(True, torch.float32) == {32: 8, 64: 22}


def test_the_published_maps_are_of_every_kind_and_two_have_the_goal():
    published = {case.name: case for case in tagged(MAP_CASES, ["paper"])}
    assert {case.relation.kernel_size[0] for case in published.values()} == {2, 3, 5, 7}
    assert {case.way for case in published.values()} == {"down", "inverse", "generative"}
    assert {"map 3^3 dilation 2", "map 3^3 stride 2", "map 3^3 shuffled"} <= set(published)
    assert {name for name, case in published.items() if case.goal is not None} == {
        "map 3^3",
        "map 3^3 shuffled",
    }


def test_the_published_networks_and_their_goals_are_those_of_the_table():
    goals = {
        (case.training, case.dtype, case.form): round(1e3 * case.goal.seconds)
        for case in tagged(NET_CASES, ["paper"])
    }
    assert goals == {
        (False, torch.float32, "module"): 850,
        (False, torch.float32, "fused"): 850,
        (False, torch.bfloat16, "module"): 500,
        (False, torch.bfloat16, "fused"): 500,
        (True, torch.float32, "module"): 2700,
        (True, torch.bfloat16, "module"): 1800,
    }


def test_a_goal_grows_with_the_work():
    assert Goal(0.008, REFERENCE_PAIRS).scaled(2 * REFERENCE_PAIRS) == pytest.approx(0.016)
    step = next(case for case in NET_CASES if case.training and "paper" in case.tags)
    # a training step is three times the arithmetic of a forward pass
    assert step.goal.amount == 3 * REFERENCE_OPERATIONS


def test_scaling_covers_what_was_asked():
    assert SCALING_VOXELS[0] == 10_000
    assert SCALING_VOXELS[-1] == round(10**6.5)
