"""Find the fastest dataflow and sizes of each convolution of a model on this machine; stores them in a table.

python scripts/tune.py --model minkunet18 --out tuned.json
python scripts/tune.py --model runs/first --cloud SWEEP.bin --passes forward --threads 2
"""

import sys

from pcsparse.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
