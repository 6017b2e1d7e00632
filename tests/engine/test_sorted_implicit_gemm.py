"""Sorted implicit GEMM: its passes with the kernels of a GPU, its rule, its refusals."""

from dataclasses import replace

import pytest
import torch

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.watched_map import TRANSPOSED, Derived
from pcsparse.engine.choice import PASSES, Choice
from pcsparse.engine.conv_call import ConvCall
from pcsparse.engine.gemm_sizes import SortedImplicitGemmConfig, candidates, completed, sizes_for
from pcsparse.engine.guard import Operands
from pcsparse.engine.plan import DATAFLOWS, explain, plan_for
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.sorted_implicit_gemm import SortedImplicitGemm
from pcsparse.errors import RangeError
from tests.emulation import emulate
from tests.engine.test_dataflows import NAMES, check_passes, draw_operands, maps

PROBLEM = ConvProblem("cuda", torch.float16, 27, 64, 96, 50_000, 50_000, None, symmetric=True)
FLOW = SortedImplicitGemm()


def _map_on(device, name: str) -> KernelMap:
    """A map of its own, which keeps what the kernels under test make of it; born as a table."""
    kmap = maps()[name]
    return KernelMap(
        kmap.relation, kmap.n_in, kmap.n_out, table=kmap.table.to(device, copy=True), symmetric=kmap.symmetric
    )


@pytest.fixture
def gpu(device, monkeypatch) -> torch.device:
    """A GPU, or a CPU with its kernels."""
    if device.type == "cpu":
        emulate(monkeypatch)
    return device


@pytest.mark.parametrize("name", [name for name in NAMES if name != "submanifold-lidar"])
def test_three_passes_match_the_twin(gpu, rng, name):
    operands = draw_operands(rng, maps()[name], torch.float32)
    check_passes(gpu, FLOW, SortedImplicitGemmConfig(), operands, maps()[name], _map_on(gpu, name))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["submanifold", "inverse"])
def test_narrow_types(gpu, rng, name, dtype):
    operands = draw_operands(rng, maps()[name], dtype)
    check_passes(gpu, FLOW, SortedImplicitGemmConfig(), operands, maps()[name], _map_on(gpu, name))


def test_every_config_matches_the_twin(gpu, rng):
    name = "strided"
    kmap = maps()[name]
    operands = draw_operands(rng, kmap, torch.float32)
    problem = replace(PROBLEM, k=8, c_in=5, c_out=9, n_in=kmap.n_in, n_out=kmap.n_out, dtype=torch.float32)
    mine = _map_on(gpu, name)
    configs = list(dict.fromkeys((*FLOW.configs(problem), *FLOW.configs_grad_weight(problem))))
    # numbers of warps and stages are nothing to an interpreter, which is slow besides
    for config in configs if gpu.type == "cuda" else configs[::6]:
        check_passes(gpu, FLOW, config, operands, kmap, mine)


def test_the_gradient_of_a_symmetric_map_needs_no_other_map(gpu, rng):
    kmap = _map_on(gpu, "submanifold")
    _, weight, grad_out = (part.to(gpu) for part in draw_operands(rng, maps()["submanifold"], torch.float32))
    FLOW.grad_feats(grad_out, weight, kmap, SortedImplicitGemmConfig("mask", splits=1, tile=32))

    assert "transposed" not in kmap._derived
    assert [name for name in kmap._derived if name.startswith("layout")] == ["layout 1 32"]


def test_it_is_the_plan_of_a_gpu_and_of_no_cpu():
    assert plan_for(PROBLEM).forward.dataflow == "sorted_implicit_gemm"
    assert plan_for(PROBLEM).grad_weight.dataflow == "sorted_implicit_gemm"
    assert plan_for(replace(PROBLEM, dtype=torch.float64)).forward.dataflow == "gather_scatter"
    assert plan_for(replace(PROBLEM, distinct=False)).forward.dataflow == "gather_scatter"
    assert plan_for(replace(PROBLEM, device="cpu")).forward.dataflow == "output_stationary"
    text = explain(replace(PROBLEM, device="cpu"))
    assert "sorted_implicit_gemm: refuses: it is for GPUs and has no kernel on cpu" in text


def test_all_layers_of_a_map_share_one_layout():
    for n_out in (1, 300, 5_000, 50_000, 10**6):
        sizes = [sizes_for(27, i, o, n_out, 2, True, "ieee") for i in (4, 32, 96, 256) for o in (20, 96, 256)]
        assert len({(config.order, config.splits, config.tile) for config in sizes}) == 1


