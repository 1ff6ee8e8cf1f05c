"""The folder of an explanation read back: what the report says is in these tables and nowhere else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from toxfusion.explanation.folder import VIEWER, file_name, file_stem
from toxfusion.study.vocabulary import DOSE_ORDER
from toxfusion.training.folder import RunError

LEADING = 15
"""Genes shown at the head of a ranking."""
_ENDS = re.compile(r"whole|tiles|deletion|[0-9.e+-]+um")
"""How names of pictures end: another task may begin as this one."""


@dataclass
class ExplainedRun:
    """One run of the folder.

    Attributes:
        name, fold, seed, tasks, slides: as in manifest.json; place: its folder below ``runs/``.
        about: run.json.
    """

    name: str
    fold: int
    seed: int
    tasks: list[str]
    slides: list[str]
    place: Path
    about: dict[str, Any]

    def table(self, name: str) -> pd.DataFrame | None:
        """A CSV or parquet file below the folder of the run; None where there is none."""
        return read_table(self.place / name)

    @cached_property
    def genes(self) -> dict[str, pd.DataFrame]:
        """Task -> integrated gradients, index sample_id, columns gene_id."""
        files = {t: self.place / "genes" / f"{file_name(t)}.parquet" for t in self.tasks}
        return {task: pd.read_parquet(path) for task, path in files.items() if path.is_file()}

    def pictures(self, slide_id: str, task: str) -> dict[str, Path]:
        """What was drawn of a slide and task: the end of the file's name -> file."""
        stem = file_name(task)
        shown = {
            path.stem.removeprefix(f"{stem}_"): path
            for path in sorted((self.place / "regions" / file_stem(slide_id)).glob(f"{stem}_*.png"))
        }
        return {end: path for end, path in shown.items() if _ENDS.fullmatch(end)}


def read_table(path: Path) -> pd.DataFrame | None:
    """A CSV (empty cells alone are NaN) or parquet file; None where there is none, or no row in it."""
    if not path.is_file():
        return None
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
    else:
        table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return table if len(table) else None


class Explained:
    """All of a folder that `explaining.explain_runs` wrote.

    Attributes:
        root: the folder. manifest: what its manifest.json says.
    """

    def __init__(self, root: Path) -> None:
        """Raises RunError where no explanation lies."""
        path = root / "manifest.json"
        if not path.is_file():
            raise RunError(f"{path} is missing: no explanation lies here; run toxfusion.explain first")
        self.root = root
        self._read: dict[str, pd.DataFrame] = {}
        self.manifest: dict[str, Any] = json.loads(path.read_text())

    @cached_property
    def provenance(self) -> dict[str, Any]:
        return json.loads((self.root / "provenance.json").read_text())

    @cached_property
    def runs(self) -> list[ExplainedRun]:
        folders = []
        for entry in self.manifest["runs"]:
            place = self.root / "runs" / entry["run"]
            about = json.loads((place / "run.json").read_text())
            folders.append(
                ExplainedRun(
                    entry["run"], entry["fold"], entry["seed"], entry["tasks"], entry["slides"], place, about
                )
            )
        return folders

    @cached_property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(t for run in self.runs for t in run.tasks))

    @cached_property
    def samples(self) -> pd.DataFrame:
        """samples.csv, one row a sample; texts as texts."""
        path = self.root / "samples.csv"
        texts = dict.fromkeys(("sample_id", "compound", "dose_level", "batch", "subtype"), str)
        table = pd.read_csv(path, dtype=texts, keep_default_na=False, na_values=[""])
        return table.fillna({c: "" for c in texts if c in table})

    @cached_property
    def compounds(self) -> list[str]:
        return sorted(self.samples["compound"].unique(), key=str.casefold)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """Predictions of all runs, with the name of the run."""
        return self.of_runs("predictions.csv", texts=("unit_id", "compound", "dose_level", "batch", "study"))

    def of_runs(
        self, name: str, texts: tuple[str, ...] = ("sample_id", "compound", "slide_id")
    ) -> pd.DataFrame:
        """A CSV file of all runs that have it, with column run; empty where none has. Read once: not to be changed."""
        if name not in self._read:
            parts = []
            for run in self.runs:
                path = run.place / name
                if path.is_file():
                    types = dict.fromkeys(texts, str)
                    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=types)
                    parts.append(table.fillna({c: "" for c in texts if c in table}).assign(run=run.name))
            self._read[name] = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        return self._read[name]

    def table(self, name: str) -> pd.DataFrame | None:
        """A table of all runs; None where there is none, or no row in it."""
        return read_table(self.root / name)

    @cached_property
    def viewer_slides(self) -> list[dict[str, Any]]:
        """The slides that have tiles for the viewer."""
        path = self.root / VIEWER / "slides.json"
        return json.loads(path.read_text()) if path.is_file() else []

    @cached_property
    def drawn(self) -> dict[str, str]:
        """Slide with pictures -> its sample."""
        table = self.of_runs("regions/areas.csv")
        return {} if table.empty else dict(zip(table["slide_id"], table["sample_id"], strict=True))

    @cached_property
    def symbols(self) -> dict[str, str]:
        """gene_id -> symbol."""
        table = self.table("genes/ranking.csv")
        return {} if table is None else dict(zip(table["gene_id"], table["symbol"].astype(str), strict=True))

    def genes_of(self, sample_ids: list[str], task: str) -> pd.DataFrame | None:
        """The genes that weigh most in some samples: symbol, integrated (mean over samples, then runs), n_runs."""
        means = []
        for run in self.runs:
            if task in run.genes:
                table = run.genes[task]
                there = table.index.isin(sample_ids)
                means += [table[there].mean()] if there.any() else []
        if not means:
            return None
        mean = pd.concat(means, axis=1, join="inner").mean(axis=1)
        leading = mean.reindex(mean.abs().sort_values(ascending=False, kind="stable").index)[:LEADING]
        symbols = [self.symbols.get(str(g), str(g)) for g in leading.index]
        genes = pd.DataFrame({"gene_id": leading.index, "symbol": symbols, "integrated": leading.to_numpy()})
        return genes.assign(n_runs=len(means))

    def groups(self, compound: str) -> Iterator[tuple[tuple[str, float], pd.DataFrame]]:
        """Samples of a compound by dose level and time, controls first."""
        mine = self.samples[self.samples["compound"] == compound]
        order = mine.assign(place=mine["dose_level"].map(DOSE_ORDER))
        for (_, _, _), samples in order.groupby(["place", "dose", "time_h"], dropna=False):
            yield (str(samples["dose_level"].iloc[0]), float(samples["time_h"].iloc[0])), samples
