"""Triton kernels compiled for a GPU that is not there: host functions run, and what they launch is compiled.

In a process of its own: Triton decides when a kernel is decorated whether it is interpreted.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

ROOT = Path(__file__).parents[3]
GPUS = {
    80: SimpleNamespace(major=8, shared_memory_per_block_optin=163 * 1024),
    90: SimpleNamespace(major=9, shared_memory_per_block_optin=227 * 1024),
}
"""What torch tells of an A100 and of an H100, as far as kernels ask."""


@dataclass(frozen=True)
class Compiled:
    """What one kernel became.

    Attributes:
        kernel: its name.
        arch: compute capability times ten.
        registers, spilled: a thread, and bytes of its stack.
        shared: bytes a block.
        warps, stages: of a program, as the GPU has room for.
        wgmma, mma: products on tensor cores, of a warp group and of a warp.
        copies: bytes of each asynchronous copy to shared memory -> how many there are.
        direct: whether the driver is called for it, without Triton's launcher.
        constants: that shape its code, by name.
    """

    kernel: str
    arch: int
    registers: int
    spilled: int
    shared: int
    warps: int
    stages: int
    wgmma: int
    mma: int
    copies: dict[str, int]
    direct: bool
    constants: dict[str, int | bool | str]


def report(*arguments: str) -> list[dict[str, Any]]:
    """What `compile_report` says, as dicts of `Compiled` with the name of their `case`."""
    command = [sys.executable, "-m", "tests.kernels.gpu.compile_report", "--json", *arguments]
    # not the interpreter, whatever this process has
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [kernel for line in done.stdout.splitlines() for kernel in json.loads(line)]


def compile_launches(
    run: Callable[[], object], arch: int, known: set[Hashable] | None = None
) -> list[Compiled]:
    """Run a host function on CPU or meta tensors, and compile every Triton kernel it would launch.

    Args:
        run: the function.
        arch: compute capability times ten, one of `GPUS`.
        known: forms that are not compiled again; new ones are added.
    """
    from triton.runtime.jit import JITFunction

    found = []

    def record(kernel: JITFunction, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
        constants = {p.name: arg for p, arg in zip(kernel.params, args, strict=True) if p.is_constexpr}
        options |= _fitting(kernel.__name__, args, constants, options, arch)
        dtypes = [getattr(arg, "dtype", arg is None) for arg in args[: -len(constants)]]
        form = kernel.__name__, arch, *dtypes, *constants.values(), *options.values()
        if known is not None:
            if form in known:
                return
            known.add(form)
        compiled, _ = compile_call(kernel, args, options, arch)
        kinds = list(compiled.src.signature.values())
        given = sum(kind.startswith("*") for kind in kinds), kinds.count("i32")
        found.append(_described(kernel.__name__, arch, compiled, given, constants))

    launch, JITFunction.run = JITFunction.run, record
    try:
        run()
    finally:
        JITFunction.run = launch
    return found


def _fitting(
    name: str, args: tuple[Any, ...], constants: dict[str, Any], options: dict[str, Any], arch: int
) -> dict[str, int]:
    """Warps and stages as the host function asks the GPU for them, which is not there."""
    if name != "_multiply":
        return {}
    from pcsparse.kernels.gpu.implicit_gemm import fitting

    wanted = options["num_warps"], options["num_stages"]
    with patch("torch.cuda.get_device_properties", lambda device: GPUS[device]):
        # their memory is by the number of a device
        warps, stages = fitting(tuple(constants.values()), args[0].element_size(), *wanted, arch)
    return {"num_warps": warps, "num_stages": stages}


def compile_call(
    kernel: Any, args: tuple[Any, ...], options: dict[str, Any], arch: int
) -> tuple[Any, dict[str, Any]]:
    """A kernel as Triton compiles it for these arguments, and the arguments by name."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile, make_backend
    from triton.runtime.jit import create_function_from_signature

    target = GPUTarget("cuda", arch, 32)
    backend = make_backend(target)
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialization, rest = binder(*args, debug=False, **options)
    parsed, signature, constants, attributes = kernel._pack_args(
        backend, options, bound, specialization, rest
    )
    source = ASTSource(kernel, signature, constants, attributes)
    return compile(source, target=target, options=parsed.__dict__), bound