def test_rows_are_sorted_where_that_is_repaid():
    # a map of one layer, as strided ones are, is sorted where its products are many
    assert sizes_for(27, 32, 32, 9_000, 2, True, "ieee").order == "mask"
    assert sizes_for(8, 32, 32, 50_000, 2, False, "ieee").order == "none"
    assert sizes_for(27, 256, 256, 50_000, 2, False, "ieee").order == "mask"
    assert sizes_for(1, 512, 512, 10**6, 2, True, "ieee").order == "none"


def test_products_of_float32_are_exact_until_torch_may_round_them():
    single, before = replace(PROBLEM, dtype=torch.float32), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("highest")
        assert next(FLOW.configs(single)).precision == "ieee"
        torch.set_float32_matmul_precision("high")
        assert next(FLOW.configs(single)).precision == "tf32"
        assert next(FLOW.configs(PROBLEM)).precision == "ieee"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("channels", [64, 128, 192, 256])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_a_tile_has_warps_whose_registers_hold_its_sums(dtype, channels):
    """What has fewer spills 500 bytes a thread and more, as tests/kernels/gpu/test_chosen_forms.py sees."""
    plain = SortedImplicitGemmConfig(precision="tf32" if dtype == torch.float32 else "ieee")
    problem = replace(PROBLEM, dtype=dtype, c_in=channels, c_out=channels, n_in=10**5, n_out=10**5)
    others = list(candidates(plain, problem))
    rule = completed(plain, 27, channels, channels, 10**5, dtype.itemsize, problem.symmetric)
    for config in (rule, *others):
        assert config.tile * config.tile_out * dtype.itemsize <= 8192 * config.warps, config
    # wide tiles are still tried
    assert {config.tile_out for config in others} >= {32, 64, min(channels, 128)}
    assert (
        channels < 192 or dtype == torch.float32 or any(config.tile_out == 256 for config in (rule, *others))
    )


@pytest.mark.parametrize(
    "wrong",
    [{"tile": 8}, {"tile_out": 48}, {"tile_in": -64}, {"warps": 3}, {"splits": -1}, {"parts": -1},
     {"stages": -2}, {"precision": "half"}, {"order": "random"}],
    ids=str,
)  # fmt: skip
def test_numbers_that_no_kernel_runs_with_are_named(wrong):
    with pytest.raises(RangeError, match="got"):
        SortedImplicitGemmConfig(**wrong)


def test_the_rule_comes_first_and_knows_no_other_number():
    first, *others = FLOW.configs(PROBLEM)

    assert first == SortedImplicitGemmConfig()
    assert len(others) > 20
    assert all(config.tile and config.splits for config in others)
    assert "sorted_implicit_gemm" in list(DATAFLOWS)[1]


def test_a_plan_that_is_found_again_follows_torchs_switch():
    switch, problem = torch.backends.cuda.matmul, replace(PROBLEM, dtype=torch.float32)
    before = switch.allow_tf32
    try:
        for narrow in (False, True, False, True):
            switch.allow_tf32 = narrow
            assert plan_for(problem).forward.config.precision == ("tf32" if narrow else "ieee")
    finally:
        switch.allow_tf32 = before


@pytest.mark.parametrize("name", ["submanifold", "strided"])
def test_a_tuner_sees_which_passes_share_a_layout(gpu, name):
    kmap = _map_on(gpu, name)
    feats, weight = torch.zeros(kmap.n_in, 5, device=gpu), torch.zeros(kmap.volume, 5, 9, device=gpu)
    operands = Operands.draw(ConvCall(("layer",), ConvProblem.of(feats, weight, kmap), kmap))
    choice = Choice("sorted_implicit_gemm", SortedImplicitGemmConfig("mask", splits=2, tile=64))
    tried = {of: next(operands.tried([choice], of, DATAFLOWS))[0] for of in PASSES}
    assert [trial.rejected for trial in tried.values()] == [None] * 3

    layout, back = Derived(False, "layout 2 64"), {Derived(True, "layout 2 64"), Derived(False, TRANSPOSED)}
    assert tried["forward"].derived == {layout}
    # a symmetric map is its own transpose
    assert tried["grad_feats"].derived == ({layout} if name == "submanifold" else back)
    assert tried["grad_weight"].derived == {Derived(False, "grad_weight_layout")}


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_a_config_without_numbers_is_the_rule(precision):
    plain = SortedImplicitGemmConfig(precision=precision)
    for k in (0, 1, 2, 8, 27, 125):
        for channels in (1, 16, 96, 256):
            for n_out in (0, 5, 16383, 16384, 70_000):
                for symmetric in (True, False):
                    sizes = k, channels, channels, n_out, 4, symmetric
                    assert completed(plain, *sizes) == sizes_for(*sizes, precision)
