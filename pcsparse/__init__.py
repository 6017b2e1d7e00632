"""3D perception on point clouds, built around sparse 3D convolution."""

__version__ = "0.1.0"
