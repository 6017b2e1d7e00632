"""Verify kernel maps, convolutions and MinkUNet against their twins, then time them: what `make bench` runs.

python scripts/bench_kernels.py                      # real sweep of $PCSPARSE_REAL_DATA, else a simulated one
python scripts/bench_kernels.py --cloud SWEEP.bin --sections maps layers --threads 1
python scripts/bench_kernels.py --quick              # miniature cloud, seconds
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
