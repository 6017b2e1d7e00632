"""Make synthetic LiDAR sweeps, print figures of sweeps, or hold simulated ones against real ones.

python scripts/make_synthetic.py OUT --towns 4 --sweeps 8 --seed 0 --caster auto --sensor hdl64e
python scripts/make_synthetic.py OUT --layout kitti   (boxes; or nuscenes)
python scripts/make_synthetic.py stats ROOT_OR_SWEEP...
python scripts/make_synthetic.py compare REAL... --sweeps 50 --jobs 2 --out report
python scripts/make_synthetic.py merged SWEEPS.npy    (ten sweeps of a drive as one cloud, for benchmarks)
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.synth import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
