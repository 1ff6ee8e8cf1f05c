"""The page that the demo ends in: a table, a lesion, a programme, what each modality moves, the embedding."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from toxfusion.evaluation.comparison_table import span
from toxfusion.evaluation.templates import templates
from toxfusion.explanation import planted
from toxfusion.study.files import replace_file
from toxfusion.study.study import virtual_setting
from toxfusion.study.vocabulary import title_of
from toxfusion.training.folder import RunFolder

HEADLINES = ("lesions", "injury", "dili")
ALONE = {"ablation_wsi_only": "slides alone", "ablation_omics_only": "expression alone"}
PAGE, FIGURES = "index.html", "figures"


@dataclass(frozen=True)
class Compared:
    """Two comparisons of the same experiments: learned from all labels, and from few.

    Attributes:
        every, few: ``comparison.csv`` of `runs.compared.compare_runs`, indexed by experiment.
        budget: labelled compounds a class of ``few``.
    """

    every: pd.DataFrame
    few: pd.DataFrame
    budget: int

    @classmethod
    def read(cls, every: Path, few: Path, budget: int) -> Compared:
        """From the folders of both comparisons."""
        tables = [pd.read_csv(folder / "comparison.csv", index_col="experiment") for folder in (every, few)]
        return cls(tables[0], tables[1], budget)

    @property
    def headlines(self) -> list[str]:
        """Those of `HEADLINES` that both comparisons have."""
        return [h for h in HEADLINES if all(f"{h}_value" in table for table in (self.every, self.few))]

    def lines(self) -> list[dict[str, object]]:
        """One a experiment: name, and a cell a column of `columns`."""
        return [
            {
                "name": name,
                "cells": [
                    _interval(table, str(name), headline)
                    for table in (self.every, self.few)
                    for headline in self.headlines
                ],
            }
            for name in self.every.index
        ] + [{"name": "oracle (knows the truth)", "cells": self._oracles()}]

    def _oracles(self) -> list[str]:
        oracles = [self.every[f"{headline}_oracle"].dropna() for headline in self.headlines]
        known = [f"{column.iloc[0]:.2f}" if len(column) else "" for column in oracles]
        return known + ["" for _ in self.headlines]

    def statements(self) -> list[str]:
        """How often both modalities rank a pair right, beside either alone, as the intervals have it."""
        said = []
        for table, labels in (
            (self.every, "all labels"),
            (self.few, f"labels of {2 * self.budget} compounds"),
        ):
            for headline in self.headlines:
                alone = [
                    f"{words} {_of_hundred(table, name, headline)}{_told_apart(table, name, headline)}"
                    for name, words in ALONE.items()
                    if name in table.index
                ]
                both = f"both together {_of_hundred(table, 'full', headline)}"
                said.append(
                    f"{title_of(headline)}, learned from {labels}. Of 100 pairs they rank right: "
                    f"{', '.join([both, *alone])}."
                )
        return said


def _cell(table: pd.DataFrame, experiment: str, column: str) -> float:
    return float(table[column].to_dict()[experiment])


def _of_hundred(table: pd.DataFrame, experiment: str, headline: str) -> str:
    return f"{100 * _cell(table, experiment, f'{headline}_value'):.0f}"


def _interval(table: pd.DataFrame, experiment: str, headline: str) -> str:
    if experiment not in table.index:
        return ""
    value, low, high = (_cell(table, experiment, f"{headline}_{c}") for c in ("value", "low", "high"))
    return span(value, low, high)


def _told_apart(table: pd.DataFrame, experiment: str, headline: str) -> str:
    low, high = (_cell(table, experiment, f"{headline}_difference_{end}") for end in ("low", "high"))
    if math.isnan(low):
        return ""
    return " (told apart)" if low > 0 or high < 0 else " (not told apart)"


def write_demo_page(root: Path, run: RunFolder, compared: Compared, links: Mapping[str, Path]) -> Path:
    """Draw the figures of a finished demo and write its page.

    Args:
        root: the demo's folder; receives index.html and figures/.
        run: a finished run of ``full`` on the virtual study, which figures are drawn of.
        compared: of all experiments.
        links: title -> other pages and folders below ``root``.

    Returns:
        index.html.

    Raises:
        TruthError: the study is not virtual, or its test part shows no lesion.
    """
    figures = root / FIGURES
    loaded = planted.load(run)
    lesion = planted.find_lesion(loaded, figures / "lesion.png")
    programme = planted.find_programme(loaded, figures / "genes.png")
    listened = planted.listened_to(loaded, figures / "listened.png")
    planted.draw_mechanisms(run, figures / "mechanisms.png")
    static = resources.files("toxfusion.report") / "static"
    replace_file(figures / "report.css", (static / "report.css").read_bytes())
    study = loaded.fold.study
    text = (
        templates("toxfusion.report", escaped=True)
        .get_template("demo.html")
        .render(
            setting=virtual_setting(study.provenance),
            compounds=study.obs["compound"].nunique(),
            slides=len(study.slides),
            headlines=[title_of(headline) for headline in compared.headlines],
            compared=compared,
            lesion=lesion,
            programme=programme,
            listened=listened,
            moved=listened.by.reset_index().to_dict("records"),
            links={
                title: quote(os.path.relpath(target, root).replace(os.sep, "/"))
                for title, target in links.items()
            },
        )
    )
    replace_file(root / PAGE, text.encode())
    return root / PAGE
