"""One small scene for all benchmark tests."""

from pcsparse.bench.clouds import small_cloud
from pcsparse.bench.scene import Scene


def small_scene(n: int = 1500) -> Scene:
    return Scene.of(small_cloud(n))
