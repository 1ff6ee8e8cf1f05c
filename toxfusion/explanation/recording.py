"""What lies beside the explanations of runs so that a report can be made from the folder alone.

Samples and predictions, configs and hashes, tiles for a viewer, and how far the scores agree with those of random
weights, of nulls and of other seeds. docs/reference/explain_folder.md lists the files.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.explanation import agreement, deep_zoom
from toxfusion.explanation.agreement import Scores
from toxfusion.explanation.faithfulness import randomised
from toxfusion.explanation.folder import FINDING, RANDOM, SEED, VIEWER, file_stems
from toxfusion.explanation.fusion import DESCRIBED
from toxfusion.explanation.provenance import describe_run, describe_study, versions
from toxfusion.runs.loaded import LoadedRun, load_run
from toxfusion.slides.readers import open_slide
from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file
from toxfusion.study.study import Study
from toxfusion.training.folder import RunFolder

VIEWED = ("integrated", "likeness", "contribution", "attention")
"""Scores over a slide in the viewer, the first one first."""


class Recording:
    """Writes what the report needs of each run in turn, and of all of them at the end."""

    def __init__(
        self,
        output: Path,
        folders: Sequence[RunFolder],
        *,
        nulls: Sequence[RunFolder],
        viewer_px: int,
        steps: int,
        seed: int,
    ) -> None:
        """Look at the nulls before any work.

        Args:
            nulls: null runs whose scores are set beside those of the runs, on the same test samples.
            viewer_px: longest side of the finest level of the viewer's tiles; 0 = none.
            steps: points of an integral to begin with. seed: of random weights.

        Raises:
            RunError: a null run that is none, or has another test part than every run.
        """
        self._kinds = {null.root: agreement.null_kind(null) for null in nulls}
        self._nulls = {folder.root: agreement.nulls_of(folder, nulls) for folder in folders}
        self._output, self._viewer_px, self._steps, self._seed = output, viewer_px, steps, seed
        self._samples: list[pd.DataFrame] = []
        self._agreement: list[pd.DataFrame] = []
        self._null_scores: list[dict[str, Any]] = []
        self._slides: dict[str, dict[str, Any]] = {}
        self._scores: dict[str, Scores] = {}
        self._settings: dict[str, tuple[int, int]] = {}
        self._study: Study | None = None

    def add(
        self, run: LoadedRun, place: Path, tasks: Sequence[str], shown: Sequence[str], audit: Audit
    ) -> None:
        """Record one run after its tables and pictures were written to ``place``.

        Args:
            shown: slides that were drawn.
        """
        name, study = run.folder.root.name, run.fold.study
        self._study = study
        self._settings[name] = (int(run.config["split"]["fold"]), int(run.config["seed"]))
        self._samples.append(_samples(run))
        place.mkdir(parents=True, exist_ok=True)
        _predictions(run).to_csv(place / "predictions.csv", index=False)
        replace_file(place / "run.json", json.dumps(describe_run(run), indent=1, default=str).encode())
        if self._viewer_px:
            for slide_id in shown:
                self._add_slide(run, place, slide_id)
        self._scores[name] = Scores.read(place, tasks)
        others = [(RANDOM, "", randomised(run, self._seed))]
        for null in self._nulls[run.folder.root]:
            loaded = load_run(null, study, run.fold.split)
            others.append((self._kinds[null.root], str(null.root), loaded))
            scores = describe_run(loaded)["scores"]
            kind = {"run": name, "null": self._kinds[null.root], "folder": str(null.root)}
            self._null_scores += [{**kind, **score} for score in scores]
        for against, other, loaded in others:
            missing = [t for t in tasks if t not in loaded.tasks.names]
            if missing:
                audit.drop("explain", "null", other, f"{name}: not predicted: {', '.join(missing)}")
            self._compare(name, against, other, agreement.scores_of(loaded, tasks, self._steps), study)

    def write(self) -> None:
        """What is of all runs: samples, agreement (seeds of one fold among themselves too), provenance, slides."""
        assert self._study is not None, "some run was added"
        for one, other in itertools.combinations(self._scores, 2):
            if self._settings[one][0] == self._settings[other][0]:
                self._compare(one, SEED, other, self._scores[other], self._study)
        samples = pd.concat(self._samples).drop_duplicates("sample_id")
        samples.to_csv(self._output / "samples.csv", index=False)
        tables = [t for t in self._agreement if len(t)]
        table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=agreement.COLUMNS)
        table[list(agreement.COLUMNS)].to_csv(self._output / "agreement.csv", index=False)
        nulls = self._output / "nulls.csv"
        if self._null_scores:
            pd.DataFrame(self._null_scores).to_csv(nulls, index=False)
        about = {"versions": versions(), "study": describe_study(self._study, self._slides)}
        replace_file(self._output / "provenance.json", json.dumps(about, indent=1, default=str).encode())
        viewer = self._output / VIEWER / "slides.json"
        if self._slides:
            replace_file(viewer, json.dumps(list(self._slides.values()), indent=1).encode())

    def _compare(self, name: str, against: str, other: str, scores: Scores, study: Study) -> None:
        compound = {str(sample): str(name) for sample, name in study.obs["compound"].items()}
        table = agreement.agreement(self._scores[name], scores, compound)
        self._agreement.append(table.assign(run=name, against=against, other=other))

    def _add_slide(self, run: LoadedRun, place: Path, slide_id: str) -> None:
        """The pyramid of a slide that no earlier run has drawn, and the run's scores over it."""
        study = run.fold.study
        override = float(study.slides["mpp_override"].loc[slide_id])
        stem = file_stems([*self._slides, slide_id])[slide_id]
        with open_slide(
            study.slide_path(slide_id), mpp_override=None if np.isnan(override) else override
        ) as slide:
            if slide_id not in self._slides:
                folder = self._output / VIEWER / stem
                pyramid = deep_zoom.write_pyramid(slide, folder, self._viewer_px)
                self._slides[slide_id] = {
                    "slide_id": slide_id,
                    "sample_id": str(study.slides.at[slide_id, "sample_id"]),
                    "folder": stem,
                    "dimensions": list(slide.dimensions),
                    "mpp0": slide.mpp,
                    **asdict(pyramid),
                    "overlays": [],
                }
            entry = self._slides[slide_id]
            scores = pd.read_parquet(place / "regions" / "drawn_tiles.parquet")
            of_slide = scores[scores["slide_id"] == slide_id].dropna(axis=1, how="all")
            folder = self._output / VIEWER / entry["folder"]
            for score in VIEWED:
                for column in (c for c in map(str, of_slide) if c.partition(":")[0] == score):
                    file = f"score{len(entry['overlays'])}.png"
                    made = deep_zoom.write_overlay(of_slide, column, slide.dimensions, folder / file)
                    entry["overlays"].append(
                        {
                            "run": run.folder.root.name,
                            "score": score,
                            "task": column.partition(":")[2],
                            "file": file,
                            "width": made.width,
                            "height": made.height,
                            **asdict(made.colours),
                        }
                    )
            if not (folder / "preview.jpg").is_file():
                deep_zoom.write_preview(slide, folder / "score0.png", folder / "preview.jpg")


def _samples(run: LoadedRun) -> pd.DataFrame:
    """The explained samples: place in the study, labels where known, grade of each finding."""
    study, test = run.fold.study, run.fold.split.test
    labels = [c for c in ("dili", "injury", "survival_time", "event", "subtype") if c in study.obs]
    table = study.obs.loc[test, [*DESCRIBED, "batch", *labels]].rename_axis("sample_id").reset_index()
    grades = study.findings.loc[test].add_prefix(FINDING).reset_index(drop=True)
    return pd.concat([table, grades], axis=1)


def _predictions(run: LoadedRun) -> pd.DataFrame:
    """Predictions table of the explained samples, one row a task and unit."""
    test = run.fold.usable(run.fold.split.test)
    return run.predict(test)
