"""Notebooks of ``docs/notebooks/`` as pages of the site: their cells in order, and a link to the notebook itself."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page a notebook; the navigation of mkdocs.yml names them."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        uri = str(PurePosixPath(file.src_uri).with_suffix(".md"))
        text = notebook_page(Path(str(file.abs_src_path)))
        files.append(File.generated(config, uri, content=text))
    return files


def notebook_page(notebook: Path) -> str:
    """The cells of a notebook in Markdown, the link below its title."""
    cells = json.loads(notebook.read_text())["cells"]
    title, *rest = (_markdown(cell) for cell in cells)
    return "\n\n".join([title, f"[Download the notebook]({notebook.name})", *rest]) + "\n"


def _markdown(cell: dict[str, object]) -> str:
    source = cell["source"]
    text = (
        source if isinstance(source, str) else "".join(map(str, source)) if isinstance(source, list) else ""
    )
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
