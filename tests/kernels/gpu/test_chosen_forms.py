"""What the rule takes for the layers of the shipped networks, compiled for sm_80 and sm_90 without a GPU."""

from importlib.util import find_spec

import pytest

from tests.kernels.gpu.offline import GPUS, report

pytestmark = [
    pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed here"),
    pytest.mark.slow,
]


def _stack(kernel: dict) -> int:
    """Bytes of a thread's registers that may lie in memory.

    Where a fused layer ends with bias and residual, and half of a thread's registers are sums, some of these
    lie there while the rows come: once a tile, outside the loop. Gradients of weights are Hopper's; an A100
    reads some addresses again.
    """
    constants, arch = kernel["constants"], kernel["arch"]
    if kernel["kernel"] == "_multiply":
        ends = not constants["TRANSPOSED"] and not constants["PARTIAL"]
        if ends and constants["TILE"] * constants["TILE_OUT"] == 32 * 128 * kernel["warps"]:
            return 16 if arch == 80 else 136
        return 8 if arch == 80 else 0
    if kernel["kernel"] == "_sums_of_pairs" and arch == 80:
        return 128 if constants["PRECISION"] == "tf32" else 24
    return 0


def _has_tensor_cores(kernel: dict) -> bool:
    """Whether its products are worth them on sm_90, where a group of warps multiplies 64 rows."""
    if kernel["case"].startswith("float32"):
        return False
    return kernel["kernel"] == "_multiply" or (
        kernel["kernel"] == "_sums_of_pairs" and kernel["constants"]["TILE_IN"] >= 64
    )


def test_the_rule_takes_forms_that_fit_and_use_tensor_cores():
    kernels = report("--chosen")
    for kernel in kernels:
        sizes = {name: value for name, value in kernel["constants"].items() if name.startswith("TILE")}
        print(
            f"sm_{kernel['arch']}  {kernel['case']}  {kernel['kernel']}  {sizes}  warps {kernel['warps']}  "
            f"stages {kernel['stages']}  registers {kernel['registers']}  spilled {kernel['spilled']}  "
            f"shared {kernel['shared']}  wgmma {kernel['wgmma']}  mma {kernel['mma']}"
        )

    assert {kernel["arch"] for kernel in kernels} == set(GPUS)
    # each form once: all passes of 34 layers, at four sizes of clouds and four types
    assert len(kernels) > 700
    assert any(kernel["constants"].get("LONG") for kernel in kernels)
    assert [kernel for kernel in kernels if kernel["spilled"] > _stack(kernel)] == []
    assert [
        kernel for kernel in kernels if kernel["shared"] > GPUS[kernel["arch"]].shared_memory_per_block_optin
    ] == []
    for kernel in filter(_has_tensor_cores, kernels):
        assert kernel["wgmma" if kernel["arch"] == 90 else "mma"] > 0, kernel
    assert all(kernel["direct"] for kernel in kernels)
