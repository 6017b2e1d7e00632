"""3D perception on point clouds, built around sparse 3D convolution."""

from pcsparse.allocation import keep_freed_memory as keep_freed_memory
from pcsparse.coords.voxelize import Voxels as Voxels
from pcsparse.coords.voxelize import voxelize as voxelize
from pcsparse.errors import DeviceError as DeviceError
from pcsparse.errors import DtypeError as DtypeError
from pcsparse.errors import FormatError as FormatError
from pcsparse.errors import PcsparseError as PcsparseError
from pcsparse.errors import RangeError as RangeError
from pcsparse.errors import ShapeError as ShapeError
from pcsparse.errors import UnsupportedError as UnsupportedError
from pcsparse.ops.voxel_reduce import voxel_reduce as voxel_reduce
from pcsparse.sparse_tensor import SparseTensor as SparseTensor
from pcsparse.sparse_tensor import cat as cat
from pcsparse.sparse_tensor import collate as collate

__version__ = "0.1.0"
