"""Guides: their Python blocks run in order as one session, and print what the text block after each says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_readme import ROOT, Block, blocks

GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
# another processor adds in another order, and a few of thousands of voxels change their class
RELATIVE, ABSOLUTE = 0.01, 0.03
END = "== end of block =="


def session(guide: Path) -> list[tuple[Block, str]]:
    """Each Python block of a guide with the text that it is said to print."""
    found, listed = [], blocks(guide)
    for block, after in zip(listed, [*listed[1:], None], strict=True):
        if block.language == "python":
            said = after is not None and after.language == "text"
            found.append((block, after.text if said else ""))
    return found


def differs(printed: str, said: str) -> bool:
    """Whether two texts differ in a word, or in a number by more than another processor makes it."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", said).split():
        return True
    numbers = [[float(n.replace(",", "")) for n in NUMBER.findall(text)] for text in (printed, said)]
    return any(abs(a - b) > max(ABSOLUTE, RELATIVE * abs(b)) for a, b in zip(*numbers, strict=True))


def test_texts_differ_by_words_and_numbers():
    assert not differs("right: 0.80 of 1,000 MB", "right: 0.81 of 1,005 MB")
    assert differs("right: 0.80", "right: 0.85")
    assert differs("1,000 bytes", "1,020 bytes")
    assert differs("True 1", "False 1")
    assert differs("1 2", "1")


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_prints_what_it_says(guide, tmp_path):
    parts = session(guide)
    assert len(parts) > 1
    program = "".join(f"{block.text}\nprint({END!r})\n" for block, _ in parts)
    done = subprocess.run(
        [sys.executable, "-"], cwd=tmp_path, input=program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{guide.name}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    printed = done.stdout.split(f"{END}\n")
    assert len(printed) == len(parts) + 1
    for (block, said), found in zip(parts, printed, strict=False):
        assert not differs(found, said), f"{guide.name}, line {block.line} prints\n{found}\nand says\n{said}"
