"""Cycle models of accelerators beside their published figures: a table, curves, and a verdict on each bound.

python scripts/simulate_hardware.py eie                       # nine layers and five sweeps, some minutes
python scripts/simulate_hardware.py eie --no-curves --seed 1  # the table alone
python scripts/simulate_hardware.py eie --quick --out quick.json
python scripts/simulate_hardware.py pointacc                  # MinkUNet on a simulated sweep, some minutes
python scripts/simulate_hardware.py pointacc --points sweep.bin --voxel-size 0.05
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.simulate_hardware import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
