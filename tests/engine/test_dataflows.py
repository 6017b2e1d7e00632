"""Every dataflow, every config, every pass, against the twin in float64."""

from functools import cache

import pytest
import torch

from pcsparse.coords.cache import CoordCache
from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.relation import Relation
from pcsparse.engine.gather_scatter import GatherScatterConfig, gather_gemm_scatter
from pcsparse.engine.grouping import Group
from pcsparse.engine.plan import DATAFLOWS
from pcsparse.engine.problem import ConvProblem
from pcsparse.kernels import reference
from tests.clouds import CLOUDS, lidar_like
from tests.tolerance import tolerance


def _map(cloud: str, relation: Relation, back: bool = False) -> KernelMap:
    coords = lidar_like(900, batch_size=2) if cloud == "lidar" else CLOUDS[cloud].coords
    coords_cache = CoordCache()
    coarse = coords if relation.is_submanifold else coords_cache.coarser(coords, relation)
    kmap = coords_cache.kernel_map(coords, coarse, relation)
    return kmap.transposed() if back else kmap


def _some(kmap: KernelMap, positions: list[int]) -> KernelMap:
    mask = torch.zeros(kmap.volume, dtype=torch.bool)
    mask[positions] = True
    return kmap.keep_offsets(mask)


@cache
def maps() -> dict[str, KernelMap]:
    """Named maps, all kinds that layers make."""
    k3 = Relation.of(3)
    unsorted = _map("unsorted", k3)
    return {
        "submanifold": unsorted,
        "submanifold-lidar": _map("lidar", k3),
        "submanifold-transposed": unsorted.transposed(),
        "even": _map("unsorted", Relation.of(2)),
        "one-by-one": _map("unsorted", Relation.of(1)),
        "dilated-anisotropic": _map("two-batches", Relation.of((1, 3, 5), dilation=(1, 2, 1))),
        "strided": _map("two-batches", Relation.of(2, 2)),
        "strided-overlapping": _map("unsorted", Relation.of(3, 2)),
        "inverse": _map("unsorted", Relation.of(3, 2), back=True),
        "mirrored-offsets": _some(unsorted, [1, 4, 13, 22, 25]),
        "offsets-without-centre": _some(unsorted, [1, 4, 22, 25]),
        "one-offset": _some(unsorted, [13]),
        "no-offset": _some(unsorted, []),
        "some-outputs": unsorted.keep_outputs(torch.arange(unsorted.n_out) % 4 == 1),
        "no-outputs-kept": unsorted.keep_outputs(torch.zeros(unsorted.n_out, dtype=torch.bool)),
        "one-voxel": _map("one", k3),
        "empty": _map("empty", k3),
        "empty-strided": _map("empty", Relation.of(2, 2)),
    }


# those of a GPU alone have tests of their own
FLOWS = {name: flow for name, flow in DATAFLOWS.items() if "cpu" in flow.devices}
NAMES = list(maps())
C_IN, C_OUT = 5, 9


def draw_operands(rng, kmap, dtype, c_in=C_IN, c_out=C_OUT):
    scale = (c_in * max(kmap.volume, 1)) ** -0.5
    feats = torch.randn(kmap.n_in, c_in, generator=rng, dtype=torch.float64)
    weight = torch.randn(kmap.volume, c_in, c_out, generator=rng, dtype=torch.float64) * scale
    grad_out = torch.randn(kmap.n_out, c_out, generator=rng, dtype=torch.float64)
    return feats.to(dtype), weight.to(dtype), grad_out.to(dtype)


def _expected(feats, weight, grad_out, kmap):
    """The three passes of the twin in float64, the gradients by autograd through it."""
    pairs = kmap.pairs
    feats, weight = (part.double().clone().requires_grad_() for part in (feats, weight))
    out = reference.output_stationary(
        feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 1
    )
    if kmap.n_pairs == 0:
        return out.detach(), torch.zeros_like(feats.detach()), torch.zeros_like(weight.detach())
    return out.detach(), *torch.autograd.grad(out, (feats, weight), grad_out.double())


def on_device(kmap: KernelMap, device) -> KernelMap:
    """The map itself where it is already, else a copy."""
    if device.type == "cpu":
        return kmap
    header, *lists = kmap.tensors()
    return KernelMap.from_tensors([header.clone(), *(part.to(device) for part in lists)])


