"""The kernels on a CPU, by Numba. Contract: `pcsparse.kernels.protocol.Backend`."""

from pcsparse.kernels.cpu.batch_norm import batch_norm as batch_norm
from pcsparse.kernels.cpu.batch_norm import batch_norm_grad as batch_norm_grad
from pcsparse.kernels.cpu.batch_norm import norm_by_moments as norm_by_moments
from pcsparse.kernels.cpu.batch_norm import scale_shift as scale_shift
from pcsparse.kernels.cpu.batch_norm import scale_shift_grad as scale_shift_grad
from pcsparse.kernels.cpu.batch_norm import scale_shift_sums as scale_shift_sums
from pcsparse.kernels.cpu.eie import eie_chip_linear as eie_chip_linear
from pcsparse.kernels.cpu.eie import eie_layout as eie_layout
from pcsparse.kernels.cpu.eie import eie_linear as eie_linear
from pcsparse.kernels.cpu.eie_rows import eie_row_layout as eie_row_layout
from pcsparse.kernels.cpu.eie_rows import eie_row_linear as eie_row_linear
from pcsparse.kernels.cpu.farthest import farthest_points as farthest_points
from pcsparse.kernels.cpu.fetch_on_demand import fetch_layout as fetch_layout
from pcsparse.kernels.cpu.fetch_on_demand import fetch_on_demand as fetch_on_demand
from pcsparse.kernels.cpu.gather import gather_gemm as gather_gemm
from pcsparse.kernels.cpu.gather import gather_layout as gather_layout
from pcsparse.kernels.cpu.gather import wide_matmul as wide_matmul
from pcsparse.kernels.cpu.implicit_gemm import gemm_layout as gemm_layout
from pcsparse.kernels.cpu.implicit_gemm import implicit_gemm as implicit_gemm
from pcsparse.kernels.cpu.implicit_gemm_gradient import grad_weight_layout as grad_weight_layout
from pcsparse.kernels.cpu.implicit_gemm_gradient import implicit_gemm_grad_weight as implicit_gemm_grad_weight
from pcsparse.kernels.cpu.importance import mean_magnitude as mean_magnitude
from pcsparse.kernels.cpu.importance import top_rows as top_rows
from pcsparse.kernels.cpu.keys import ascend as ascend
from pcsparse.kernels.cpu.keys import key_extent as key_extent
from pcsparse.kernels.cpu.keys import pack_rows as pack_rows
from pcsparse.kernels.cpu.keys import scale_keys as scale_keys
from pcsparse.kernels.cpu.keys import sort_keys as sort_keys
from pcsparse.kernels.cpu.keys import unique_keys as unique_keys
from pcsparse.kernels.cpu.keys import unpack_keys as unpack_keys
from pcsparse.kernels.cpu.levels import partition_keys as partition_keys
from pcsparse.kernels.cpu.levels import reached_cells as reached_cells
from pcsparse.kernels.cpu.match import match_keys as match_keys
from pcsparse.kernels.cpu.nearest import k_nearest as k_nearest
from pcsparse.kernels.cpu.neighbors import first_in_ball as first_in_ball
from pcsparse.kernels.cpu.output_stationary import output_stationary as output_stationary
from pcsparse.kernels.cpu.rows import gray_rank as gray_rank
from pcsparse.kernels.cpu.rows import group_rows as group_rows
from pcsparse.kernels.cpu.rows import keep_outputs as keep_outputs
from pcsparse.kernels.cpu.rows import pairs_to_table as pairs_to_table
from pcsparse.kernels.cpu.rows import renumber_pairs as renumber_pairs
from pcsparse.kernels.cpu.rows import row_masks as row_masks
from pcsparse.kernels.cpu.rows import tile_spans as tile_spans
from pcsparse.kernels.cpu.segment import segment_max as segment_max
from pcsparse.kernels.cpu.segment import segment_max_grad as segment_max_grad
from pcsparse.kernels.cpu.segment import segment_sum as segment_sum
from pcsparse.kernels.cpu.segment import segment_weighted_sum as segment_weighted_sum
from pcsparse.kernels.cpu.tables import mask_table_outputs as mask_table_outputs
from pcsparse.kernels.cpu.tables import match_table as match_table
from pcsparse.kernels.cpu.tables import match_tables as match_tables
from pcsparse.kernels.cpu.tables import pack_and_match as pack_and_match
from pcsparse.kernels.cpu.tables import pack_and_reach as pack_and_reach
from pcsparse.kernels.cpu.tables import partition_table as partition_table
from pcsparse.kernels.cpu.tables import reached_level as reached_level
from pcsparse.kernels.cpu.tables import reached_levels as reached_levels
from pcsparse.kernels.cpu.tables import renumber_table as renumber_table
from pcsparse.kernels.cpu.tables import table_to_pairs as table_to_pairs
from pcsparse.kernels.cpu.tables import transpose_table as transpose_table
from pcsparse.kernels.cpu.two_four import two_four_matvec as two_four_matvec
from pcsparse.kernels.cpu.weight_gradient import (
    output_stationary_grad_weight as output_stationary_grad_weight,
)

TABLES = False
