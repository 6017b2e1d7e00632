"""`make_synthetic.py merged`: the sweeps of a drive as one cloud, as CenterPoint on nuScenes reads them."""

import argparse
from collections.abc import Sequence

import numpy as np

from pcsparse.bench.clouds import simulated_sweeps
from pcsparse.errors import RangeError
from pcsparse.programs.output_file import output_file
from pcsparse.whole_file import whole_file


def main(arguments: Sequence[str]) -> int:
    """Parse a command line and write the file.

    It holds one float32 array (n, 5), a row a point: x, y, z in metres in the frame of the last sweep,
    intensity 0-1, and the age of the point's sweep in seconds. What `--sweeps` of the benchmarks on an
    accelerator reads, the same at every call with the same ray caster.

    Raises:
        RangeError: no sweeps, or another ending than .npy.
    """
    parser = argparse.ArgumentParser(
        prog="pcsparse synth merged",
        description="Simulated HDL-32E sweeps of a drive as one cloud: an array (n, 5) float32 of x, y, z in "
        "metres, intensity 0-1, age in seconds.",
    )
    parser.add_argument("out", type=output_file, help="the .npy file")
    parser.add_argument("--sweeps", type=int, default=10)
    given = parser.parse_args(arguments)
    if given.sweeps < 1 or given.out.suffix != ".npy":
        raise RangeError(
            f"need --sweeps of at least 1 and a name that ends in .npy, got {given.sweeps} and {given.out}"
        )
    cloud = simulated_sweeps(given.sweeps)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(given.out) as temporary:
        np.save(temporary, cloud.feats.numpy())
    print(f"{given.out}: {cloud.name}, {len(cloud.points):,} points")
    return 0
