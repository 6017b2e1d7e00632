"""Mixtures of two sweeps: bands of inclination, pasted objects on their ground, one mixture of several."""

from dataclasses import replace

import numpy as np
import pytest

from pcsparse.data.datasets.semantic_kitti import Sweep
from pcsparse.data.sweep_parts import joined, rows_of
from pcsparse.data.transforms import Augmentation, ConcatMix, OneOf
from pcsparse.data.transforms_mix import InclinationMix, ObjectPaste
from pcsparse.data.transforms_sensor import elevations_of
from pcsparse.errors import RangeError
from tests.streets import CAR, ROAD, tiny_street

PERSON = 5


def rng(seed=0):
    return np.random.default_rng(seed)


def plane(height=-1.7, n=40_000, seed=0):
    """Ground all round the sensor, and nothing else."""
    xy = rng(seed).uniform(-30, 30, (n, 2))
    points = np.column_stack([xy, np.full(n, height)]).astype(np.float32)
    return Sweep(points, np.zeros(n, np.float32), np.full(n, ROAD), "plane", np.zeros(n, np.int64))


def with_person(distance=10.0):
    """One standing person, 1.8 m tall, over a hole in the ground, and a car that must not be taken."""
    generator = rng(1)
    person = generator.uniform([distance, -0.2, -3.0], [distance + 0.4, 0.2, -1.2], (300, 3))
    car = generator.uniform([-12, -1, -1.7], [-8, 1, -0.2], (300, 3))
    points = np.concatenate([person, car]).astype(np.float32)
    targets = np.repeat([PERSON, CAR], 300)
    return Sweep(points, np.full(600, 0.9, np.float32), targets, "person", np.repeat([3, 4], 300))


def test_joined_sweeps_keep_instances_apart_and_columns_that_both_have():
    first, second = with_person(), with_person()
    both = joined(first, second)
    assert set(both.instances.tolist()) == {3, 4, 7, 8}
    assert both.beams is None
    assert joined(first, replace(second, instances=None)).instances is None
    ground = joined(first, plane(n=10)).instances
    assert (ground[600:] == 0).all()
    part = rows_of(first, np.array([5, 0]))
    np.testing.assert_array_equal(part.points, first.points[[5, 0]])
    assert part.beams is None


def test_inclination_bands_alternate():
    first, second = tiny_street(1, 4000), tiny_street(2, 3000)
    first = replace(first, intensity=np.full_like(first.intensity, 0.25))
    second = replace(second, intensity=np.full_like(second.intensity, 0.75))
    mixed = InclinationMix(1.0, bands=(4,))(first, second, rng(3))
    foreign = mixed.intensity == 0.75
    elevation = elevations_of(mixed.points)
    edges = np.linspace(*np.percentile(elevations_of(first.points), (1, 99)), 5)[1:-1]
    band = np.searchsorted(edges, elevation)
    assert len(set(zip(band.tolist(), foreign.tolist(), strict=True))) == 4
    assert set(band[foreign] % 2) != set(band[~foreign] % 2)
    inside = np.isin(np.searchsorted(edges, elevations_of(first.points)), band[~foreign])
    assert int((~foreign).sum()) == int(inside.sum())
    assert InclinationMix(0.0)(first, second, rng()) is first


