"""The sheet of a picture: title, panels and legend from top to bottom, written with Pillow's own font."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pcsparse.checks import require_extra
from pcsparse.view.palette import ClassEntry, Ramp, legible

MARGIN = 16
"""Pixels around and between the parts."""
_TITLE_PX = 26
_TEXT_PX = 17
_SWATCH_PX = 15


@dataclass(frozen=True)
class Theme:
    """Colours of a sheet, RGB."""

    page: tuple[int, int, int]
    panel: tuple[int, int, int]
    line: tuple[int, int, int]
    text: tuple[int, int, int]
    faint: tuple[int, int, int]
    box: tuple[int, int, int]


THEMES: dict[str, Theme] = {
    "dark": Theme((13, 15, 19), (20, 23, 29), (48, 54, 64), (232, 234, 238), (150, 156, 166), (255, 196, 84)),
    "light": Theme(
        (255, 255, 255), (246, 247, 249), (208, 212, 218), (24, 28, 34), (104, 110, 120), (168, 92, 0)
    ),
}


class Sheet:
    """The sheet that panels, title and legend are put on, from top to bottom."""

    def __init__(self, width: int, theme: Theme) -> None:
        self._image = require_extra("PIL.Image", "view")
        self._drawing = require_extra("PIL.ImageDraw", "view")
        self._fonts = require_extra("PIL.ImageFont", "view")
        self._theme = theme
        self._paper = self._image.new("RGB", (width, MARGIN), theme.page)
        self._bottom = MARGIN
        self._panels_top = MARGIN

    def _font(self, size: int) -> Any:
        # the font that comes with Pillow: the same letters on every machine
        return self._fonts.load_default(size)

    def _grow(self, height: int) -> Any:
        """Add `height` pixels at the bottom; returns what draws on the sheet."""
        taller = self._image.new("RGB", (self._paper.width, self._bottom + height), self._theme.page)
        taller.paste(self._paper, (0, 0))
        self._paper = taller
        return self._drawing.Draw(taller)

    def title(self, left: str, right: str) -> None:
        """Add a line of text, cut where it would run into the small text at the right."""
        font, small = self._font(_TITLE_PX), self._font(_TEXT_PX)
        pen = self._grow(_TITLE_PX + MARGIN)
        edge = self._paper.width - MARGIN - pen.textlength(right, font=small)
        # no letter is as narrow as 4 pixels
        shown = left[: self._paper.width // 4]
        while shown and MARGIN + pen.textlength(shown, font=font) > edge - MARGIN:
            shown = shown.removesuffix("...")[:-1].rstrip() + "..." if len(shown) > 4 else ""
        middle = self._bottom + _TITLE_PX // 2
        pen.text((MARGIN, middle), shown, font=font, fill=self._theme.text, anchor="lm")
        pen.text((edge, middle), right, font=small, fill=self._theme.faint, anchor="lm")
        self._bottom = self._paper.height

    def panels(self, left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> None:
        """Add two pictures of one height, (h, w, 3) RGB, side by side."""
        self._panels_top = self._bottom
        self._grow(left.shape[0] + MARGIN)
        self._paper.paste(self._image.fromarray(left), (MARGIN, self._bottom))
        self._paper.paste(self._image.fromarray(right), (2 * MARGIN + left.shape[1], self._bottom))
        self._bottom = self._paper.height

    def ring_labels(self, reach: float, step: float, side: int) -> None:
        """How far the range rings are, below each ring's lowest point."""
        pen, font = self._drawing.Draw(self._paper), self._font(_TEXT_PX - 4)
        middle = self._paper.width - MARGIN - side // 2
        halo = {"stroke_width": 2, "stroke_fill": self._theme.panel}
        for i in range(1, int(reach / step) + 1):
            row = self._panels_top + side // 2 + i * step * 0.5 * side / reach
            if row < self._panels_top + side - 4:
                text = f"{i * step:g} m"
                pen.text((middle + 4, row - 2), text, font=font, fill=self._theme.text, anchor="lb", **halo)

    def classes(self, entries: Sequence[ClassEntry]) -> None:
        """Add swatches with name and share, in as many rows as they need."""
        font, line = self._font(_TEXT_PX), _TEXT_PX + 11
        pen = self._drawing.Draw(self._paper)
        labels = [f"{entry.name}  {_percent(entry.share)}" for entry in entries]
        widths = [_SWATCH_PX + 8 + pen.textlength(label, font=font) + 26 for label in labels]
        places: list[tuple[float, int]] = []
        x, row = float(MARGIN), 0
        for width in widths:
            if x > MARGIN and x + width - 26 > self._paper.width - MARGIN:
                x, row = float(MARGIN), row + 1
            places.append((x, row))
            x += width
        pen = self._grow((row + 1) * line + MARGIN // 2 if entries else 0)
        colors = np.array([entry.color for entry in entries], dtype=np.uint8).reshape(-1, 3)
        for (x, row), label, rgb in zip(places, labels, legible(colors, self._theme.panel), strict=True):
            y = self._bottom + row * line + line // 2
            box = (x, y - _SWATCH_PX // 2, x + _SWATCH_PX, y + _SWATCH_PX // 2)
            pen.rounded_rectangle(box, radius=3, fill=tuple(int(v) for v in rgb))
            pen.text((x + _SWATCH_PX + 8, y), label, font=font, fill=self._theme.text, anchor="lm")
        self._bottom = self._paper.height

    def ramp(self, ramp: Ramp) -> None:
        """Add a colour bar between its two ends."""
        font, line = self._font(_TEXT_PX), _TEXT_PX + 11
        pen = self._grow(line + MARGIN // 2)
        y = self._bottom + line // 2
        text = f"{ramp.label}   {ramp.low:.3g}"
        pen.text((MARGIN, y), text, font=font, fill=self._theme.text, anchor="lm")
        x = int(MARGIN + pen.textlength(text, font=font) + 10)
        length = 320
        colors = legible(ramp.colors(np.linspace(ramp.low, ramp.high, length)), self._theme.panel)
        bar = np.broadcast_to(colors, (_SWATCH_PX, length, 3))
        self._paper.paste(self._image.fromarray(np.ascontiguousarray(bar)), (x, y - _SWATCH_PX // 2))
        pen.text((x + length + 10, y), f"{ramp.high:.3g}", font=font, fill=self._theme.text, anchor="lm")
        self._bottom = self._paper.height

    def pixels(self) -> npt.NDArray[np.uint8]:
        """(h, width, 3) uint8, RGB: the sheet so far."""
        return np.asarray(self._paper, dtype=np.uint8).copy()


def _percent(share: float) -> str:
    # 0 % beside a class that is there would be a lie
    return "<0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"
