"""A comparison as text, Markdown, HTML and LaTeX."""

from __future__ import annotations

import html
from collections.abc import Sequence

import pandas as pd

from toxfusion.evaluation.comparison_table import Comparison

_HOW = (
    "Units are ranked with those of their own fold (in tiny folds, as the heading then says, with all), and scores are "
    "averaged over seeds; intervals and paired differences are from "
    "a bootstrap over compounds (in a study of patients, over patients), on the same draws for every experiment; "
    "p-values are corrected over the experiments of a task, and < stands before one that is a bound. "
    "The share of the oracle is (AUROC - 0.5) / (oracle - 0.5)."
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of runs</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color:
#222; }} table {{ border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0;
font-variant-numeric: tabular-nums; }}
th, td {{ border-bottom: 1px solid #ccc; padding: .3rem .8rem; text-align: left; white-space: nowrap; }}
th {{ border-bottom: 2px solid #555; }}
.note {{ border-left: 4px solid #d55e00; padding-left: .8rem; }}
img {{ max-width: 100%; }}
</style></head><body>
{body}
</body></html>
"""


def to_text(comparison: Comparison) -> str:
    """For a terminal."""
    blocks = [
        _aligned(comparison.summary()),
        f"* differs from {comparison.reference}: Holm-corrected p < 0.05",
    ]
    for headline in comparison.headlines:
        blocks += ["", comparison.heading(headline), _aligned(comparison.details(headline))]
    return "\n".join([*blocks, *([""] if comparison.notes else []), *(f"! {n}" for n in comparison.notes)])


def to_markdown(comparison: Comparison) -> str:
    """Tables in GitHub's Markdown."""
    blocks = [
        _markdown(comparison.summary()),
        f"\\* differs from `{comparison.reference}`: Holm-corrected p < 0.05. {_HOW}",
    ]
    for headline in comparison.headlines:
        blocks += [f"### {comparison.heading(headline)}", _markdown(comparison.details(headline))]
    if comparison.notes:
        blocks.append("\n".join(f"- {n}" for n in comparison.notes))
    return "\n\n".join(blocks) + "\n"


def to_html(comparison: Comparison, figures: Sequence[str] = ()) -> str:
    """One page; ``figures`` are names of image files beside it."""
    body = ["<h1>Comparison of runs</h1>", _html(comparison.summary())]
    body.append(
        f"<p>* differs from {html.escape(comparison.reference)}: Holm-corrected p &lt; 0.05. "
        f"{html.escape(_HOW)}</p>"
    )
    body += [f"<p class=note>{html.escape(note)}</p>" for note in comparison.notes]
    body += [
        f'<a href="{html.escape(n)}"><img src="{html.escape(n)}" alt="{html.escape(n)}"></a>' for n in figures
    ]
    for headline in comparison.headlines:
        body += [f"<h2>{html.escape(comparison.heading(headline))}</h2>", _html(comparison.details(headline))]
    return _PAGE.format(body="\n".join(body))


def to_latex(comparison: Comparison) -> str:
    """Tables for ``\\input`` into a document that loads the package booktabs."""
    how = f"* differs from {comparison.reference}: Holm-corrected p < 0.05. {_HOW}"
    blocks = ["% Written by toxfusion.compare. In the preamble: \\usepackage{booktabs}"]
    blocks += [_latex(comparison.summary(), how, "summary")]
    blocks += [_latex(comparison.details(h), f"{comparison.heading(h)}.", h) for h in comparison.headlines]
    blocks += [f"% {' '.join(note.split())}" for note in comparison.notes]
    return "\n\n".join(blocks) + "\n"


def _aligned(table: pd.DataFrame) -> str:
    lines = [list(table.columns), *table.astype(str).to_numpy().tolist()]
    widths = [max(len(line[i]) for line in lines) for i in range(table.shape[1])]
    padded = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([padded[0], "-" * max(map(len, padded)), *padded[1:]])


def _markdown(table: pd.DataFrame) -> str:
    lines = [list(table.columns), ["---"] * table.shape[1], *table.astype(str).to_numpy().tolist()]
    escaped = [[cell.replace("|", "\\|").replace("*", "\\*") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


_LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
})  # fmt: skip


def _latex(table: pd.DataFrame, caption: str, label: str) -> str:
    """A floating booktabs table; every cell is escaped, and braced: a leading [ would be an argument of `\\\\`."""
    escaped = table.astype(str).map(lambda cell: f"{{{cell.translate(_LATEX)}}}")
    escaped.columns = [str(c).translate(_LATEX) for c in escaped.columns]
    body = escaped.style.hide(axis="index").to_latex(
        hrules=True,
        position="htbp",
        position_float="centering",
        caption=caption.translate(_LATEX),
        label=f"tab:{label}",
    )
    return r"\begingroup\scriptsize\setlength{\tabcolsep}{3pt}" + "\n" + body + r"\endgroup"


def _html(table: pd.DataFrame) -> str:
    return table.to_html(index=False, border=0)
