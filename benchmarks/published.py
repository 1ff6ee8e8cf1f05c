"""Published numbers beside ours: collects what is finished into docs/published.md.

    python -m benchmarks.published published

The folder holds one folder a section, as the benchmark of that section left it; `SECTIONS` says which. A section whose
benchmark has nothing finished is named as missing. Nothing is trained or scored here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import mirror_tables, released_risks, survival_tables
from toxfusion.study.files import replace_file


@dataclass(frozen=True)
class Section:
    """One section of the page.

    Attributes:
        folder: of its benchmark's results, below that of the page.
        title: its heading.
        command: what makes the results, in words.
        blocks: from the folder of results and that of pictures to blocks of Markdown; none where nothing is finished.
    """

    folder: str
    title: str
    command: str
    blocks: Callable[[Path, Path], list[str]]


SECTIONS: tuple[Section, ...] = (
    Section("survival", "Survival", "python -m benchmarks.survival FOLDER", survival_tables.blocks),
    Section(
        "risks",
        "Paired with published runs",
        "python -m benchmarks.released_risks FOLDER --external mcat_predictions.csv",
        released_risks.blocks,
    ),
    Section("mirror", "MIRROR's folds", "python -m benchmarks.mirror_folds FOLDER", mirror_tables.blocks),
)


def page(results: Path, pictures: Path, sections: Sequence[Section] = SECTIONS) -> str:
    """The whole page as Markdown."""
    parts = [
        "# Published numbers beside ours",
        f"Written by `python -m benchmarks.published {results.name}` from the results of the commands named below. "
        "Folds and data are those that others published. Everything of ours is chosen inside the training part. "
        "Intervals are over patients (95 %, bootstrap).",
    ]
    for section in sections:
        missing = f"Nothing is finished. `{section.command}` makes it."
        finished = section.blocks(results / section.folder, pictures)
        parts += [f"## {section.title}", *(finished or [missing])]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="holds one folder of results a section")
    parser.add_argument("--document", type=Path, default=Path("docs/published.md"))
    parser.add_argument("--pictures", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    replace_file(arguments.document, page(arguments.folder.resolve(), arguments.pictures).encode())
    print(f"written: {arguments.document}")


if __name__ == "__main__":
    main()
