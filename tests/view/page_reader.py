"""Reads a page as a browser would, and undoes the coding of its points: shares no code with what wrote it."""

import base64
import json
import re
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any

import numpy as np

_TWO_BYTES = ("x", "y", "z", "instance")


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[Element] = []
        self._open: Element | None = None

    def handle_starttag(self, tag, attrs):
        self._open = Element(tag, dict(attrs))
        self.found.append(self._open)

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open is not None:
            self._open.text += data


def elements(text: str) -> list[Element]:
    """Every element in order, with the text up to the next start or end of one."""
    reader = _Elements()
    reader.feed(text)
    reader.close()
    return reader.found


def by_id(text: str, name: str) -> Element:
    (found,) = [element for element in elements(text) if element.attributes.get("id") == name]
    return found


def content(text: str) -> dict[str, Any]:
    """What the page is told beside the points."""
    return json.loads(by_id(text, "content").text)


def policy(text: str) -> dict[str, list[str]]:
    """The content security policy: sources by directive."""
    (meta,) = [e for e in elements(text) if e.attributes.get("http-equiv") == "Content-Security-Policy"]
    parts = [part.split() for part in re.split(r";\s*", meta.attributes["content"])]
    return {part[0]: part[1:] for part in parts}


def columns(text: str, sweep: int = 0) -> dict[str, np.ndarray]:
    """The columns of a sweep: x, y, z in metres (float64), the others as numbers of the bytes."""
    facts = content(text)["sweeps"][sweep]
    planes = zlib.decompress(base64.b64decode(by_id(text, f"points-{sweep}").text, validate=True), wbits=-15)
    assert len(planes) == facts["bytes"]
    n, at, found = facts["points"], 0, {}
    for name in facts["columns"]:
        width = 4 if name == "rows" else 2 if name in _TWO_BYTES else 1
        stack = np.frombuffer(planes, np.uint8, n * width, at).reshape(width, n).astype(np.int64)
        value = sum(stack[k] << (8 * k) for k in range(width))
        if name == "rows":
            value = np.cumsum(value) - 1
        elif name in _TWO_BYTES:
            steps = np.where(value % 2 == 0, value // 2, -(value + 1) // 2)
            value = np.cumsum(steps) % 65536
        if name in ("x", "y", "z"):
            axis = "xyz".index(name)
            value = facts["low"][axis] + facts["step"][axis] * value.astype(np.float64)
        found[name] = value
        at += width * n
    assert at == len(planes)
    return found
