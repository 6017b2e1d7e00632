"""Pack the peers of the GPU benchmarks into one archive, for a machine with a GPU and without a network.

python scripts/pack_peers.py                          # spconv and spconv-triton for Python 3.12, sm_90
python scripts/pack_peers.py --python 3.11 --arch 80  # for another machine
python scripts/pack_peers.py --add torchsparse@385f5ce=FOLDER  # and what is built in a folder already
"""

import sys

from pcsparse.errors import PcsparseError
from pcsparse.programs.pack_peers import main

if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except PcsparseError as error:
        raise SystemExit(f"error: {error}") from error
