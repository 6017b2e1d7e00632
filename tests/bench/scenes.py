"""One small scene for all benchmark tests."""

from pcsparse.bench.clouds import small_cloud
from pcsparse.bench.limits import Limits
from pcsparse.bench.scene import Scene

# any machine: a test reads no time
LIMITS = Limits(bandwidth=1e9, fma=1e9)


def small_scene(n: int = 1500) -> Scene:
    return Scene.of(small_cloud(n))
