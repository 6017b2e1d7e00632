"""Clouds as one self-contained HTML file: to open in a browser, to pick points in, to send to a colleague.

The page needs no network and forbids itself any. What it shows stands in `page.html`, `page.css` and
the `page*.js` beside this file; here they are put together with the points.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pcsparse.errors import RangeError
from pcsparse.view import page_payload as payload
from pcsparse.view.page_sweep import Box as Box
from pcsparse.view.page_sweep import Classes as Classes
from pcsparse.view.page_sweep import Sweep as Sweep
from pcsparse.view.palette import UNLABELLED, Ramp, legible
from pcsparse.view.sheet import THEMES
from pcsparse.view.splat import Frame, ring_step
from pcsparse.whole_file import write_whole

MAX_POINTS = 20_000_000
"""Points of a page, all sweeps together: beyond it, at some 200 MB, browsers refuse or run out of memory."""

FORMAT = 1
_SCRIPTS = (
    "page_data.js",
    "page_camera.js",
    "page_shaders.js",
    "page_draw.js",
    "page_input.js",
    "page_panel.js",
    "page_legend.js",
    "page_scene.js",
    "page.js",
)
_RAMP_KNOTS = 7


def page(
    sweeps: Sequence[Sweep],
    classes: Classes | None = None,
    *,
    title: str = "",
    theme: Literal["dark", "light"] = "dark",
) -> str:
    """The text of the page.

    Coordinates are kept in 65,535 steps along each axis of each sweep (2.4 mm over 160 m), intensity and
    confidence in 255; the page says the step. The same input gives the same text.

    Args:
        sweeps: one, or several to page through in this order.
        classes: what labels and predictions mean; None where there are neither.
        title: of the page; the name of the first sweep if empty.
        theme: which it opens with; the reader can change it.

    Raises:
        RangeError: no sweep, more than `MAX_POINTS` points, a class number without a name, an instance beyond
            65,535, or an unknown theme.
    """
    if not sweeps:
        raise RangeError("a page needs at least one sweep, got none")
    if theme not in THEMES:
        raise RangeError(f"theme must be one of {', '.join(THEMES)}, got {theme!r}")
    n_points = sum(len(sweep.points) for sweep in sweeps)
    if n_points > MAX_POINTS:
        raise RangeError(
            f"a page holds at most {MAX_POINTS:,} points, got {n_points:,}; thin them, for example to "
            f"one point in {-(-n_points // MAX_POINTS)}, or give fewer sweeps"
        )
    classes = classes or Classes()
    facts, texts = zip(*(_coded(sweep, classes) for sweep in sweeps), strict=True)
    title = title or sweeps[0].name or "point cloud"
    content = {
        "format": FORMAT,
        "title": title,
        "theme": theme,
        "ramp": Ramp("", 0, _RAMP_KNOTS - 1).colors(np.arange(_RAMP_KNOTS, dtype=np.float64)).tolist(),
        "classes": _class_table(classes),
        **_shown_ranges(sweeps),
        "sweeps": list(facts),
    }
    return _filled(title, theme, content, texts)


def save_page(
    path: str | Path,
    sweeps: Sequence[Sweep],
    classes: Classes | None = None,
    *,
    title: str = "",
    theme: Literal["dark", "light"] = "dark",
) -> int:
    """Write the page, whole or not at all; its folder is made where it is missing. See `page`.

    Returns:
        Bytes written.
    """
    path = Path(path)
    content = page(sweeps, classes, title=title, theme=theme).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return len(content)


def _coded(sweep: Sweep, classes: Classes) -> tuple[dict[str, Any], str]:
    """What the page is told of a sweep, and the text of its points."""
    valid = np.isfinite(sweep.points).all(axis=1)
    points = sweep.points[valid]
    grid = payload.Grid.of(points)
    cells = grid.cells(points)
    planes = {axis: payload.difference_planes(cells[:, i]) for i, axis in enumerate("xyz")}
    scale = 1.0
    if sweep.intensity is not None:
        # a bright sign may lie beyond 1
        scale = max(1.0, float(np.nan_to_num(sweep.intensity[valid], posinf=0.0).max(initial=0.0)))
        planes["intensity"] = payload.share_bytes(sweep.intensity[valid], scale)
    if sweep.labels is not None:
        planes["labels"] = payload.class_bytes(sweep.labels[valid], len(classes.names), "labels")
    if sweep.prediction is not None:
        planes["prediction"] = payload.class_bytes(sweep.prediction[valid], len(classes.names), "predictions")
    if sweep.confidence is not None:
        planes["confidence"] = payload.share_bytes(sweep.confidence[valid], 1.0)
    if sweep.instance is not None:
        planes["instance"] = payload.difference_planes(_instances(sweep.instance[valid], sweep.name))
    rows = np.arange(len(valid)) if sweep.rows is None else sweep.rows
    if sweep.rows is not None or not valid.all():
        planes["rows"] = payload.row_planes(rows[valid])
    joined = b"".join(planes.values())
    facts = {
        "name": sweep.name,
        "points": len(points),
        "leftOut": int(len(valid) - len(points)),
        "low": grid.low,
        "step": grid.step,
        "origin": sweep.origin,
        "intensityScale": scale,
        "pose": None if sweep.pose is None else sweep.pose.astype(np.float64).tolist(),
        "columns": list(planes),
        "bytes": len(joined),
        "boxes": [
            {"center": box.center, "size": box.size, "yaw": box.yaw, "name": box.name, "score": box.score}
            for box in sweep.boxes
        ],
    }
    return facts, payload.packed(joined)


def _instances(instance: npt.NDArray[np.integer], name: str) -> npt.NDArray[np.integer]:
    if instance.size and not (instance.min() >= 0 and instance.max() <= payload.MAX_INSTANCE):
        raise RangeError(
            f"{name}: instances must lie in 0 ... {payload.MAX_INSTANCE}, "
            f"got {instance.min()} ... {instance.max()}"
        )
    return instance


def _class_table(classes: Classes) -> list[dict[str, Any]]:
    """Name and colours, for a dark and a light page, of each class; last that of points without one."""
    colors = np.vstack([classes.colors, np.array([UNLABELLED], np.uint8)])
    shown = {name: legible(colors, theme.panel).tolist() for name, theme in THEMES.items()}
    names = [*classes.names, "unlabelled"]
    return [
        {"name": name, "dark": shown["dark"][i], "light": shown["light"][i]} for i, name in enumerate(names)
    ]


def _shown_ranges(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """Ends of the colour bars, and the part of the cloud that the first view shows."""
    first = sweeps[0].points[np.isfinite(sweeps[0].points).all(axis=1)]
    frame = Frame.of(first)
    heights = first[:, 2] if len(first) else np.zeros(1)
    intensity = sweeps[0].intensity
    bright = np.zeros(0) if intensity is None else intensity[np.isfinite(intensity)]
    return {
        "height": [float(v) for v in np.percentile(heights, (1, 99))],
        "intensity": [float(v) for v in np.percentile(bright, (1, 99))] if len(bright) else [0.0, 1.0],
        "center": frame.center,
        "reach": frame.reach,
        "ringStep": ring_step(frame.reach),
    }


def _filled(title: str, theme: str, content: dict[str, Any], texts: Sequence[str]) -> str:
    folder = Path(__file__).parent
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    # "<" could end the element that holds it
    facts = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )
    parts = {
        "title": html.escape(title),
        "theme": theme,
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "facts": facts,
        "points": "\n".join(
            f'<script type="text/plain" id="points-{i}">{text}</script>' for i, text in enumerate(texts)
        ),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    # in one pass: what was filled in is never looked at again
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _policy(style: str, script: str) -> str:
    """The content security policy: this style and this script, pictures made here, and nothing else."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; script-src {digest(script)}; style-src {digest(style)}; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
