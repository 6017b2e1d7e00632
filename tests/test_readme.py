"""Documents that stay true: README blocks run, names resolve, links and paths lead somewhere."""

import importlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [path for glob in ("*.md", "docs/**/*.md", "datasets/*/*.md") for path in sorted(ROOT.glob(glob))]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# the folder listing of the house; a path in a document that starts with one of them must exist
TOP = ("pcsparse", "configs", "datasets", "scripts", "tests", "docs")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line it starts at."""

    language: str
    text: str
    line: int


def blocks(document: Path) -> list[Block]:
    text = document.read_text()
    return [Block(m[1], m[2], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]


def without_verbs(text: str) -> str:
    """A shell text less its `make` lines: the verbs are run by those who call them, this test among them."""
    return "".join(line for line in text.splitlines(keepends=True) if not re.match(r"make\b", line))


def runnable() -> list[Block]:
    found = []
    for block in blocks(README):
        if block.language == "python":
            found.append(block)
        elif block.language in ("bash", "sh", "console") and without_verbs(block.text).strip():
            found.append(Block("bash", without_verbs(block.text), block.line))
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A folder that looks like the checkout, where all blocks run in order and leave what they write."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("pcsparse", "configs", "datasets", "scripts", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.mark.parametrize("block", runnable(), ids=lambda block: f"{block.language}-line-{block.line}")
def test_readme_block_runs(block, checkout):
    command = [sys.executable, "-"] if block.language == "python" else ["bash", "-euo", "pipefail", "-s"]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=checkout, env=environment, input=block.text, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, f"README.md, line {block.line}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def test_every_fence_names_a_language_that_is_run_or_only_read():
    assert {block.language for block in blocks(README)} <= {"bash", "python", "text", "yaml", "toml"}


def resolves(name: str) -> bool:
    module, rest = name, []
    while module:
        try:
            thing = importlib.import_module(module)
        except ModuleNotFoundError as error:
            # only the name itself may be missing; a module that fails to import is a defect of its own
            if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
                raise
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
            continue
        for attribute in rest:
            if not hasattr(thing, attribute):
                return False
            thing = getattr(thing, attribute)
        return True
    return False


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_of_the_package_resolve(document):
    names = set(re.findall(r"\bpcsparse(?:\.[A-Za-z_]\w*)+", document.read_text()))

    assert not sorted(name for name in names if not resolves(name))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text)]
    missing = [link for link in links if link and not (document.parent / link).exists()]
    quoted = re.findall(rf"`((?:{'|'.join(TOP)})/[\w./-]*)`", text)
    missing += [path for path in quoted if not (ROOT / path).exists()]

    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_verbs_exist(document):
    verbs = re.findall(r"^([a-z-]+):.* ##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|^)make ([a-z-]+)\b(?!=)", document.read_text(), re.MULTILINE)

    assert set(named) <= set(verbs)
