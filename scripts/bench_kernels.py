"""Verify kernel maps and convolutions against their twins, then time them beside the peers and the floor.

python scripts/bench_kernels.py                      # real sweep of $PCSPARSE_REAL_DATA, else a simulated one
python scripts/bench_kernels.py --cloud SWEEP.bin --sections maps layers --threads 1
python scripts/bench_kernels.py --sections groupings redundancy  # ablations
python scripts/bench_kernels.py --scaling            # cost over 10^4 to 10^6.5 voxels, C = 16 to 256
python scripts/bench_kernels.py --quick              # miniature cloud, seconds
python scripts/bench_kernels.py --device cuda --cloud SWEEP.bin  # a GPU, beside its peers
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:], sections=("maps", "layers"), name="kernels"))
    except PcsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        # 1 is for what was measured and is wrong
        raise SystemExit(2) from error
