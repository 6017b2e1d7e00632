"""What `pcsparse inspect` says a cloud is, in words."""

import itertools

from pcsparse.data.point_cloud import PointCloud
from pcsparse.infer.inspect import RANGE_EDGES_M, CloudReport


def facts_of(cloud: PointCloud, report: CloudReport) -> list[tuple[str, str]]:
    """What a cloud is: names and sentences; the name of a further line on the same is empty."""
    size = cloud.source.stat().st_size
    columns = (
        "x y z" + (" intensity" if report.intensity else "") + (" ring" if cloud.ring is not None else "")
    )
    named = (
        "".join(cloud.source.suffixes[-2:]) if cloud.source.name.endswith(".pcd.bin") else cloud.source.suffix
    )
    facts = [("file", f"{named}, {size} bytes: {report.n_file} points of {columns}")]
    facts += [("", note) for note in cloud.notes]
    total = max(1, report.facts.n_points)
    low, high = report.extent
    extent = ", ".join(f"{axis} {a:.1f} ... {b:.1f}" for axis, a, b in zip("xyz", low, high, strict=True))
    facts.append(("extent", f"{extent} m; 99 % within {report.facts.reach:.1f} m"))
    edges = [f"{a:g}-{b:g} m" for a, b in itertools.pairwise(RANGE_EDGES_M)]
    shares = [f"{n} {100 * k / total:.1f} %" for n, k in zip([*edges, "beyond"], report.bands, strict=True)]
    facts.append(("range", ", ".join(shares)))
    near = report.facts.near_density
    cells = "" if near is None else f"{near:.1f} points a ground cell of 0.5 m within 20 m; "
    facts.append(
        (
            "density",
            f"{cells}{report.n_voxels} voxels, {total / max(1, report.n_voxels):.1f} points in each, "
            f"{100 * report.alone:.0f} % without a neighbour",
        )
    )
    facts += [("ground", _ground_line(report)), ("sensor", _sensor_line(report))]
    facts.append(("intensity", _intensity_line(report)))
    odd = {
        "not finite": report.n_invalid,
        "at (0, 0, 0)": report.n_zero,
        "repeated": report.n_repeated,
        "within 2.5 m over the ground": report.n_own,
        "out of the given range": report.n_hidden_by_range,
    }
    facts.append(("points", ", ".join(f"{n} {name}" for name, n in odd.items())))
    return facts


def _ground_line(report: CloudReport) -> str:
    frame = report.frame
    if frame.ground is None:
        return "no level plane within 20 m of the origin"
    axes = f"{frame.up} up, {'metres' if frame.scale == 1 else f'units of {frame.scale:g} m'}"
    believed = "" if frame.sure else " (a sensor stands 0.3 ... 4 m over its ground: not sure of either)"
    return (
        f"z = {frame.ground.height:.2f} m under the origin, tilted {frame.ground.tilt:.1f} degrees, "
        f"{100 * frame.ground.share:.0f} % of what is near lies on it; {axes}{believed}"
    )


def _sensor_line(report: CloudReport) -> str:
    rings = report.rings
    behind = f"{100 * report.behind:.1f} % of the points lie behind others"
    if report.coverage < 1:
        behind = f"{360 * report.coverage:.0f} degrees around it are seen; {behind}"
    if rings is None:
        return f"no rings found; {behind}"
    about = "about " if rings.source == "elevations" else ""
    step = "" if rings.step is None else f", a point every {rings.step:.3f} degrees"
    return (
        f"{about}{rings.count} lasers from {rings.low:.1f} to {rings.high:.1f} degrees{step} "
        f"(by {rings.source}); {behind}"
    )


def _intensity_line(report: CloudReport) -> str:
    facts = report.intensity
    if facts is None:
        return "none"
    return f"{facts.low:g} ... {facts.high:g}, 99 % below {facts.percentile_99:g}; divided by {facts.scale:g}"
