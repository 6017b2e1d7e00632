"""Registers, spills, shared memory and instructions of the Triton kernels, without a GPU.

python -m tests.kernels.gpu.compile_report [--json] [--arch 80] [NAME ...]
python -m tests.kernels.gpu.compile_report --chosen [--json] [--arch 80] [float16 ...]
"""

import argparse
import json
import os
import sys
from collections.abc import Hashable
from dataclasses import asdict

# before triton is imported
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

from tests.emulation import gpu_kernels, stand_in_for_cupy
from tests.kernels.gpu.chosen import PRODUCTS, chosen
from tests.kernels.gpu.offline import GPUS, NARROW, WIDE, compile_launches, others


def main() -> int:
    """Compile the named cases, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="cases, or types of --chosen; all where none is named")
    parser.add_argument("--arch", type=int, action="append", help="compute capability times ten: 80, 90")
    parser.add_argument("--json", action="store_true", help="one JSON list a case and line")
    parser.add_argument(
        "--chosen", action="store_true", help="what the rule takes for the shipped networks, each form once"
    )
    arguments = parser.parse_args()
    # nothing is launched
    stand_in_for_cupy()
    gpu_kernels()
    known: set[Hashable] | None = None
    if arguments.chosen:
        known = set()
        cases = dict(case for name in arguments.names or PRODUCTS for case in chosen(name))
    else:
        every = WIDE | NARROW | others()
        cases = {name: every[name] for name in arguments.names or every}
    for name, run in cases.items():
        for arch in arguments.arch or GPUS:
            kernels = [asdict(kernel) | {"case": name} for kernel in compile_launches(run, arch, known)]
            if arguments.json:
                print(json.dumps(kernels))
                continue
            for kernel in kernels:
                print("  ".join(f"{field} {value}" for field, value in kernel.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
