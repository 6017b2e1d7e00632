"""Train the models that pcsparse brings, on simulated sweeps rendered on the way; ends by the clock.

python scripts/train_default.py OUT --work work --seconds 480
python scripts/train_default.py OUT --work work --seconds 36000 --device cpu --renderers 2 --loaders 1
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.train_default import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
