"""Published networks, each built from a frozen Spec."""

from pcsparse.models.minkunet import MinkUNet as MinkUNet
from pcsparse.models.minkunet import MinkUNetSpec as MinkUNetSpec
