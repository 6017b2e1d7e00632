"""Check a new GPU machine, then time it beside its peers; each part in a process and a time of its own.

python scripts/check_gpu.py --seconds 500 --cloud SWEEP.bin --sweeps SWEEPS.npy
python scripts/check_gpu.py --only launches "ways to a map" recorded
python scripts/check_gpu.py --device cpu              # a rehearsal, where there is no GPU
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.check_gpu import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