def test_a_pasted_person_stands_on_the_ground_at_its_distance_and_casts_a_shadow():
    paste = ObjectPaste(classes=(PERSON,), ground=(ROAD,), count=1)
    ground = plane(height=-2.4)
    after = paste(ground, with_person(), rng(2))
    person = after.targets == PERSON
    assert person.sum() == 300
    assert (after.intensity[person] == np.float32(0.9)).all()
    assert after.instances[person].min() == after.instances[person].max() > 0
    assert after.points[person, 2].min() == pytest.approx(-2.4, abs=1e-4)
    np.testing.assert_allclose(np.hypot(*after.points[person, :2].T).mean(), 10.2, atol=0.3)
    # turned away from where it stood
    assert abs(np.arctan2(*after.points[person, 1::-1].mean(axis=0))) > 0.05
    gone = len(ground.points) - int((after.targets == ROAD).sum())
    assert gone > 20
    left = {tuple(p) for p in after.points[after.targets == ROAD]}
    hidden = np.array([p for p in ground.points if tuple(p) not in left])
    assert np.hypot(*hidden[:, :2].T).min() > 10.2
    middle = np.arctan2(*after.points[person, 1::-1].mean(axis=0))
    turn = (np.arctan2(hidden[:, 1], hidden[:, 0]) - middle + np.pi) % (2 * np.pi) - np.pi
    assert np.abs(turn).max() < 0.05


def test_objects_of_two_classes_may_share_an_instance():
    ground, other = plane(), with_person()
    paste = ObjectPaste((PERSON,), (ROAD,), count=1, tries=50)
    apart = paste(ground, other, rng(5))
    shared = paste(ground, replace(other, instances=np.full(600, 3)), rng(5))
    assert np.count_nonzero(apart.targets == PERSON) == 300
    for one, two in ((shared.points, apart.points), (shared.targets, apart.targets)):
        np.testing.assert_array_equal(one, two)
    both = ObjectPaste((CAR, PERSON), (ROAD,), count=1, tries=50)
    for seed in range(4):
        pasted = both(ground, replace(other, instances=np.full(600, 3)), rng(seed))
        assert len(np.unique(pasted.targets[pasted.targets != ROAD])) == 1


def test_nothing_is_pasted_where_there_is_no_ground_or_something_stands():
    paste = ObjectPaste(classes=(PERSON,), ground=(ROAD,), count=1, tries=3)
    grass = replace(plane(), targets=np.full(40_000, 16))
    assert paste(grass, with_person(), rng(1)) is grass
    bare = plane(n=40)
    assert paste(bare, with_person(), rng(1)) is bare
    full = plane()
    posts = replace(full, points=full.points + np.float32([0, 0, 1]), targets=np.full(40_000, 17))
    crowded = joined(full, posts)
    assert paste(crowded, with_person(), rng(1)) is crowded
    assert paste(full, replace(with_person(), instances=None), rng(1)) is full
    assert paste(full, tiny_street(1), rng(1)) is full


def test_one_mixture_is_drawn_by_its_probability():
    first, second = tiny_street(1, 40), tiny_street(2, 30)
    choice = OneOf((ConcatMix(1.0), ObjectPaste((PERSON,), (ROAD,))), (0.5, 0.2))
    doubled = [len(choice(first, second, rng(seed)).points) == 70 for seed in range(400)]
    assert np.mean(doubled) == pytest.approx(0.5, abs=0.08)
    assert OneOf((), ())(first, second, rng()) is first


def test_no_partner_is_read_where_no_mixture_is_drawn():
    first, asked = tiny_street(1, 40), []

    def partner():
        asked.append(None)
        return tiny_street(2, 30)

    augmentation = Augmentation((), OneOf((ConcatMix(1.0),), (0.5,)))
    sizes = [len(augmentation(first, rng(seed), partner).points) for seed in range(60)]
    assert sizes.count(70) == len(asked)
    assert 15 < len(asked) < 45


@pytest.mark.parametrize(
    "make",
    [
        lambda: InclinationMix(bands=(1,)),
        lambda: InclinationMix(probability=-0.1),
        lambda: ObjectPaste((), (ROAD,)),
        lambda: ObjectPaste((CAR,), (ROAD,), count=0),
        lambda: OneOf((ConcatMix(),), (0.5, 0.5)),
        lambda: OneOf((ConcatMix(), ConcatMix()), (0.8, 0.5)),
    ],
    ids=["bands", "probability", "classes", "count", "lengths", "sum"],
)
def test_senseless_settings_are_refused(make):
    with pytest.raises(RangeError):
        make()
