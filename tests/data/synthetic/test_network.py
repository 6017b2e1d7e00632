"""The road graph: junctions of all kinds, ways through them, and distances to the carriageway."""

import numpy as np
import pytest

from pcsparse.data.synthetic.districts import DISTRICTS
from pcsparse.data.synthetic.network import LEAD, Leg, Network, make_network
from pcsparse.data.synthetic.route import backwards, make_route
from pcsparse.data.synthetic.survey import ACROSS, ALONG, EDGE, OTHER, STREET, Lines, survey


@pytest.fixture(scope="module")
def networks() -> list[Network]:
    return [
        make_network(np.random.default_rng([seed, 7]), 250.0, name) for seed in range(5) for name in DISTRICTS
    ]


def test_every_kind_of_junction_is_met(networks: list[Network]) -> None:
    met = {kind for network in networks for kind in network.met}
    assert met == {"cross", "tee", "cross_turn", "tee_turn", "tee_end", "ring"}
    for network in networks:
        rings = [street for street in network.streets if street.ring]
        assert bool(rings) == ("ring" in network.met)
        assert all(len(ring.nodes) >= 2 for ring in rings)
    # streets bend, branch at many angles, end in the open, and are of many widths
    streets = [street for network in networks for street in network.streets]
    bends = np.array([np.ptp(street.heading) for street in streets if not street.ring])
    assert (bends > 0.5).mean() > 0.3
    halves = np.array([street.half.min() for street in streets])
    assert halves.min() < 3.0
    assert halves.max() > 5.0
    assert any(street.median.max() > 0.5 for street in streets)


def test_the_way_is_smooth_long_enough_and_on_the_road(networks: list[Network]) -> None:
    for network in networks:
        route = make_route(network.streets, network.legs, -float(LEAD))
        assert route.last > 250 + 80
        steps = np.hypot(*np.diff(route.line, axis=0).T)
        np.testing.assert_allclose(steps, 1.0, atol=0.02)
        # no bend is tighter than a car can turn
        assert np.abs(np.diff(route.heading)).max() < 1 / 3.5
        where = survey(Lines.of(network.streets), *route.line[5:-5].T)
        assert where[:, EDGE].max() < -0.7
        # it never turns back over itself
        gap = np.hypot(*(route.line[:, None] - route.line[None, :, :]).transpose(2, 0, 1))
        far = np.abs(np.subtract.outer(np.arange(len(gap)), np.arange(len(gap)))) > 140
        assert gap[far].min() > 8.0


def test_oncoming_traffic_keeps_to_the_other_lane(networks: list[Network]) -> None:
    for network in networks[:6]:
        ours = make_route(network.streets, network.legs)
        theirs = make_route(network.streets, backwards(network.streets, network.legs))
        straight = np.abs(np.gradient(ours.heading)) < 0.01
        gap = np.hypot(
            ours.line[straight, None, 0] - theirs.line[:, 0], ours.line[straight, None, 1] - theirs.line[:, 1]
        )
        assert np.median(gap.min(1)) > 2.0
        facing = np.cos(ours.heading[straight] - theirs.heading[gap.argmin(1)])
        assert (facing < -0.9).mean() > 0.85


def test_everyone_drives_anticlockwise_round_a_roundabout(networks: list[Network]) -> None:
    ringed = [network for network in networks if "ring" in network.met]
    assert len(ringed) > 1
    for network in ringed:
        lines = Lines.of(network.streets)
        for legs in (network.legs, backwards(network.streets, network.legs)):
            route = make_route(network.streets, legs)
            where = survey(lines, *route.line.T)
            for number, street in enumerate(network.streets):
                inside = (where[:, STREET] == number) & (np.abs(where[:, ACROSS]) < 0.5)
                if street.ring and inside.sum() > 4:
                    turn = np.cos(route.heading[inside] - street.heading_at(where[inside, ALONG]))
                    assert turn.min() > 0.7


def test_the_survey_measures_what_brute_force_measures(networks: list[Network]) -> None:
    network = next(network for network in networks if "ring" in network.met)
    rng = np.random.default_rng(3)
    middle = np.concatenate([street.line for street in network.streets]).mean(0)
    x, y = (middle + rng.uniform(-90, 90, (400, 2))).T
    where = survey(Lines.of(network.streets), x, y)
    least = np.full(400, np.inf)
    for street in network.streets:
        fine = np.linspace(0, street.last, 12 * len(street.line))
        on_x, on_y = street.world(fine, 0.0)
        gap = np.hypot(x[:, None] - on_x, y[:, None] - on_y)
        side = gap.min(1) - street.half_at(fine[gap.argmin(1)])
        inside = (fine[gap.argmin(1)] > street.caps[0] + 1) & (fine[gap.argmin(1)] < street.caps[1] - 1)
        least = np.minimum(least, np.where(inside, side, np.inf))
    # away from corners, where kerbs are rounded, and from the ends of streets
    plain = (where[:, OTHER] > 16.0) & np.isfinite(least) & (least < 30)
    owned = [network.streets[int(i)].caps for i in where[:, STREET]]
    plain &= np.array([a + 2 < s < b - 2 for (a, b), s in zip(owned, where[:, ALONG], strict=True)])
    assert plain.sum() > 60
    np.testing.assert_allclose(where[plain, EDGE], least[plain], atol=0.06)
    assert {int(np.sign(v)) for v in where[plain, ACROSS]} == {-1, 1}


def test_corners_are_rounded_and_neither_overlap_nor_leave_gaps() -> None:
    # a leg that turns from street to street never leaves the carriageway, at any angle
    network = make_network(np.random.default_rng(11), 200.0, "city")
    lines = Lines.of(network.streets)
    for number, street in enumerate(network.streets):
        for node in street.nodes:
            place = np.stack(street.world(node.s, 0.0))
            others = [
                j
                for j, other in enumerate(network.streets)
                if j != number and np.hypot(*(other.line - place).T).min() < 0.6
            ]
            assert others, "a node is where two streets meet"
            other = network.streets[others[0]]
            at = float(np.hypot(*(other.line - place).T).argmin())
            # straight from one centre line to the other, 12 m from the node
            for way in (-12.0, 12.0):
                for turn in (-12.0, 12.0):
                    ends = street.caps[0] < node.s + 2 * way < street.caps[1]
                    if not (ends and other.caps[0] < at + 2 * turn < other.caps[1]):
                        continue
                    if street.ring or other.ring:
                        continue
                    route = make_route(
                        network.streets,
                        [
                            Leg(number, node.s + 2 * way, node.s),
                            Leg(others[0], at, at + 2 * turn),
                        ],
                    )
                    edge = survey(lines, *route.line[3:-3].T)[:, EDGE]
                    assert edge.max() < -0.3
