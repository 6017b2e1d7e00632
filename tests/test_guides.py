"""Guides: their blocks run in order as one session, and print what the text block after each says.

Blocks of Python run as they are. Commands of `pcsparse` in blocks of bash run in the same process, which
saves seconds of imports. In a text block a line "…" stands for any lines, "…" in a line for the rest of it.
"""

import re
import shlex
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
ANYTHING = "…"


def as_python(block: Block) -> str:
    """What runs a block."""
    if block.language == "python":
        return block.text
    commands = [shlex.split(line) for line in block.text.replace("\\\n", " ").splitlines() if line.strip()]
    assert all(command[0] == "pcsparse" for command in commands), f"line {block.line}: pcsparse commands only"
    calls = [f"assert pcsparse_main({command[1:]!r}) == 0\n" for command in commands]
    return "from pcsparse.cli import main as pcsparse_main\n" + "".join(calls)


def session(guide: Path) -> list[tuple[Block, str]]:
    """Each block of a guide that runs, with the text that it is said to print."""
    found, listed = [], blocks(guide)
    for block, after in zip(listed, [*listed[1:], None], strict=True):
        if block.language in ("python", "bash"):
            said = after is not None and after.language == "text"
            found.append((block, after.text if said else ANYTHING))
    return found


def shows(printed: str, said: str) -> bool:
    """Whether what was printed is what is said, where lines may be left out."""
    parts = re.split(rf"^{ANYTHING}$", said.strip(), flags=re.MULTILINE)
    if len(parts) == 1:
        return not differs(printed, said)
    lines = [line for line in printed.splitlines() if line.strip()]
    wanted = [[line for line in part.splitlines() if line.strip()] for part in parts]
    # what comes before the first left-out lines begins the output, what follows the last ends it
    first, *middle, last = wanted
    if not matches(lines[: len(first)], first) or not matches(lines[len(lines) - len(last) :], last):
        return False
    rest = lines[len(first) : len(lines) - len(last)]
    for part in middle:
        found = next((i for i in range(len(rest)) if matches(rest[i : i + len(part)], part)), None)
        if found is None:
            return False
        rest = rest[found + len(part) :]
    return True


def matches(lines: list[str], said: list[str]) -> bool:
    """Whether lines are what is said, line by line, up to where that leaves a rest out."""
    if len(lines) != len(said):
        return False
    starts = [line.partition(ANYTHING) for line in said]
    cut = [line[: len(start)] if rest else line for line, (start, rest, _) in zip(lines, starts, strict=True)]
    return not any(differs(a, start) for a, (start, _, _) in zip(cut, starts, strict=True))


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


def test_lines_may_be_left_out():
    printed = "a 1\nb 2\nc 3 x\nd 4\n"
    for said in ("…", "…\nb 2\n…", "a 1\n…\nd 4", "…\nc 3 …\n…", "a 1\nb 2\n…", printed):
        assert shows(printed, said)
    for said in ("b 2\n…", "…\nc 3 x", "…\nd 4\n…\nb 2\n…", "…\nb 2\nd 4\n…", "…\nb 5\n…", "a 1\nb 2"):
        assert not shows(printed, said)


def test_commands_become_calls():
    made = as_python(Block("bash", "pcsparse infer 'a b' \\\n  --out c\n\npcsparse tune\n", 1))
    assert made.endswith(
        "assert pcsparse_main(['infer', 'a b', '--out', 'c']) == 0\nassert pcsparse_main(['tune']) == 0\n"
    )
    with pytest.raises(AssertionError, match="pcsparse commands only"):
        as_python(Block("bash", "rm -r out", 1))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_prints_what_it_says(guide, tmp_path):
    parts = session(guide)
    assert len(parts) > 1
    program = "".join(f"{as_python(block)}\nprint({END!r})\n" for block, _ in parts)
    done = subprocess.run(
        [sys.executable, "-"], cwd=tmp_path, input=program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{guide.name}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    printed = done.stdout.split(f"{END}\n")
    assert len(printed) == len(parts) + 1
    for (block, said), found in zip(parts, printed, strict=False):
        assert shows(found, said), f"{guide.name}, line {block.line} prints\n{found}\nand says\n{said}"
