"""Train one model on one data set.

python scripts/train.py data=synthetic data.root=DIR
python scripts/train.py data.root=KITTI model=minkunet34 optim.lr=1e-3 name=first
python scripts/train.py -m seed=0,1,2 data.root=KITTI
"""

import sys

from pcsparse.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
