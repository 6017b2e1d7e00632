"""SemanticKITTI's official mIoU of a model on a split.

python scripts/evaluate.py data.root=KITTI checkpoint=runs/first output=metrics.json
python scripts/evaluate.py data.root=KITTI split=test predictions=submission
"""

import sys

from pcsparse.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
