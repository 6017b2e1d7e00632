"""The equation and the order of its offsets."""

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.relation import Relation
from pcsparse.errors import RangeError, ShapeError
from tests.oracle import Geometry

SIZES = [*((k, k, k) for k in range(1, 8)), (1, 3, 5), (2, 1, 4)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_offsets_are_the_oracles(size):
    relation = Relation.of(size)

    assert relation.offsets() == Geometry(size).offsets
    assert relation.volume == len(relation.offsets()) == size[0] * size[1] * size[2]


def test_order_of_offsets_by_hand():
    assert Relation.of((1, 2, 3)).offsets() == [
        (0, 0, -1), (0, 0, 0), (0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1),
    ]  # fmt: skip
    assert Relation.of(4).offsets()[:2] == [(0, 0, 0), (0, 0, 1)]
    assert Relation.of(5).offsets()[62] == (0, 0, 0)


def test_steps_are_the_equation_at_coarse_zero():
    geometry = Geometry((2, 3, 1), (2, 1, 3), (1, 2, 3), (0, 1, 2))
    relation = Relation.of((2, 3, 1), (2, 1, 3), (1, 2, 3), (0, 1, 2))

    assert relation.steps() == [geometry.fine((0, 0, 0), k) for k in range(6)]


def test_equal_relations_are_one_object():
    assert Relation.of(3, 2) is Relation.of((3, 3, 3), (2, 2, 2))
    assert Relation.of(3, 2) is not Relation.of(3, 1)


def test_one_int_stands_for_three():
    assert Relation.of(3, 2, 1, 0) == Relation((3, 3, 3), (2, 2, 2), (1, 1, 1), (0, 0, 0))
    assert hash(Relation.of(3)) == hash(Relation((3, 3, 3)))


@pytest.mark.parametrize(
    ("relation", "submanifold", "symmetric", "partition"),
    [
        (Relation.of(3), True, True, False),
        (Relation.of(3, dilation=2), True, True, False),
        (Relation.of((1, 3, 5)), True, True, False),
        (Relation.of(2), True, False, False),
        (Relation.of((3, 3, 4)), True, False, False),
        (Relation.of(3, padding=1), False, False, False),
        (Relation.of(3, 2), False, False, False),
        (Relation.of(2, 2), False, False, True),
        (Relation.of(2, 2, padding=1), False, False, True),
        (Relation.of(2, 2, dilation=2), False, False, False),
        (Relation.of(1), True, True, True),
    ],
    ids=str,
)
def test_kinds(relation, submanifold, symmetric, partition):
    assert (relation.is_submanifold, relation.is_symmetric, relation.is_partition) == (
        submanifold,
        symmetric,
        partition,
    )
    offsets = relation.offsets()
    mirrored = [tuple(-x for x in offset) for offset in reversed(offsets)]
    assert symmetric == (relation.is_submanifold and offsets == mirrored)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0,), "kernel_size must be at least 1"),
        (((3, 3),), "kernel_size must be one int or three"),
        ((3, 0), "stride must be at least 1"),
        ((3, 1, (1, 0, 1)), "dilation must be at least 1"),
        ((3, 1, 1, -1), "padding must be at least 0"),
    ],
)
def test_bad_geometry_names_the_field_and_the_value(arguments, text):
    with pytest.raises(ShapeError, match=text) as error:
        Relation.of(*arguments)
    assert str(arguments[-1]).strip("()") in str(error.value)


def test_a_kernel_wider_than_the_guard_is_refused():
    assert Relation.of(3, dilation=256).key_deltas().shape == (27,)
    with pytest.raises(RangeError, match="use a smaller dilation or kernel"):
        Relation.of(3, dilation=257).key_deltas()


def test_more_offsets_than_a_search_can_number_are_refused_before_they_are_listed(monkeypatch):
    monkeypatch.setattr(Relation, "steps", lambda relation: pytest.fail("all offsets were listed"))
    coords = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], dtype=torch.int32)
    text = r"2146689 kernel offsets .*\(2097152\); use a smaller kernel"
    for use in (
        Relation.of(129).key_deltas,
        lambda: CoordCache().kernel_map(coords, coords, Relation.of(129, 2)),
        lambda: CoordCache().kernel_map(coords, coords, Relation.of(129)),
        lambda: CoordCache().coarser(coords, Relation.of(129, 2)),
        lambda: CoordCache().coarser(coords, Relation.of(129, 129)),
        lambda: CoordCache().expanded(coords, Relation.of(129, 2)),
    ):
        with pytest.raises(RangeError, match=text):
            use()
