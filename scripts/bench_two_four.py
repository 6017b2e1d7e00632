"""Check products with 2:4 matrices against the twin, then time them beside torch's dense ones and the floor.

python scripts/bench_two_four.py                            # six shapes at batches 1, 4, 16 and 64
python scripts/bench_two_four.py --shapes 4096x4096 --items 1 --runs 60
python scripts/bench_two_four.py --quick --out quick.json
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench_two_four import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        # 1 is for what was measured and is wrong
        raise SystemExit(2) from error
