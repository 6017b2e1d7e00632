"""Verify linear layers in EIE's format, then time them beside dense and compressed-row products.

python scripts/bench_heads.py                   # the nine layers of the EIE paper, batch 1, cold and warm
python scripts/bench_heads.py --items 1 4 16 64 # where a dense product overtakes
python scripts/bench_heads.py --quick           # a sixteenth of every size, seconds
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench_heads import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        # 1 is for what was measured and is wrong
        raise SystemExit(2) from error
