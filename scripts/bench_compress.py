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
        raise SystemExit(f"error: {error}") from error
