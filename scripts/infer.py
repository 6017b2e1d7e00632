"""Predict the class of every point of files without labels; writes raw-id labels and pictures.

python scripts/infer.py SWEEP.bin --out out
python scripts/infer.py SWEEP.pcd.bin --model minkunet-32beam
python scripts/infer.py FOLDER --checkpoint runs/first --columns 5
"""

import sys

from pcsparse.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
