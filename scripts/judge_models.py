"""Models side by side on any sweeps: pictures, class shares, agreement with height and, with labels, IoU.

python scripts/judge_models.py SWEEP... --models runs/first minkunet-hdl64e --out judged
python scripts/judge_models.py A.bin B.bin --labels A.label -
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.judge_models import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
