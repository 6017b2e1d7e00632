"""The shared list of cases."""

import pytest

from pcsparse.bench.cases import CONV_CASES, MAP_CASES, NET_CASES, tagged

ALL = (*MAP_CASES, *CONV_CASES, *NET_CASES)


def test_names_are_unique_and_every_case_has_a_tag():
    assert len({case.name for case in ALL}) == len(ALL)
    assert all(case.tags for case in ALL)


@pytest.mark.parametrize("cases", [MAP_CASES, CONV_CASES, NET_CASES], ids=["maps", "convs", "nets"])
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


def test_the_published_layers_are_those_of_the_table():
    paper = [case for case in tagged(CONV_CASES, ["paper"]) if case.layer == "submanifold"]
    assert [case.c_in for case in paper if not case.backward] == [16, 32, 64, 96, 128]
    assert [case.c_in for case in paper if case.backward] == [32, 64]
