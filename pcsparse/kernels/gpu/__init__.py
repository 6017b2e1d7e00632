"""The kernels on a GPU, by CuPy and Triton. Contract: `pcsparse.kernels.protocol.Backend`."""

from pcsparse.kernels.gpu.needed import check_libraries

# before the imports below, which would fail without a hint
check_libraries()

from pcsparse.kernels.gpu.gather import gather_gemm as gather_gemm
from pcsparse.kernels.gpu.gather import gather_layout as gather_layout
from pcsparse.kernels.gpu.gather import wide_matmul as wide_matmul
from pcsparse.kernels.gpu.keys import pack_rows as pack_rows
from pcsparse.kernels.gpu.keys import unpack_keys as unpack_keys
from pcsparse.kernels.gpu.weight_gradient import grad_weight_layout as grad_weight_layout
from pcsparse.kernels.gpu.weight_gradient import implicit_gemm_grad_weight as implicit_gemm_grad_weight

TABLES = True
