"""Stateless operations with gradients."""

from pcsparse.ops.batch_norm import batch_norm as batch_norm
from pcsparse.ops.conv import sparse_conv as sparse_conv
from pcsparse.ops.group import gather_rows as gather_rows
from pcsparse.ops.group import group_neighbours as group_neighbours
from pcsparse.ops.grouped_conv import grouped_sparse_conv as grouped_sparse_conv
from pcsparse.ops.importance import important_rows as important_rows
from pcsparse.ops.interpolate import interpolate as interpolate
from pcsparse.ops.known_moments import norm_by_moments as norm_by_moments
from pcsparse.ops.partial_conv import partial_sparse_conv as partial_sparse_conv
from pcsparse.ops.pool import max_pool as max_pool
from pcsparse.ops.pool import mean_pool as mean_pool
from pcsparse.ops.pool import sum_pool as sum_pool
from pcsparse.ops.scale_shift import scale_shift as scale_shift
from pcsparse.ops.trilinear import trilinear as trilinear
from pcsparse.ops.two_four_linear import two_four_linear as two_four_linear
from pcsparse.ops.voxel_reduce import voxel_reduce as voxel_reduce
