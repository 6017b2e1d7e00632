"""Make the dense heads of two small networks sparse, and see what it costs: accuracy, bytes, milliseconds.

python scripts/sparsify_heads.py                        # both tasks, EIE and 2:4: minutes on two cores
python scripts/sparsify_heads.py --tasks objects --methods eie --density 0.1
python scripts/sparsify_heads.py --quick --out runs/quick
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.sparse_heads import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
