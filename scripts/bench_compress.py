"""What compression is worth, measured on this machine: tables, pictures, and what was expected.

python scripts/bench_compress.py --help
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.bench_compress import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        print(f"error: {error}", file=sys.stderr)
        # 1 is for what was measured and is wrong
        raise SystemExit(2) from error
