"""A page a command for the site, made of ``conf/`` and of the commands' own descriptions: every key with its default.

A comment above a key says what it is. A comment at the top of a file says what the file is.
"""

from __future__ import annotations

import html
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from toxfusion.__main__ import COMMANDS
from toxfusion.config.folders import config_dir

FOLDER = "reference/commands"
#: Groups whose options are lists of overrides: each is shown as its file, without its defaults.
PRESETS = ("experiment", "hparams_search", "debug")


@dataclass(frozen=True)
class Key:
    """A key of a configuration file: its dotted name, its value as written, and the comment above it."""

    name: str
    default: str
    description: str


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages; the navigation of mkdocs.yml names them."""
    for command in COMMANDS:
        files.append(File.generated(config, f"{FOLDER}/{command}.md", content=command_page(command)))
    return files


def command_page(command: str, conf: Path | None = None) -> str:
    """The page of a command, in Markdown."""
    conf = conf or config_dir()
    main_file = conf / f"{command}.yaml"
    groups = dict(chosen_groups(main_file))
    purpose, _, examples = (
        inspect.getdoc(importlib.import_module(f"toxfusion.{command}").main) or ""
    ).partition("Examples:")
    parts = [
        f"# {command}",
        _prose(purpose),
        f"```bash\ntoxfusion {command} [group=option ...] [key=value ...]\n```",
        f"Examples:\n\n```bash\n{inspect.cleandoc(examples)}\n```" if examples else "",
        "## Keys",
        _table(file_keys(main_file, conf)),
    ]
    if groups:
        parts += ["## Groups", _group_table(groups, conf)]
    for group in groups:
        parts += [f"## {group}", *_options(group, conf)]
    return "\n\n".join(part for part in parts if part) + "\n"


def chosen_groups(file: Path) -> Iterator[tuple[str, str]]:
    """Group and default option of a file's defaults list, those of Hydra and of a user's own machine left out."""
    for entry in (yaml.safe_load(file.read_text()) or {}).get("defaults", []):
        if isinstance(entry, dict):
            for key, option in entry.items():
                if not re.match(r"hydra|optional ", key):
                    yield key, "none" if option is None else "required" if option == "???" else str(option)


def file_keys(file: Path, conf: Path) -> list[Key]:
    """Keys of a file, after those that it takes from folders of shared files and from groups within its own."""
    text = file.read_text()
    document = yaml.compose(text)
    keys: dict[str, Key] = {}
    for entry in (yaml.safe_load(text) or {}).get("defaults", []) if document else []:
        for prefix, shared in _inherited(entry, file, conf):
            keys |= {
                prefix + key.name: replace(key, name=prefix + key.name) for key in file_keys(shared, conf)
            }
    for key in _own_keys(document, text.splitlines(), text) if document else ():
        inherited = keys.get(key.name)
        keys[key.name] = replace(
            key, description=key.description or (inherited.description if inherited else "")
        )
    return list(keys.values())


def _inherited(entry: Any, file: Path, conf: Path) -> Iterator[tuple[str, Path]]:
    """Prefix and file of what an entry of a defaults list takes in, where no option of the group stands for it."""
    if isinstance(entry, str) and entry.endswith("@_here_"):
        yield "", file.parent / f"{entry.removesuffix('@_here_')}.yaml"
    elif isinstance(entry, dict) and file.parent != conf:
        for name, option in entry.items():
            shared = file.parent / name / f"{option}.yaml"
            if shared.is_file():
                yield f"{name}.", shared


def _own_keys(node: yaml.MappingNode, lines: list[str], text: str, prefix: str = "") -> Iterator[Key]:
    for name, value in node.value:
        dotted = prefix + name.value
        if dotted in ("defaults", "hydra"):
            continue
        comment = _comment_above(lines, name.start_mark.line)
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            if comment:
                yield Key(dotted, "", comment)
            yield from _own_keys(value, lines, text, f"{dotted}.")
        else:
            # The mark of a list lies behind the comments that follow it.
            written = re.sub(r"\n\s*#.*", "", text[value.start_mark.index : value.end_mark.index]).strip()
            yield Key(dotted, re.sub(r"\s+", " ", written), comment)


def _comment_above(lines: list[str], line: int) -> str:
    """The comment that ends above a line; none where it is that of the file, which begins it."""
    first = line
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    if first == 0:
        return ""
    return " ".join(each.lstrip(" #") for each in lines[first:line])


def file_comment(file: Path) -> str:
    """What the comment at the top of a file says of it."""
    words = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            words.append(line.lstrip("# "))
    return " ".join(words)


def _group_table(groups: dict[str, str], conf: Path) -> str:
    rows = ["| group | default | options |", "|---|---|---|"]
    for group, default in groups.items():
        options = " ".join(f"`{file.stem}`" for file in sorted((conf / group).glob("*.yaml")))
        rows.append(f"| [`{group}`](#{group}) | `{default}` | {options} |")
    return "\n".join(rows)


def _options(group: str, conf: Path) -> Iterator[str]:
    options = sorted((conf / group).glob("*.yaml"))
    described = {name: what for file in options for name, what in _descriptions(file, conf).items() if what}
    for file in options:
        yield f"### {group}={file.stem}"
        yield _prose(file_comment(file))
        if group in PRESETS:
            body = re.sub(r"\A(#.*\n)+", "", file.read_text()).strip()
            yield f"```yaml\n{body}\n```"
            continue
        siblings = _siblings(file)
        if siblings:
            names = " and ".join(f"`{group}={sibling.stem}`" for sibling in siblings)
            yield f"Begins as {names}; these keys differ:"
        prefix = "" if "# @package _global_" in file.read_text() else f"{group}."
        known = described | {name: what for name, what in _descriptions(file, conf).items() if what}
        keys = [
            replace(key, description=known.get(key.name) or _source(key)) for key in file_keys(file, conf)
        ]
        yield _table([replace(key, name=prefix + key.name) for key in keys])


def _source(key: Key) -> str:
    """Where a key without a comment takes its value from, if from another key."""
    taken = re.fullmatch(r"\$\{([\w.]+)\}", key.default)
    return f"As `{taken.group(1)}`." if taken else ""


def _siblings(file: Path) -> list[Path]:
    """Options of the same group that a file begins as."""
    entries = (yaml.safe_load(file.read_text()) or {}).get("defaults", [])
    paths = (file.parent / f"{entry}.yaml" for entry in entries if isinstance(entry, str))
    return [path for path in paths if path.is_file()]


def _descriptions(file: Path, conf: Path) -> dict[str, str]:
    """What each key is, by the file's own comments or else by those of the options it begins as."""
    known: dict[str, str] = {}
    for sibling in _siblings(file):
        known |= _descriptions(sibling, conf)
    own = {key.name: key.description for key in file_keys(file, conf)}
    for name, description in own.items():
        above = name.rpartition(".")[0]
        inherited = known.get(name) or ("" if above in own else known.get(above, ""))
        built = "What the other keys build." if name.endswith("_target_") else ""
        known[name] = description or inherited or built
    return known


def _table(keys: list[Key]) -> str:
    if not keys:
        return "No key of its own."
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for key in keys:
        default = f"`{key.default}`" if key.default else ""
        rows.append(f"| `{key.name}` | {default.replace('|', chr(92) + '|')} | {_prose(key.description)} |")
    table = "\n".join(rows)
    return f'<div class="keys" markdown="1">\n\n{table}\n\n</div>'


def _prose(text: str) -> str:
    """A comment as Markdown: its signs are text, and pages of the documentation that it names are links."""
    text = re.sub(r"\s+", " ", text.replace("``", "`")).strip()
    kept = re.split(r"(`[^`]*`)", text)
    plain = [
        part if part.startswith("`") else re.sub(r"([|*\[\]])", r"\\\1", html.escape(part, quote=False))
        for part in kept
    ]
    return re.sub(r"docs/([\w/]+\.md)", _page_link, "".join(plain))


def _page_link(match: re.Match[str]) -> str:
    return f"[{match.group(1)}]({os.path.relpath(match.group(1), FOLDER)})"
