"""A smaller, faster network from a trained one, within a budget of milliseconds, multiply-adds or bytes.

python scripts/compress.py checkpoint=runs/first data.root=KITTI budget.share=0.5
python scripts/compress.py data=synthetic data.root=DIR budget.ms=120 method=evolution name=fast
"""

import sys

from pcsparse.cli import main

if __name__ == "__main__":
    sys.exit(main(["compress", *sys.argv[1:]]))
