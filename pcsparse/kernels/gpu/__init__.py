"""The kernels on a GPU, by CuPy and Triton. Contract: `pcsparse.kernels.protocol.Backend`."""

from pcsparse.kernels.gpu.needed import check_libraries

# before the imports below, which would fail without a hint
check_libraries()

from pcsparse.kernels.gpu.keys import pack_rows as pack_rows
from pcsparse.kernels.gpu.keys import unpack_keys as unpack_keys
