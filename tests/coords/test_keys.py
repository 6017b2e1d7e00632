"""Packing of coordinates: round trip, order, guard, range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcsparse.coords.keys import COORD_MAX, COORD_MIN, GUARD, key_delta, pack, unpack
from pcsparse.errors import RangeError

LOW, HIGH = (0, *COORD_MIN), (2046, *COORD_MAX)
# the ends are where fields run into each other
AXES = [
    st.one_of(st.integers(low, high), st.sampled_from([low, low + 1, high - 1, high]), st.integers(0, 3))
    for low, high in zip(LOW, HIGH, strict=True)
]
ROW = st.tuples(*AXES)
STEP = st.tuples(*[st.one_of(st.integers(-GUARD, GUARD), st.sampled_from([-GUARD, GUARD]))] * 3)
quick = settings(deadline=None, max_examples=150)


def _coords(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int32).view(-1, 4)


@quick
@given(st.lists(ROW, max_size=20))
def test_unpack_is_the_inverse_of_pack(rows):
    coords = _coords(rows)
    keys = pack(coords)

    assert keys.dtype == torch.int64
    assert torch.equal(unpack(keys), coords)
    assert unpack(keys).dtype == torch.int32
    assert bool((keys >= 0).all())


@quick
@given(st.lists(ROW, min_size=2, max_size=20))
def test_ascending_keys_are_lexicographic_coordinates(rows):
    keys = pack(_coords(rows)).tolist()

    assert sorted(range(len(rows)), key=keys.__getitem__) == sorted(range(len(rows)), key=rows.__getitem__)


@quick
@given(ROW, STEP)
def test_a_step_within_the_guard_is_an_addition(row, step):
    moved = unpack(pack(_coords([row])) + key_delta(step))

    assert moved.tolist() == [[row[0], *(row[1 + a] + step[a] for a in range(3))]]


def test_the_range_is_what_the_docs_promise():
    assert GUARD == 256
    assert COORD_MIN == (-130816, -130816, -32512)
    assert COORD_MAX == (130815, 130815, 32511)
    # at 5 cm: 6.5 km by 6.5 km by 1.6 km either way
    assert [round(high * 0.05 / 1000, 1) for high in COORD_MAX] == [6.5, 6.5, 1.6]


def test_nothing_packs_to_nothing():
    assert pack(torch.zeros(0, 4, dtype=torch.int32)).shape == (0,)
    assert unpack(torch.zeros(0, dtype=torch.int64)).shape == (0, 4)


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("axis", range(4))
def test_beyond_the_range_names_the_field_and_the_values(axis, end):
    value = LOW[axis] - 1 if end == "low" else HIGH[axis] + 1
    rows = [[0, 0, 0, 0], [0, 0, 0, 0]]
    rows[1][axis] = value

    with pytest.raises(RangeError) as error:
        pack(_coords(rows))
    text = str(error.value)
    assert text.startswith(f"{('batch', 'x', 'y', 'z')[axis]} of the coordinates spans")
    for number in (value, LOW[axis], HIGH[axis]):
        assert str(number) in text
    assert "move the origin" in text

    rows[1][axis] = LOW[axis] if end == "low" else HIGH[axis]
    assert unpack(pack(_coords(rows))).tolist() == rows


@pytest.mark.parametrize("step", [(257, 0, 0), (0, -257, 0), (0, 0, 300)])
def test_a_step_beyond_the_guard_is_refused(step):
    with pytest.raises(RangeError, match=r"beyond 256; use a smaller dilation") as error:
        key_delta(step)
    assert str(step) in str(error.value)
