"""Modules: parameters, initialisation, repr. All take a SparseTensor, but layers of heads take tensors."""

from pcsparse.nn.block import ResidualBlock as ResidualBlock
from pcsparse.nn.conv import SparseConv3d as SparseConv3d
from pcsparse.nn.conv import SparseConvTranspose3d as SparseConvTranspose3d
from pcsparse.nn.conv import SparseInverseConv3d as SparseInverseConv3d
from pcsparse.nn.conv import SubmanifoldConv3d as SubmanifoldConv3d
from pcsparse.nn.eie_linear import EIELinear as EIELinear
from pcsparse.nn.fuse import FusedResidualBlock as FusedResidualBlock
from pcsparse.nn.fuse import fuse as fuse
from pcsparse.nn.linear_conv2d import LinearConv2d as LinearConv2d
from pcsparse.nn.norm import BatchNorm as BatchNorm
from pcsparse.nn.norm import BatchNormReLU as BatchNormReLU
from pcsparse.nn.pointwise import GELU as GELU
from pcsparse.nn.pointwise import Dropout as Dropout
from pcsparse.nn.pointwise import LeakyReLU as LeakyReLU
from pcsparse.nn.pointwise import Linear as Linear
from pcsparse.nn.pointwise import ReLU as ReLU
from pcsparse.nn.pointwise import SiLU as SiLU
from pcsparse.nn.pool import AvgPool3d as AvgPool3d
from pcsparse.nn.pool import GlobalAvgPool as GlobalAvgPool
from pcsparse.nn.pool import GlobalMaxPool as GlobalMaxPool
from pcsparse.nn.pool import MaxPool3d as MaxPool3d
from pcsparse.nn.prepare import prepare as prepare
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear as SemiStructuredLinear
from pcsparse.nn.to_bev import ToBEV as ToBEV
from pcsparse.nn.tuning import use_tuning as use_tuning