def _described(
    name: str, arch: int, kernel: Any, given: tuple[int, int], constants: dict[str, Any]
) -> Compiled:
    from pcsparse.kernels.gpu.launch import is_direct

    ptx = kernel.asm["ptx"]
    copies: dict[str, int] = {}
    for size in re.findall(r"cp\.async\.c[ag]\.shared\.global [^;]*?, (0x[0-9a-f]+|\d+), ", ptx):
        width = str(int(size, 0))
        copies[width] = copies.get(width, 0) + 1
    registers, stack = _resources(kernel.asm["cubin"])
    return Compiled(
        name,
        arch,
        registers,
        stack,
        kernel.metadata.shared,
        kernel.metadata.num_warps,
        kernel.metadata.num_stages,
        len(re.findall(r"wgmma\.mma_async", ptx)),
        len(re.findall(r"\bmma\.sync", ptx)),
        copies,
        is_direct(kernel, *given),
        {name: value for name, value in constants.items() if isinstance(value, int | str)},
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers, and bytes of the stack, a thread."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        tool = knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    usage = re.search(r"REG:(\d+) STACK:(\d+)", text.stdout)
    assert usage, text.stdout
    return int(usage[1]), int(usage[2])


HALF, SINGLE = torch.float16, torch.float32


def gemm(
    c_in: int,
    c_out: int,
    sizes: tuple[int, int, int, int, int],
    *,
    dtype: torch.dtype = HALF,
    parts: int = 1,
    precision: str = "ieee",
    transposed: bool = False,
    ending: bool = False,
) -> Callable[[], object]:
    """A convolution of 27 offsets; sizes are tile, tile_out, tile_in, warps and stages."""

    def run() -> object:
        from pcsparse.kernels.gpu import gemm_layout, implicit_gemm

        tile, *others = sizes
        table = torch.zeros(27, 64, dtype=torch.int32)
        feats = torch.zeros(64, c_in, dtype=dtype)
        shape = (27, c_out, c_in) if transposed else (27, c_in, c_out)
        weight = torch.zeros(shape, dtype=dtype)
        weight = weight.transpose(1, 2) if transposed else weight
        rows, one = torch.zeros(64, c_out, dtype=dtype), torch.zeros(c_out)
        extra = {"bias": rows[0].clone(), "relu": True}
        if ending:
            mask = torch.zeros(64, dtype=torch.bool)
            extra |= {"residual": rows, "mask": mask, "through": rows, "scale": one, "shift": one}
        layout = gemm_layout(table, 1, tile)
        return implicit_gemm(feats, weight, layout, 64, *others, parts, precision, **extra)

    return run


def grad_weight(
    c_in: int, c_out: int, *, dtype: torch.dtype = HALF, by_pairs: bool = True, precision: str = "ieee"
) -> Callable[[], object]:
    """The gradient of the weights of 27 offsets, with the sizes of the rule."""

    def run() -> object:
        from pcsparse.kernels.gpu import implicit_gemm_grad_weight

        table = torch.zeros(27, 64, dtype=torch.int32)
        feats, grad_out = torch.zeros(64, c_in, dtype=dtype), torch.zeros(64, c_out, dtype=dtype)
        layout = [table.view(-1), table.view(-1), torch.zeros(28, dtype=torch.int32)] if by_pairs else None
        return implicit_gemm_grad_weight(feats, grad_out, table, layout, precision=precision)

    return run


def others() -> dict[str, Callable[[], object]]:
    """What launches the Triton kernels beside the GEMM."""
    from pcsparse.kernels import gpu
    from pcsparse.kernels.running import Running

    n, c = 64, 32
    feats, one = torch.zeros(n, c, dtype=HALF), torch.zeros(c)
    rows, starts = torch.zeros(n, dtype=torch.int32), torch.zeros(9, dtype=torch.int64)
    table = torch.zeros(8, n, dtype=torch.int32)
    order = torch.zeros(8, c, dtype=torch.int32)
    moments, count = torch.zeros(2, c), torch.tensor(1)
    running, average = Running(one, one, count, 0.1), Running(one, one, count, None)
    return {
        "scale_shift": lambda: gpu.scale_shift(feats, one, one, feats, True),
        "scale_shift_sums": lambda: gpu.scale_shift_sums(feats, feats, feats, one),
        "scale_shift_grad": lambda: gpu.scale_shift_grad(feats, feats, feats, one, one, one, True),
        "segment_sum": lambda: gpu.segment_sum(feats, rows, starts),
        "segment_weighted_sum": lambda: gpu.segment_weighted_sum(feats, rows, torch.zeros(n), starts),
        "batch_norm": lambda: gpu.batch_norm(feats, one, one, feats, True, 1e-5, running),
        "batch_norm, average": lambda: gpu.batch_norm(feats, one, one, None, False, 1e-5, average),
        "norm_by_moments": lambda: gpu.norm_by_moments(feats, one, one, one, one, feats, True, 1e-5),
        "batch_norm_grad": lambda: gpu.batch_norm_grad(feats, feats, one, feats, moments, 1e-5, True),
        "gather_gemm": lambda: gpu.gather_gemm(
            feats,
            torch.zeros(1, c, c, dtype=HALF),
            [((0,), n)],
            # each row has a place of its own, or two would be written to one
            [torch.arange(n, dtype=torch.int32), torch.arange(n + 1, dtype=torch.int32)],
        ),
        "segment_max of a few": lambda: gpu.segment_max(feats, rows.repeat(1024), starts[:3]),
        "segment_max": lambda: gpu.segment_max(feats, rows, starts),
        "segment_max_grad": lambda: gpu.segment_max_grad(feats[:8], order, rows, starts),
        "mean_magnitude": lambda: gpu.mean_magnitude(feats),
        "grad_weight_layout": lambda: gpu.grad_weight_layout(table),
        "grad_weight, half 16 -> 32": grad_weight(16, 32),
        "grad_weight, half 33 -> 64": grad_weight(33, 64),
        "grad_weight, float32 64": grad_weight(64, 64, dtype=SINGLE),
        **WIDE_GRADIENTS,
    }


WIDE_GRADIENTS = {
    "grad_weight, half 64": grad_weight(64, 64),
    "grad_weight, bfloat16 256": grad_weight(256, 256, dtype=torch.bfloat16),
    "grad_weight, tf32 64": grad_weight(64, 64, dtype=SINGLE, precision="tf32"),
    "grad_weight, half 4, table": grad_weight(4, 64, by_pairs=False),
}
"""Gradients that are worth a GPU's tensor cores."""
WIDE = {
    "half 64": gemm(64, 64, (128, 64, 64, 4, 5)),
    "half 256": gemm(256, 256, (128, 256, 64, 8, 5)),
    "half 96, transposed": gemm(96, 128, (128, 128, 32, 4, 5), transposed=True),
    "tf32 64": gemm(64, 64, (128, 64, 32, 4, 5), dtype=SINGLE, precision="tf32"),
}
"""Convolutions that are worth a GPU's tensor cores."""
NARROW = {
    "half 4": gemm(4, 32, (128, 32, 32, 4, 5)),
    "half 32, all endings": gemm(32, 32, (128, 32, 32, 4, 5), ending=True),
    "half 32, in parts": gemm(32, 32, (128, 32, 32, 4, 5), parts=2),
    "half 33 -> 7": gemm(33, 7, (128, 16, 32, 4, 5)),
    "bfloat16 128": gemm(128, 128, (128, 128, 64, 4, 5), dtype=torch.bfloat16),
    "float32 64": gemm(64, 64, (64, 64, 16, 4, 5), dtype=SINGLE),
}
"""Others."""
