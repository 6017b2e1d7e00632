"""The kernels on a GPU, by CuPy and Triton. Contract: `pcsparse.kernels.protocol.Backend`."""

from pcsparse.kernels.gpu.needed import check_libraries

# before the imports below, which would fail without a hint
check_libraries()

from pcsparse.kernels.gpu.eie import eie_chip_linear as eie_chip_linear
from pcsparse.kernels.gpu.eie import eie_layout as eie_layout
from pcsparse.kernels.gpu.eie import eie_linear as eie_linear
from pcsparse.kernels.gpu.eie_rows import eie_row_layout as eie_row_layout
from pcsparse.kernels.gpu.eie_rows import eie_row_linear as eie_row_linear
from pcsparse.kernels.gpu.farthest import farthest_points as farthest_points
from pcsparse.kernels.gpu.gather import gather_gemm as gather_gemm
from pcsparse.kernels.gpu.gather import gather_layout as gather_layout
from pcsparse.kernels.gpu.gather import wide_matmul as wide_matmul
from pcsparse.kernels.gpu.gemm_layout import gemm_layout as gemm_layout
from pcsparse.kernels.gpu.implicit_gemm import implicit_gemm as implicit_gemm
from pcsparse.kernels.gpu.keys import key_extent as key_extent
from pcsparse.kernels.gpu.keys import pack_rows as pack_rows
from pcsparse.kernels.gpu.keys import sort_keys as sort_keys
from pcsparse.kernels.gpu.keys import unpack_keys as unpack_keys
from pcsparse.kernels.gpu.levels import partition_keys as partition_keys
from pcsparse.kernels.gpu.levels import partition_table as partition_table
from pcsparse.kernels.gpu.levels import reached_cells as reached_cells
from pcsparse.kernels.gpu.levels import reached_level as reached_level
from pcsparse.kernels.gpu.levels import unique_keys as unique_keys
from pcsparse.kernels.gpu.match import match_keys as match_keys
from pcsparse.kernels.gpu.match import match_table as match_table
from pcsparse.kernels.gpu.neighbors import first_in_ball as first_in_ball
from pcsparse.kernels.gpu.neighbors import k_nearest as k_nearest
from pcsparse.kernels.gpu.tables import mask_table_outputs as mask_table_outputs
from pcsparse.kernels.gpu.tables import renumber_table as renumber_table
from pcsparse.kernels.gpu.tables import table_to_pairs as table_to_pairs
from pcsparse.kernels.gpu.tables import transpose_table as transpose_table
from pcsparse.kernels.gpu.two_four import two_four_matvec as two_four_matvec
from pcsparse.kernels.gpu.weight_gradient import grad_weight_layout as grad_weight_layout
from pcsparse.kernels.gpu.weight_gradient import implicit_gemm_grad_weight as implicit_gemm_grad_weight

TABLES = True
