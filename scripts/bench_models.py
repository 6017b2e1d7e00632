"""Verify whole networks against their twins, then time them beside plain torch.

python scripts/bench_models.py                       # MinkUNet-14, -18 and -34, forward
python scripts/bench_models.py --train --tags paper  # MinkUNet-18: forward and a training step
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:], sections=("nets",), tags=("paper", "stress")))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
