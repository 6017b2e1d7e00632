"""What stands between the road's edge and private ground: parked cars, lamps, signs, trees, people."""

import numpy as np

from pcsparse.data.synthetic import furniture, pavement, plants, vehicles
from pcsparse.data.synthetic.lot import Lot


def kerbside(lot: Lot) -> None:
    """Parked cars, lamps, signs, street trees, people and clutter between the road's edge and the front."""
    side = lot.block.side(lot.sign)
    near = lot.block.half + side.bay + side.verge
    far = near + max(side.walk, 0.8)
    _parked(lot, side.bay)
    if lot.block.half > 6.0 and not side.kerb and lot.chance(0.5):
        rail = furniture.guard_rail(lot.span - 1.0)
        lot.drape(rail, lot.block.start + lot.span / 2, lot.block.half + max(0.5, side.front - 0.4))
    if lot.remote:
        return
    _furniture(lot, near, far)
    if side.verge > 1.5 and lot.chance(0.2):
        # a planted strip between the road and the pavement
        depth = min(2.0, side.verge - 0.9)
        mesh = plants.thicket(lot.rng, lot.span * 0.8, depth, lot.uniform(0.5, 1.6))
        lot.drape(mesh, lot.block.start + lot.span / 2, near - depth - 0.2)
    if lot.chance(0.08):
        lot.drape(furniture.bollards(lot.rng, lot.span * 0.6), lot.block.start + lot.span / 2, near + 0.25)
    if side.walk:
        pavement.crowd(lot, near, far)
    _on_islands(lot)


def _furniture(lot: Lot, near: float, far: float) -> None:
    urban = lot.block.side(lot.sign).walk > 0
    turn = np.pi if lot.sign > 0 else 0.0
    at, spacing = lot.block.start + lot.uniform(2, 20), lot.uniform(28, 75)
    while at < lot.block.end - 1 and (urban or spacing > 45):
        lot.put(furniture.lamp(lot.rng), at, near + 0.35, turn)
        at += spacing
    if lot.chance(0.75) and far - near > 1.2:
        for s in np.arange(lot.block.start + 3, lot.block.end - 2, lot.uniform(7, 16)):
            lot.put(plants.tree(lot.rng), float(s), near + 0.6, lot.uniform(0, 6.3))
    for _ in range(int(lot.rng.poisson(lot.span / 60))):
        s = lot.along(0.0)
        lot.put(furniture.sign(lot.rng), s, near + 0.3, turn + lot.uniform(-0.3, 0.3))
    pavement.things(lot, near, far, urban=urban)
    for node in lot.street.nodes:
        for sign in (-1.0, 1.0):
            s = node.s + sign * (node.half + 3.0)
            if lot.block.start <= s < lot.block.end and lot.chance(0.5 if urban else 0.3):
                make = furniture.traffic_light if node.zebra and lot.chance(0.5) else furniture.sign
                lot.put(make(lot.rng), s, near + 0.5, turn + (np.pi if sign > 0 else 0.0))


def _on_islands(lot: Lot) -> None:
    """Signs, bushes and rails on the traffic islands and central strips of the street."""
    if lot.sign < 0:
        return
    s = np.arange(lot.block.start + 1.0, lot.block.end, 2.0)
    thick = np.interp(s, np.arange(len(lot.street.median)), lot.street.median)
    long = float((thick > 0.5).mean()) > 0.6
    kind = str(lot.rng.choice(["rail", "bushes", "trees", "bare"], p=[0.35, 0.25, 0.2, 0.2]))
    if lot.street.island_lift < 0.06:
        # tracks, which trams want for themselves
        kind = "bare"
    for at, half in zip(s.tolist(), thick.tolist(), strict=True):
        if half < 0.5:
            continue
        if not long:
            if lot.chance(0.3):
                lot.stand_on_island(furniture.sign(lot.rng), at)
        elif kind == "rail" and int(at) % 4 < 2:
            lot.stand_on_island(furniture.guard_rail(4.0), at)
        elif kind == "bushes" and lot.chance(0.5):
            lot.stand_on_island(plants.bush(lot.rng, lot.uniform(0.5, 1.6), 0.6), at)
        elif kind == "trees" and half > 0.8 and lot.chance(0.16):
            lot.stand_on_island(plants.tree(lot.rng, 0.7), at)


def _parked(lot: Lot, bay: float) -> None:
    crosswise = bay > 4.0
    narrow = lot.block.half < 3.4
    # on a narrow road one parks with two wheels on the pavement, on the narrowest nowhere
    offset = lot.uniform(0.3, 1.0) if narrow else lot.uniform(0.1, 0.7)
    middle = lot.block.half + (bay / 2 if bay else offset)
    kerbed = lot.block.half > 2.6 and lot.block.side(lot.sign).walk > 0 and lot.chance(0.4)
    share = lot.uniform(0.15, 0.65) if bay else lot.uniform(0.1, 0.55) if kerbed else 0.0
    at = lot.block.start + lot.uniform(1.0, 4.0)
    while share and at < lot.block.end - 3:
        pick = float(lot.rng.random())
        make = vehicles.truck if pick < 0.01 else vehicles.trailer if pick < 0.025 else vehicles.car
        mesh, (length, width) = (vehicles.car if crosswise else make)(lot.rng)
        room = width + 0.75 if crosswise else length
        if lot.chance(share) and at + room < lot.block.end:
            yaw = (0.0 if lot.sign < 0 else np.pi) + (np.pi if lot.chance(0.12) else 0.0)
            yaw += lot.uniform(-0.04, 0.04) + (np.pi / 2 if crosswise else 0.0)
            s = at + room / 2
            if float(lot.street.node_gap(s)) > (8.0 if bay else 10.0):
                lot.thing(mesh, s, middle + lot.uniform(-0.15, 0.15), yaw, road=True)
        at += room + (0.0 if crosswise else lot.uniform(0.5, 1.6))
