"""Verify whole networks against their twins, then time them beside the peers; measure peak memory.

python scripts/bench_models.py                       # MinkUNet-18: forward, training step, float32, bf16
python scripts/bench_models.py --sections nets --tags paper stress  # MinkUNet-14, -18 and -34, forward
python scripts/bench_models.py --profile             # shares: maps, batch norm, passes of convolutions
python scripts/bench_models.py --quick               # miniature cloud, seconds
python scripts/bench_models.py --device cuda --cloud SWEEP.bin --sweeps TEN.npy  # a GPU, beside its peers
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:], sections=("nets", "steps", "memory"), name="models"))
    except PcsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        # 1 is for what was measured and is wrong
        raise SystemExit(2) from error
