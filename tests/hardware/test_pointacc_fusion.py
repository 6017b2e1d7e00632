"""Fusion: groups by hand, the best of all cuts, and chains that are none."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pcsparse.errors import RangeError, ShapeError
from pcsparse.hardware.pointacc_chip import PointAccChip
from pcsparse.hardware.pointacc_fusion import alone_group, chains, fused_group, plan_fusion
from pcsparse.hardware.pointacc_memory import Traffic, best_cached
from pcsparse.hardware.trace import LayerTrace
from tests.hardware.oracle_pointacc import cuts

CHIP = replace(PointAccChip.edge(), input_bytes=4096, weight_bytes=2048)


def chain_of(rows: int, *channels: int, **last: int) -> tuple[LayerTrace, ...]:
    sizes = list(pairwise(channels))
    return tuple(
        LayerTrace(
            f"{i}", None, c_in, c_out, 2, rows, follows=i > 0, **(last if i + 1 == len(sizes) else {})
        )
        for i, (c_in, c_out) in enumerate(sizes)
    )  # fmt: skip


def test_two_layers_by_hand():
    chain = chain_of(1000, 8, 16, 32)
    # 24 channels of two bytes on half of 4096 bytes; 640 weights fit
    group = fused_group(chain, CHIP)
    assert group.tile_rows == 2048 // 48
    assert group.traffic == Traffic(inputs=16_000, weights=2 * (128 + 512), outputs=64_000)
    plan = plan_fusion(chain, CHIP)
    assert plan.groups == (group,)
    assert plan.fused_bytes == 81_280
    # without, 16 channels of 1000 rows are written and read again
    assert plan.alone_bytes - plan.fused_bytes == 2 * 32_000
    assert plan.saved == pytest.approx(64_000 / (81_280 + 64_000))


def test_weights_that_do_not_fit_come_with_every_tile():
    group = fused_group(chain_of(100, 32, 32, 32), CHIP)
    assert group.tile_rows == 16
    assert group.traffic.weights == 7 * 2 * 2 * 1024


def test_a_layer_alone_takes_the_cheaper_order():
    (few,), (many,) = chain_of(20, 64, 64), chain_of(2000, 64, 64)
    # 8192 bytes of weights: again for each tile of 32 rows, or rows again for each of four parts of them
    assert alone_group(few, CHIP).traffic == Traffic(inputs=20 * 128, weights=8192, outputs=20 * 128)
    assert alone_group(many, CHIP).traffic == Traffic(256_000, 63 * 8192, 256_000)
    narrow = replace(CHIP, input_bytes=1024)
    assert alone_group(many, narrow).traffic == Traffic(4 * 256_000, 8192, 256_000)


@pytest.mark.parametrize("rows", [3, 60, 900])
@pytest.mark.parametrize("channels", [(4, 8, 16, 32, 8), (64, 16, 96, 16, 200, 3), (512, 256, 40)])
def test_the_plan_is_the_best_of_all_cuts(rows, channels):
    chain = chain_of(rows, *channels)
    plan = plan_fusion(chain, CHIP)
    totals = []
    for cut in cuts(len(chain)):
        groups = [
            alone_group(chain[a], CHIP) if b - a == 1 else fused_group(chain[a:b], CHIP) for a, b in cut
        ]
        if None not in groups:
            totals.append(sum(group.traffic.total for group in groups))
    assert plan.fused_bytes == min(totals)
    assert plan.fused_bytes <= plan.alone_bytes
    assert [name for group in plan.groups for name in group.layers] == [layer.name for layer in chain]
    assert 0 <= plan.saved < 1


def test_pooled_rows_leave_as_one():
    chain = chain_of(960, 8, 16, 32, pooled=32)
    plan = plan_fusion(chain, CHIP)
    assert plan.groups[0].traffic.outputs == 30 * 32 * 2
    assert plan.alone[1].traffic.outputs == 30 * 32 * 2


def test_a_gathered_tile_is_fetched_once_for_all_output_channels():
    rows = torch.arange(64, dtype=torch.int32).repeat(4)
    first = LayerTrace("gather", None, 16, 64, 2, 64, gather=rows)
    chain = (first, LayerTrace("next", None, 64, 8, 2, 256, follows=True))
    half = replace(CHIP, input_bytes=2048)
    group = fused_group(chain, CHIP)
    # all 64 rows fit into half of the buffer; a row is half a burst
    assert group.traffic.inputs == 64 * 32
    assert group.traffic.maps == 256 * 8
    assert best_cached(first, half).traffic.maps == 4 * 256 * 8
    assert alone_group(first, CHIP).traffic == best_cached(first, CHIP).traffic


def test_chains_are_cut_where_nothing_follows():
    a, b = chain_of(10, 4, 8, 16)
    other = LayerTrace("other", None, 4, 4, 2, 10)
    pooled = LayerTrace("pooled", None, 4, 8, 2, 10, pooled=5)
    after = LayerTrace("after", None, 8, 4, 2, 2, follows=True)
    found = chains([a, b, other, pooled, after])
    assert [[layer.name for layer in chain] for chain in found] == [
        ["0", "1"],
        ["other"],
        ["pooled"],
        ["after"],
    ]


def test_what_does_not_follow_is_refused():
    a, b = chain_of(10, 4, 8, 16)
    with pytest.raises(ShapeError, match="the first layer and follows none"):
        chains([b])
    with pytest.raises(
        ShapeError, match=r"1 reads 9 rows of 8 channels and follows 0, which writes 10 rows of 8"
    ):
        chains([a, replace(b, n_in=9)])
    with pytest.raises(ShapeError, match="writes 10 rows of 8"):
        chains([a, replace(b, c_in=7)])
    with pytest.raises(RangeError, match="a row of 4096 channels takes 8192 bytes"):
        alone_group(chain_of(1, 4096, 4)[0], CHIP)
    assert fused_group(chain_of(1, 2048, 4, 4), CHIP) is None
