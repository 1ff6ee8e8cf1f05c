"""The report of an explanation: index.html and its pages, which open from disk without a network.

Made from the tables of the folder alone (`explained.Explained`). Sections stand where their tables lie in the folder.
Names come from data: Jinja escapes all of them, and `folder` makes files of them.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from toxfusion.evaluation.families import METRIC_NAMES
from toxfusion.evaluation.templates import templates
from toxfusion.explanation.folder import INDEX, REPORT, VIEWER, file_name, file_stem, file_stems
from toxfusion.report.cells import (
    dose_and_time,
    gradient,
    known_label,
    means_without,
    number,
    plain,
    records,
    worst_findings,
)
from toxfusion.report.compound_page import compound_page
from toxfusion.report.explained import Explained, ExplainedRun, read_table
from toxfusion.report.statements import areas, over_runs, statements, study_in_words, task_name
from toxfusion.study.audit import NAMED, Audit
from toxfusion.study.files import replace_file
from toxfusion.study.vocabulary import DOSE_ORDER

OPENSEADRAGON = "6.1.1"
"""Version of the viewer in static/."""
STATIC = ("report.css", "viewer.js", "openseadragon.min.js", "openseadragon.LICENSE.txt")
MOST_SETS = 20
"""Gene sets of a table in the report; the CSV has all."""
MOST_PICTURES = 12
SCORE_NAMES = {
    "attention": "attention",
    "contribution": "contribution (gradient x difference to controls)",
    "integrated": "integrated gradients",
    "likeness": "likeness to tiles of training slides that have it",
}
PICTURES = {
    "whole": "the whole slide beside its scores",
    "tiles": "the tiles that raise and lower the number most",
    "deletion": "the number as tiles are taken away and put in",
}


def write_report(root: Path, *, compound_pages: int = 200) -> Path:
    """Write the report of an explanation into its folder, in place of an earlier one.

    Args:
        root: what `explaining.explain_runs` wrote.
        compound_pages: compounds that get a page; those with drawn slides first, then those of the highest risk.

    Returns:
        index.html.

    Raises:
        RunError: no explanation lies there.
    """
    explanation = Explained(root)
    pages = Pages(explanation, compound_pages)
    for name in ("compounds", "slides", "static"):
        shutil.rmtree(root / REPORT / name, ignore_errors=True)
    static = resources.files("toxfusion.report") / "static"
    for name in STATIC:
        replace_file(root / REPORT / "static" / name, (static / name).read_bytes())
    for compound, stem in pages.compounds.items():
        pages.write(REPORT / "compounds" / f"{stem}.html", "compound.html", pages.compound(compound))
    for slide, stem in pages.slides.items():
        pages.write(REPORT / "slides" / f"{stem}.html", "slide.html", pages.slide(slide))
    return pages.write(INDEX, "index.html", pages.index())


class Pages:
    """Contents of the pages, and their files."""

    def __init__(self, explanation: Explained, compound_pages: int) -> None:
        self.explanation = explanation
        self.compounds = file_stems(self._chosen(compound_pages))
        self.slides = file_stems(explanation.drawn)
        self._viewer = {entry["slide_id"]: entry for entry in explanation.viewer_slides}
        self._templates = templates("toxfusion.report", escaped=True)
        self._templates.filters |= {"number": number, "plain": plain, "task": task_name}

    def write(self, file: Path, template: str, content: Mapping[str, Any]) -> Path:
        """Render a page; links within it are relative to where it lies."""
        path = self.explanation.root / file

        def link(target: str | Path) -> str:
            return quote(os.path.relpath(target, file.parent).replace(os.sep, "/"))

        def image(target: str | Path) -> dict[str, Any]:
            width, height = _size(self.explanation.root / target)
            return {"href": link(target), "width": width, "height": height}

        text = self._templates.get_template(template).render(
            link=link,
            image=image,
            experiment=self.explanation.manifest["experiment"],
            study=self.explanation.provenance["study"],
            study_named=study_in_words(self.explanation.provenance["study"]["name"]),
            compound_page={c: REPORT / "compounds" / f"{s}.html" for c, s in self.compounds.items()},
            slide_page={c: REPORT / "slides" / f"{s}.html" for c, s in self.slides.items()},
            static=REPORT / "static",
            **content,
        )
        replace_file(path, text.encode())
        return path

    def _chosen(self, most: int) -> list[str]:
        """The compounds that get a page, in the order of their names."""
        explanation = self.explanation
        if len(explanation.compounds) <= most:
            return explanation.compounds
        drawn = set(
            explanation.samples.set_index("sample_id").loc[list(explanation.drawn.values()), "compound"]
        )
        risk = explanation.predictions.groupby("compound")["score"].mean()
        ranked = sorted(explanation.compounds, key=lambda c: (c not in drawn, -risk.get(c, -math.inf)))
        return sorted(ranked[:most], key=str.casefold)

    # ------------------------------------------------------------------ index

    def index(self) -> dict[str, Any]:
        explanation = self.explanation
        return {
            "statements": statements(explanation),
            "metrics": self._metrics(),
            "compounds": self._compound_table(),
            "n_compounds": len(explanation.compounds),
            "slides": [self._slide_card(slide) for slide in self.slides],
            "genes": self._rankings(),
            "stability": [r for r in records(explanation.table("genes/stability.csv")) if r["n_runs"] > 1],
            "pathways": self._pathways(),
            "gates": self._gates(),
            "without": self._without(),
            "clinical": self._clinical(),
            "cohort": self._cohort(),
            "faithfulness": self._faithfulness(),
            "runs": explanation.runs,
            "provenance": explanation.provenance,
            "config_text": {
                run.name: yaml.safe_dump(run.about["config"], sort_keys=False) for run in explanation.runs
            },
            "left_out": self._left_out(),
            "openseadragon": OPENSEADRAGON,
        }

    def _metrics(self) -> list[dict[str, Any]]:
        """One row a headline: metric, chance, mean over runs, and value with interval of each run."""
        headlines: dict[str, dict[str, Any]] = {}
        for run in self.explanation.runs:
            for entry in run.about["scores"]:
                headline = headlines.setdefault(
                    entry["task"],
                    {"metric": METRIC_NAMES[entry["metric"]], "chance": entry["chance"], "runs": {}},
                )
                headline["runs"][run.name] = entry
        for headline in headlines.values():
            values = [e["value"] for e in headline["runs"].values() if e["value"] is not None]
            headline["mean"] = float(np.mean(values)) if values else None
        return [{"task": task, **headline} for task, headline in headlines.items()]

    def _compound_table(self) -> list[dict[str, Any]]:
        """The table of compounds: samples, predicted risk where there is one a compound, worst finding, slides."""
        explanation, summaries = self.explanation, []
        dili = explanation.predictions[explanation.predictions["task"] == "dili"]
        drawn = pd.Series(explanation.drawn, dtype=str).map(
            explanation.samples.set_index("sample_id")["compound"]
        )
        for compound in self.compounds:
            mine = explanation.samples[explanation.samples["compound"] == compound]
            risk = dili[dili["compound"] == compound]
            summaries.append(
                {
                    "compound": compound,
                    "n": len(mine),
                    "risk": over_runs(risk["score"]) if len(risk) else None,
                    "label": known_label(mine, "dili"),
                    "finding": worst_findings(mine[~mine["is_control"]]),
                    "slides": int((drawn == compound).sum()),
                }
            )
        return summaries

    def _slide_card(self, slide: str) -> dict[str, Any]:
        explanation = self.explanation
        owner = explanation.samples[explanation.samples["sample_id"] == explanation.drawn[slide]]
        pictures = [
            (task, self._within(run.pictures(slide, task)["whole"]))
            for run in explanation.runs
            for task in run.tasks
            if "whole" in run.pictures(slide, task)
        ]
        entry = self._viewer.get(slide)
        if entry is not None:
            shown = entry["overlays"][0]["task"]
            pictures = [(shown, VIEWER / entry["folder"] / "preview.jpg"), *pictures]
        return {
            "slide": slide,
            "compound": owner["compound"].iloc[0],
            "dosing": dose_and_time(owner.iloc[0]),
            "finding": worst_findings(owner),
            "task": pictures[0][0] if pictures else "",
            "picture": pictures[0][1] if pictures else None,
        }

    def _rankings(self) -> list[dict[str, Any]]:
        """The leading genes of each task, by mean rank over runs."""
        table = self.explanation.table("genes/ranking.csv")
        if table is None:
            return []
        return [
            {"task": task, "rows": records(of_task.head(MOST_SETS))}
            for task, of_task in table.groupby("task", sort=False)
        ]

    def _pathways(self) -> dict[str, Any] | None:
        """Enrichment where it was made, and the sums over pathway tokens where the network has them."""
        place = self.explanation.root / "pathways"
        parts: dict[str, Any] = {}
        for name in ("gsea", "over_representation"):
            table = read_table(place / f"{name}.csv")
            if table is not None:
                ordered = table.sort_values(["fdr", "p"], kind="stable")
                parts[name] = [
                    {"task": task, "n": len(of_task), "rows": records(of_task.head(MOST_SETS))}
                    for task, of_task in ordered.groupby("task", sort=False)
                ]
        if (place / "enrichment.png").is_file():
            parts["picture"] = Path("pathways") / "enrichment.png"
        tokens = []
        for task in self.explanation.tasks:
            name = f"{file_name(task)}_pathways.csv"
            tables = [t for run in self.explanation.runs if (t := run.table(f"genes/{name}")) is not None]
            if tables:
                mean = (
                    pd.concat(tables)
                    .groupby("pathway", sort=False)[["n_genes", "integrated", "attention"]]
                    .mean()
                )
                mean = mean.reindex(mean["integrated"].abs().sort_values(ascending=False).index)
                tokens.append({"task": task, "rows": records(mean.head(MOST_SETS).reset_index())})
        if tokens:
            parts["tokens"] = tokens
        return parts or None

    def _gates(self) -> dict[str, Any] | None:
        table = self.explanation.of_runs("fusion/gates_by.csv", texts=("by", "value"))
        if table.empty:
            return None
        mean = table.groupby(["by", "value"], sort=False).agg(
            n=("n", "sum"), mean=("mean", "mean"), low=("low", "min"), high=("high", "max")
        )
        groups = mean[mean.index.get_level_values("by") != "compound"].reset_index()
        groups = groups.iloc[
            np.argsort([DOSE_ORDER.get(v, len(DOSE_ORDER)) for v in groups["value"]], kind="stable")
        ]
        names = {"dose_level": "dose level", "time_h": "time, h"}
        return {
            "rows": records(groups.assign(by=groups["by"].replace(names))),
            "pictures": [
                (run.name, self._within(path))
                for run in self.explanation.runs
                if (path := run.place / "fusion/gates.png").is_file()
            ][:MOST_PICTURES],
        }

    def _without(self) -> list[dict[str, Any]]:
        table = self.explanation.of_runs("fusion/without.csv")
        return [] if table.empty else means_without(table)

    def _clinical(self) -> list[dict[str, Any]]:
        """What each clinical column adds to each task, the mean over runs; the largest first."""
        table = self.explanation.of_runs("clinical/summary.csv", texts=("task", "entry"))
        if table.empty:
            return []
        mean = table.groupby(["task", "entry"], sort=False).agg(
            runs=("run", "nunique"), n=("n", "sum"), slope=("slope", "mean"),
            low=("slope", "min"), high=("slope", "max"), mean_absolute=("mean_absolute", "mean"),
        )  # fmt: skip
        return [
            {
                "task": task,
                "rows": records(of_task.sort_values("mean_absolute", ascending=False).reset_index()),
            }
            for task, of_task in mean.groupby("task", sort=False)
        ]

    def _cohort(self) -> dict[str, Any] | None:
        """Views of the cohort, where they were made."""
        place = self.explanation.root / "cohort"
        parts: dict[str, Any] = {}
        names = ("compound", "dose", "time", "finding", "batch")
        maps = [
            (n, Path("cohort") / f"embedding_{n}.png")
            for n in names
            if (place / f"embedding_{n}.png").is_file()
        ]
        if maps:
            parts["maps"] = maps
        prototypes = read_table(place / "prototypes.csv")
        if prototypes is not None:
            parts["prototypes"] = prototypes.head(MOST_SETS)
            parts["n_prototypes"] = len(prototypes)
        if (place / "prototypes.png").is_file():
            parts["prototypes_picture"] = Path("cohort") / "prototypes.png"
        return parts or None

    def _faithfulness(self) -> dict[str, Any] | None:
        explanation, parts = self.explanation, dict[str, Any]()
        measured = areas(explanation)
        if measured:
            parts["areas"] = [
                {"curve": c, "value": i.value, "low": i.low, "high": i.high, "n": n, "n_compounds": m}
                for c, (i, n, m) in measured.items()
            ]
        table = explanation.table("agreement.csv")
        if table is not None:
            mean = table.groupby(["against", "subject", "score"], sort=False).agg(
                runs=("run", "nunique"), n=("n", "sum"), spearman=("spearman", "mean"),
                low=("spearman", "min"), high=("spearman", "max"), signed=("signed", "mean"),
            ).reset_index()  # fmt: skip
            parts["agreement"] = records(mean)
        nulls = explanation.table("nulls.csv")
        if nulls is not None:
            parts["nulls"] = records(nulls.assign(metric=nulls["metric"].map(METRIC_NAMES)))
        return parts or None

    def _left_out(self) -> list[dict[str, Any]]:
        """What the audit of the explanation says was dropped: how many of each kind, why, and the names of a few."""
        path = self.explanation.root / "audit.json"
        names: dict[tuple[str, str], list[str]] = {}
        for record in Audit.read(path).dropped.records if path.is_file() else ():
            names.setdefault((record.kind, record.reason), []).append(record.id)
        return [
            {"kind": kind, "reason": reason, "n": len(of), "names": of if len(of) <= NAMED else []}
            for (kind, reason), of in names.items()
        ]

    # ------------------------------------------------------------------ compounds

    def compound(self, compound: str) -> dict[str, Any]:
        explanation = self.explanation
        mine = set(explanation.samples.loc[explanation.samples["compound"] == compound, "sample_id"])
        slides = [self._slide_card(s) for s in self.slides if explanation.drawn[s] in mine]
        return compound_page(explanation, compound) | {"slides": slides}

    # ------------------------------------------------------------------ slides

    def slide(self, slide: str) -> dict[str, Any]:
        card, pictures, tiles = self._slide_card(slide), [], []
        for run in self.explanation.runs:
            for task in run.tasks:
                of_task = run.pictures(slide, task)
                if of_task:
                    pictures.append({"run": run.name, "task": task, "files": self._named(of_task)})
            tiles += self._extremes(run, slide)
        geojson = [
            (run.name, self._within(path))
            for run in self.explanation.runs
            if (path := run.place / "regions" / file_stem(slide) / "tiles.geojson").is_file()
        ]
        return {
            **card,
            "sample": self.explanation.drawn[slide],
            "viewer": self._viewer_data(slide),
            "pictures": pictures,
            "tiles": tiles,
            "geojson": geojson,
        }

    def _named(self, files: dict[str, Path]) -> list[tuple[str, Path]]:
        """What each picture shows, and its file."""
        return [
            (
                PICTURES.get(
                    end, f"the part around the highest tile at {end.removesuffix('um')} um per pixel"
                ),
                self._within(p),
            )
            for end, p in sorted(
                files.items(), key=lambda item: list(PICTURES).index(item[0]) if item[0] in PICTURES else 0.5
            )
        ]

    def _extremes(self, run: ExplainedRun, slide: str) -> list[dict[str, Any]]:
        table = run.table("regions/extreme_tiles.csv")
        if table is None:
            return []
        extremes = records(table[table["slide_id"].astype(str) == slide])
        return [
            {**tile, "run": run.name, "path": self._within(run.place / "regions" / tile["file"])}
            for tile in extremes
        ]

    def _viewer_data(self, slide: str) -> dict[str, Any] | None:
        """What the viewer is told: the pyramid, and each score with its legend."""
        entry = self._viewer.get(slide)
        if entry is None:
            return None
        tiles = os.path.relpath(VIEWER / entry["folder"], REPORT / "slides").replace(os.sep, "/")
        several = len(self.explanation.runs) > 1
        kept = ("width", "height", "min_level", "max_level", "tile_px", "mpp", "downsample")
        return {
            **{k: entry[k] for k in kept},
            "tiles": quote(tiles),
            "scores": [
                {
                    "name": _score_name(o) + (f", {o['run']}" if several else ""),
                    "file": quote(f"{tiles}/{o['file']}"),
                    "width": o["width"] / entry["dimensions"][0],
                    "aspect": o["width"] / o["height"],
                    "low": number(o["low"], 3, o["signed"]),
                    "high": number(o["high"], 3, o["signed"]),
                    "middle": "0" if o["signed"] else "",
                    "colours": gradient(o["colour_map"]),
                }
                for o in entry["overlays"]
            ],
        }

    def _within(self, path: Path) -> Path:
        return path.relative_to(self.explanation.root)


def _score_name(overlay: dict[str, Any]) -> str:
    if not overlay["task"]:
        return f"{SCORE_NAMES[overlay['score']]}, the same for every task"
    return f"{task_name(overlay['task'])}: {SCORE_NAMES[overlay['score']]}"


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size
