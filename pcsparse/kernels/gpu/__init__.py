"""The kernels on a GPU, by CuPy and Triton. Contract: `pcsparse.kernels.protocol.Backend`."""

from pcsparse.kernels.gpu_libraries import check_libraries

# before the imports below, which would fail without a hint
check_libraries()

from pcsparse.kernels.gpu.batch_norm import batch_norm as batch_norm
from pcsparse.kernels.gpu.batch_norm import batch_norm_grad as batch_norm_grad
from pcsparse.kernels.gpu.eie import eie_chip_linear as eie_chip_linear
from pcsparse.kernels.gpu.eie import eie_layout as eie_layout
from pcsparse.kernels.gpu.eie import eie_linear as eie_linear
from pcsparse.kernels.gpu.eie_rows import eie_row_layout as eie_row_layout
from pcsparse.kernels.gpu.eie_rows import eie_row_linear as eie_row_linear
from pcsparse.kernels.gpu.farthest import farthest_points as farthest_points
from pcsparse.kernels.gpu.fetch_on_demand import fetch_layout as fetch_layout
from pcsparse.kernels.gpu.fetch_on_demand import fetch_on_demand as fetch_on_demand
from pcsparse.kernels.gpu.first_levels import pack_and_reach as pack_and_reach
from pcsparse.kernels.gpu.gather import gather_gemm as gather_gemm
from pcsparse.kernels.gpu.gather import gather_layout as gather_layout
from pcsparse.kernels.gpu.gather import wide_matmul as wide_matmul
from pcsparse.kernels.gpu.gemm_layout import gemm_layout as gemm_layout
from pcsparse.kernels.gpu.implicit_gemm import implicit_gemm as implicit_gemm
from pcsparse.kernels.gpu.importance import mean_magnitude as mean_magnitude
from pcsparse.kernels.gpu.importance import top_rows as top_rows
from pcsparse.kernels.gpu.keys import ascend as ascend
from pcsparse.kernels.gpu.keys import key_extent as key_extent
from pcsparse.kernels.gpu.keys import pack_rows as pack_rows
from pcsparse.kernels.gpu.keys import scale_keys as scale_keys
from pcsparse.kernels.gpu.keys import sort_keys as sort_keys
from pcsparse.kernels.gpu.keys import unpack_keys as unpack_keys
from pcsparse.kernels.gpu.known_moments import norm_by_moments as norm_by_moments
from pcsparse.kernels.gpu.levels import partition_keys as partition_keys
from pcsparse.kernels.gpu.levels import partition_table as partition_table
from pcsparse.kernels.gpu.levels import reached_cells as reached_cells
from pcsparse.kernels.gpu.levels import reached_level as reached_level
from pcsparse.kernels.gpu.levels import reached_levels as reached_levels
from pcsparse.kernels.gpu.levels import unique_keys as unique_keys
from pcsparse.kernels.gpu.lookup import match_tables as match_tables
from pcsparse.kernels.gpu.match import match_keys as match_keys
from pcsparse.kernels.gpu.match import match_table as match_table
from pcsparse.kernels.gpu.match import pack_and_match as pack_and_match
from pcsparse.kernels.gpu.neighbors import first_in_ball as first_in_ball
from pcsparse.kernels.gpu.neighbors import k_nearest as k_nearest
from pcsparse.kernels.gpu.output_stationary import output_stationary as output_stationary
from pcsparse.kernels.gpu.output_stationary import (
    output_stationary_grad_weight as output_stationary_grad_weight,
)
from pcsparse.kernels.gpu.rows import gray_rank as gray_rank
from pcsparse.kernels.gpu.rows import group_rows as group_rows
from pcsparse.kernels.gpu.rows import keep_outputs as keep_outputs
from pcsparse.kernels.gpu.rows import pairs_to_table as pairs_to_table
from pcsparse.kernels.gpu.rows import renumber_pairs as renumber_pairs
from pcsparse.kernels.gpu.rows import row_masks as row_masks
from pcsparse.kernels.gpu.rows import tile_spans as tile_spans
from pcsparse.kernels.gpu.scale_shift import scale_shift as scale_shift
from pcsparse.kernels.gpu.scale_shift import scale_shift_grad as scale_shift_grad
from pcsparse.kernels.gpu.scale_shift import scale_shift_sums as scale_shift_sums
from pcsparse.kernels.gpu.segment import segment_max as segment_max
from pcsparse.kernels.gpu.segment import segment_max_grad as segment_max_grad
from pcsparse.kernels.gpu.segment import segment_sum as segment_sum
from pcsparse.kernels.gpu.segment import segment_weighted_sum as segment_weighted_sum
from pcsparse.kernels.gpu.tables import mask_table_outputs as mask_table_outputs
from pcsparse.kernels.gpu.tables import renumber_table as renumber_table
from pcsparse.kernels.gpu.tables import table_to_pairs as table_to_pairs
from pcsparse.kernels.gpu.tables import transpose_table as transpose_table
from pcsparse.kernels.gpu.two_four import two_four_matvec as two_four_matvec
from pcsparse.kernels.gpu.weight_gradient import grad_weight_layout as grad_weight_layout
from pcsparse.kernels.gpu.weight_gradient import implicit_gemm_grad_weight as implicit_gemm_grad_weight

TABLES = True
