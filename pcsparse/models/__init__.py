"""Published networks, each built from a frozen Spec."""

from pcsparse.models.minkunet import MinkUNet as MinkUNet
from pcsparse.models.minkunet import MinkUNetSpec as MinkUNetSpec
from pcsparse.models.pillar_bev import PillarBEV as PillarBEV
from pcsparse.models.pillar_bev import PillarBEVSpec as PillarBEVSpec
from pcsparse.models.plain_cnn import PlainCNN as PlainCNN
from pcsparse.models.plain_cnn import PlainCNNSpec as PlainCNNSpec
from pcsparse.models.pointnet2 import PointNet2 as PointNet2
from pcsparse.models.pointnet2 import PointNet2Spec as PointNet2Spec
from pcsparse.models.second import SecondBackbone as SecondBackbone
from pcsparse.models.second import SecondSpec as SecondSpec
from pcsparse.models.spvcnn import SPVCNN as SPVCNN
from pcsparse.models.spvcnn import SPVCNNSpec as SPVCNNSpec
