"""The documentation: links and anchors lead somewhere, the navigation is whole, sentences are short."""

from __future__ import annotations

import re
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

import toxfusion
from toxfusion.__main__ import COMMANDS
from toxfusion.config.folders import config_dir

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
LINK = re.compile(r"(?<!\\)\]\(([^)\s]+)\)")
CODE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
#: Pages that the site makes of conf/ and of notebooks.
MADE = {DOCS / "reference" / "commands" / f"{name}.md" for name in COMMANDS} | {
    notebook.with_suffix(".md") for notebook in NOTEBOOKS
}


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its code and tables."""
    text = CODE.sub("", page.read_text())
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("|"))


def anchors(page: Path) -> set[str]:
    """What a link may name in a page, as Python-Markdown and GitHub make it of headings."""
    headings = re.findall(r"^#+ (.+)$", CODE.sub("", page.read_text()), re.MULTILINE)
    plain = (
        re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", h)).strip().lower() for h in headings
    )
    return {re.sub(r"\s+", "-", heading) for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target in MADE or target.exists(), f"{named(page)}: {link} leads nowhere"
        if DOCS in page.parents:
            assert DOCS in target.parents, f"{named(page)}: {link} leaves the site"
        if anchor and target not in MADE and target.suffix == ".md":
            assert anchor in anchors(target), f"{named(page)}: {link} names no heading of {named(target)}"


def test_the_navigation_has_every_page_once() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [
            page for each in (entry.values() if isinstance(entry, dict) else entry) for page in pages(each)
        ]

    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = pages(settings["nav"])
    assert len(listed) == len(set(listed))
    assert {DOCS / page for page in listed} == {page for page in PAGES if DOCS in page.parents} | MADE


def test_every_public_name_is_in_the_python_reference() -> None:
    shown = set(re.findall(r"^::: (\S+)$", (DOCS / "reference" / "python.md").read_text(), re.MULTILINE))
    homes = {f"{module}.{name}" for name, module in toxfusion._HOMES.items()}
    assert homes == shown


@pytest.mark.parametrize("command", COMMANDS)
def test_a_page_of_a_command_has_every_key_of_its_files(command: str) -> None:
    pytest.importorskip("mkdocs")
    page = runpy.run_path(str(DOCS / "_hooks" / "command_pages.py"))["command_page"](command)
    main = yaml.safe_load((config_dir() / f"{command}.yaml").read_text()) or {}
    own = set(main) - {"defaults", "hydra"}
    shown = set(re.findall(r"^\| `([\w.]+)`", page, re.MULTILINE))
    assert own <= {key.partition(".")[0] for key in shown}
    silent = re.findall(r"^\| `([\w.]+)` \| .* \|  \|$", page, re.MULTILINE)
    assert not silent, f"write a comment above each of {silent} in conf/"
    for entry in main.get("defaults", []):
        for group in entry if isinstance(entry, dict) else ():
            if not group.startswith(("hydra", "optional")):
                assert all(
                    f"### {group}={file.stem}\n" in page for file in (config_dir() / group).glob("*.yaml")
                )
    assert re.search(rf"```bash\n(toxfusion {command}\b.*\n)+```\n\n## Keys", page), "the examples of --help"
    if command == "train":
        assert "| `split.n_folds` | `5` |" in page, (
            "keys of shared files are those of the options that take them"
        )
        assert "| `task.weights` |" in page
        assert page.count("`pretrain.weights.align` | `1.0` | InfoNCE or SigLIP") > 1, (
            "options that begin as full"
        )


def sentences(page: Path) -> list[list[str]]:
    """Words of each sentence of the running text: code counts as one word, tables and headings as none."""
    blocks: list[list[str]] = [[]]
    running = re.sub(r"<!--.*?-->", "", CODE.sub("\n\n", page.read_text()), flags=re.DOTALL)
    for line in running.splitlines():
        text = line.strip().lstrip("> ")
        item = re.match(r"([-*]|\d+\.) ", text)
        apart = not text or text.startswith(("|", "#", "!!!", "???", ":::", "!["))
        if item or apart:
            blocks.append([])
        if not apart:
            blocks[-1].append(text[item.end() :] if item else text)
    plain = (
        re.sub(r"`[^`]*`", "Code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(block))).replace("*", "")
        for block in blocks
    )
    parts = (re.split(r"(?<=[.!?])[\")]?\s+(?=[\"(A-Z0-9])", block) for block in plain)
    return [words for block in parts for sentence in block if (words := sentence.split())]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_sentences_are_short(page: Path) -> None:
    lengths = [len(words) for words in sentences(page)]
    assert statistics.median(lengths) < 20
    if "Written by `python" not in page.read_text():  # a command's words hold paths and lists
        longest = max(sentences(page), key=len)
        assert len(longest) <= 40, " ".join(longest)