def check_passes(device, flow, config, operands, kmap, own_map=None):
    """All passes of a dataflow on a map against the twin; `own_map` is the same map, for the dataflow."""
    if own_map is None and device.type not in flow.devices:
        pytest.skip(f"{flow.name} has no kernel on {device.type}")
    feats, weight, grad_out = operands
    expected = _expected(feats, weight, grad_out, kmap)
    feats, weight, grad_out = (part.to(device) for part in operands)
    kmap = on_device(kmap, device) if own_map is None else own_map

    out = flow.forward(feats, weight, kmap, config)
    grad_feats = flow.grad_feats(grad_out, weight, kmap, config)
    grad_weight = flow.grad_weight(feats, grad_out, kmap, config)

    close = tolerance(
        feats.dtype, terms=max(1, kmap.volume * max(feats.shape[1], weight.shape[2])), factor=16
    )
    many = tolerance(feats.dtype, terms=max(1, kmap.n_out), factor=32)
    for actual, wanted, near in zip(
        (out, grad_feats, grad_weight), expected, (close, close, many), strict=True
    ):
        assert actual.dtype == feats.dtype
        size = max(1.0, float(wanted.abs().max()) if wanted.numel() else 1.0)
        near = near | {"atol": near["atol"] * size}
        torch.testing.assert_close(actual.cpu(), wanted.to(feats.dtype), **near)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_three_passes_match_the_twin(device, rng, flow, name, dtype):
    kmap = maps()[name]
    operands = draw_operands(rng, kmap, dtype)
    problem = ConvProblem.of(operands[0], operands[1], kmap)

    assert flow.refuses(problem) is None
    check_passes(device, flow, next(flow.configs(problem)), operands, kmap)


@pytest.mark.parametrize("name", ["submanifold-lidar", "strided-overlapping", "offsets-without-centre"])
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_every_config_matches_the_twin(device, rng, flow, name):
    kmap = maps()[name]
    operands = draw_operands(rng, kmap, torch.float64)
    problem = ConvProblem.of(operands[0], operands[1], kmap)
    for config in {*flow.configs(problem), *flow.configs_grad_weight(problem)}:
        check_passes(device, flow, config, operands, kmap)


@pytest.mark.parametrize(("c_in", "c_out"), [(1, 1), (3, 7), (33, 3), (64, 65), (7, 96)])
@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_channels_off_powers_of_two(device, rng, flow, c_in, c_out):
    kmap = maps()["submanifold"]
    operands = draw_operands(rng, kmap, torch.float32, c_in, c_out)
    check_passes(
        device, flow, next(flow.configs(ConvProblem.of(operands[0], operands[1], kmap))), operands, kmap
    )


def test_any_grouping_gives_the_same_sum(rng):
    kmap = maps()["strided"]
    feats, weight, _ = draw_operands(rng, kmap, torch.float64)
    counts = kmap.pairs.starts.diff().tolist()
    assert min(counts) > 0
    groupings = [
        [Group((k,), counts[k], batched=False) for k in range(8)],
        [Group(tuple(range(8)), max(counts), batched=True)],
        [
            Group((7, 0, 3), max(counts[7], counts[0], counts[3]), batched=True),
            Group((1, 2, 4, 5, 6), 0, batched=False),
        ],
    ]
    pairs = kmap.pairs
    expected = reference.output_stationary(
        feats, weight, pairs.rows_in, pairs.rows_out, pairs.starts, kmap.n_out, 1
    )
    for groups in groupings:
        actual = gather_gemm_scatter(feats, weight, kmap, groups)
        torch.testing.assert_close(actual, expected, **tolerance(torch.float64, terms=40, factor=16))


def test_a_padding_row_lets_no_infinity_in(rng):
    kmap = maps()["submanifold"]
    feats, weight, _ = draw_operands(rng, kmap, torch.float32)
    # padded rows of a batched group gather row 0
    feats[0] = float("inf")
    reached = kmap.table.eq(0).any(dim=0)
    out = DATAFLOWS["gather_scatter"].forward(feats, weight, kmap, GatherScatterConfig(1.0, 1 << 60))

    assert out[~reached].isfinite().all()
    assert not out[reached].isfinite().all()


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_inputs_stay_as_they_were(rng, flow):
    kmap = maps()["submanifold"]
    operands = draw_operands(rng, kmap, torch.float32)
    kept = [part.clone() for part in operands]
    config = next(flow.configs(ConvProblem.of(operands[0], operands[1], kmap)))
    flow.forward(operands[0], operands[1], kmap, config)
    flow.grad_feats(operands[2], operands[1], kmap, config)
    flow.grad_weight(operands[0], operands[2], kmap, config)

    assert all(torch.equal(a, b) for a, b in zip(operands, kept, strict=True))
