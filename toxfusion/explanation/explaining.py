"""Everything that explains finished runs, into one folder with a fixed layout: what ``toxfusion.explain`` calls.

docs/reference/explain_folder.md lists the files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from toxfusion.data.expression import ExpressionError
from toxfusion.explanation import cohort, figures, fusion, genes, pathways, regions
from toxfusion.explanation.attribution import samples_with
from toxfusion.explanation.clinical import explain_clinical
from toxfusion.explanation.faithfulness import area_between, deletion_insertion
from toxfusion.explanation.folder import INDEX, REPORT, file_name, file_stem
from toxfusion.explanation.likeness import FAMILIES, TileLikeness, fit_likeness
from toxfusion.explanation.recording import Recording
from toxfusion.explanation.targets import chosen_tasks
from toxfusion.runs.loaded import LoadedRun, encode_slides, load_own_study, load_run
from toxfusion.slides.readers import Slide, open_slide
from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file
from toxfusion.study.rules import StudyError
from toxfusion.study.split import Split
from toxfusion.study.store_spec import StoreError
from toxfusion.study.study import Study
from toxfusion.study.vocabulary import LESION_PREFIX
from toxfusion.training.folder import RunError, RunFolder

LAYOUT = 2
"""Version of the layout of the folder, in manifest.json."""
TASKS_DRAWN = 2
"""Pictures of one slide are of so many tasks."""


@dataclass(frozen=True)
class ExplainSettings:
    """What is drawn and how finely.

    Attributes:
        study: another study whose samples are explained, all of them; None for the test samples of each run's own.
        tasks: names as in the predictions table, or "auto" for all of the run.
        slides: slide ids to draw, or "auto" for the ``n_slides`` test slides with the highest graded findings.
        tiles: top and bottom tiles of a slide.
        views_mpp: um per pixel of the pictures around the tile that weighs most, beside that of the whole slide.
        view_px: longest side of a picture of a slide.
        steps: points of an integral to begin with.
        draws: random orders of deletion and insertion.
        top_k: genes whose overlap over runs is measured, and that are tested for over-representation.
        seed: of the random orders, of random weights, permutations and maps.
        gene_sets: that rankings of genes are compared with.
        neighbours: compounds nearest to each compound.
        nulls: folders of null runs, or above them, whose scores are set beside those of the runs.
        viewer_px: longest side of the finest tiles for the report's viewer; 0 = no tiles.
    """

    study: str | None
    tasks: Sequence[str] | str
    slides: Sequence[str] | str
    n_slides: int
    tiles: int
    views_mpp: Sequence[float]
    view_px: int
    steps: int
    draws: int
    top_k: int
    seed: int
    gene_sets: pathways.GeneSetSettings
    neighbours: int
    nulls: Sequence[str] | str = ()
    viewer_px: int = 0

    @property
    def named_slides(self) -> list[str] | None:
        """Slides asked for by name; None where they are chosen."""
        named = [self.slides] if isinstance(self.slides, str | int | float) else self.slides
        return None if self.slides == "auto" else list(map(str, named))

    @property
    def null_runs(self) -> list[RunFolder]:
        """Finished runs of the folders of nulls."""
        named = [self.nulls] if isinstance(self.nulls, str) else self.nulls
        return [run for root in named for run in finished_runs(Path(root))]


def finished_runs(root: Path) -> list[RunFolder]:
    """The run in a folder, or the finished runs of the folder (folds and seeds of one experiment).

    Raises:
        RunError: neither is there, or the runs are not of one experiment.
    """
    if (root / "config.yaml").is_file():
        return [RunFolder(root)]
    folders = [RunFolder(p.parent) for p in sorted(root.glob("*/done.json"))]
    if not folders:
        raise RunError(
            f"{root}: no run and no folder of finished runs; name outputs/<study>/<experiment>/fold0_seed0, or the "
            "folder above it for all folds and seeds"
        )
    names = sorted({str(folder.read_config()["name"]) for folder in folders})
    if len(names) > 1:
        raise RunError(f"{root}: runs of several experiments ({', '.join(names)}); name the folder of one")
    return folders


def _study_of(folder: RunFolder, settings: ExplainSettings) -> tuple[Study, Split]:
    """What a run is explained on; the test part of the split is what is explained."""
    if settings.study is None:
        return load_own_study(folder)
    # Transductive: a compound that the run has seen may be explained, as it may be scored by toxfusion.predict.
    study = Study.open(settings.study)
    return study, Split(train=[], valid=[], test=study.sample_ids, fold=0, manifest={"transductive": True})


def explain_runs(folders: Sequence[RunFolder], output: Path, settings: ExplainSettings) -> dict[str, Any]:
    """Explain finished runs on their test samples, or on another study.

    Returns:
        What manifest.json says.

    Raises:
        RunError: a run is not finished, or is of no network; a slide that no run tested or that has no tiles.
        GeneSetError: a file of gene sets or orthologs that cannot be read, or has no set of the study's genes.
        TargetError: a task that a run does not predict.
    """
    settings.gene_sets.check()
    _check_slides(folders, settings)
    recording = Recording(
        output,
        folders,
        nulls=settings.null_runs,
        viewer_px=settings.viewer_px,
        steps=settings.steps,
        seed=settings.seed,
    )
    clear(output)
    output.mkdir(parents=True, exist_ok=True)
    rankings: dict[str, dict[str, pd.DataFrame]] = {}
    audit, about = Audit(), []
    looks: list[cohort.Look] = []
    for folder in folders:
        study, split = _study_of(folder, settings)
        if settings.study is not None:
            encode_slides(folder, study)
        run = load_run(folder, study, split)
        tasks = chosen_tasks(run, settings.tasks)
        place = output / "runs" / folder.root.name
        shown = explain_regions(run, place / "regions", tasks, settings, audit)
        for task, table in explain_genes(run, place / "genes", tasks, settings).items():
            rankings.setdefault(task, {})[folder.root.name] = table
        explain_fusion(run, place / "fusion", tasks, shown)
        explain_clinical(run, place / "clinical", tasks, steps=settings.steps)
        recording.add(run, place, tasks, shown, audit)
        looks.append(cohort.look(run, tasks))
        if len(looks) == 1:
            cohort.explain_prototypes(run, output / "cohort", audit)
        about.append(
            {"run": folder.root.name, "fold": int(run.config["split"]["fold"]), "seed": run.config["seed"],
             "tasks": tasks, "slides": shown, "n_test": len(split.test)}
        )  # fmt: skip
    aggregated = _write_aggregates(rankings, output / "genes", settings.top_k)
    pathways.explain_pathways(
        aggregated, study, output / "pathways", settings.gene_sets,
        top_k=settings.top_k, seed=settings.seed, audit=audit,
    )  # fmt: skip
    cohort.explain_cohort(
        looks, output / "cohort", neighbours=settings.neighbours, seed=settings.seed, audit=audit
    )
    recording.write()
    manifest = {"layout": LAYOUT, "experiment": folders[0].read_config()["name"], "runs": about}
    Audit.write_new(output / "audit.json", audit)
    replace_file(output / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest


def clear(output: Path) -> None:
    """Remove what an earlier explanation left that may be of other runs, tasks or settings; of no other folder."""
    if not (output / "manifest.json").is_file():
        return
    for name in (REPORT, "genes", "pathways", "cohort"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in (INDEX, "agreement.csv", "nulls.csv"):
        (output / name).unlink(missing_ok=True)


def _check_slides(folders: Sequence[RunFolder], settings: ExplainSettings) -> None:
    """Refuse slides that no run tested, before any work."""
    wanted, tested = settings.named_slides or [], set[str]()
    for folder in folders if wanted else ():
        study, split = _study_of(folder, settings)
        tested |= {slide for sample in split.test for slide in study.slides_of(sample)}
    unknown = [slide for slide in wanted if slide not in tested]
    if unknown:
        raise RunError(
            f"slides: {unknown} belong to no test sample of {', '.join(f.root.name for f in folders)}; take slides of "
            f"their test samples, such as {sorted(tested)[:3]}"
        )


def explain_regions(
    run: LoadedRun, place: Path, tasks: Sequence[str], settings: ExplainSettings, audit: Audit
) -> list[str]:
    """Tile tables of all test slides, pictures and curves of some; returns the slides with pictures."""
    having = samples_with(run, run.fold.split.test, "slide")
    for sample in run.fold.split.test if run.config["modality"]["name"] != "omics" else ():
        if sample not in having:
            audit.drop(
                "explain", "sample", sample, f"{run.folder.root.name}: no slide tiles that the run reads"
            )
    if not having:
        return []
    place.mkdir(parents=True, exist_ok=True)
    scores = regions.tile_scores(run, having, tasks)
    likeness = _likeness(run, settings, audit)
    if likeness is not None:
        alike = likeness.scores(run, having)
        scores = pd.concat([scores, alike.filter(items=[f"likeness:{task}" for task in tasks])], axis=1)
        graded = [name for task in run.tasks if task.family in FAMILIES for name in task.names]
        for task in graded:
            if task in tasks and task not in likeness.weights:
                audit.drop(
                    "explain",
                    "likeness",
                    task,
                    f"{run.folder.root.name}: its training slides have labels of one kind alone",
                )
    scores.to_parquet(place / "tiles.parquet", index=False)
    if run.fold.store is not None and not run.fold.store.placed:
        audit.drop(
            "explain",
            "pictures",
            run.fold.store.root.name,
            f"{run.folder.root.name}: its features have no coordinates, so that there are no heatmaps; scores of all "
            "tiles are in regions/tiles.parquet",
        )
        return []
    chosen = _slides_to_draw(run, scores, settings, audit)
    drawn = _DrawnSlides()
    for slide_id in chosen:
        drawn.add(run, slide_id, scores, tasks, place / file_stem(slide_id), settings)
    if chosen:
        drawn.write(place)
    return chosen


def _likeness(run: LoadedRun, settings: ExplainSettings, audit: Audit) -> TileLikeness | None:
    """Of the training slides of a run that reads slides; None where they are not there or cannot be read."""
    try:
        own = run if settings.study is None else load_run(run.folder, *load_own_study(run.folder))
        return fit_likeness(own)
    except (RunError, StudyError, StoreError, ExpressionError) as error:
        audit.drop(
            "explain",
            "score",
            "likeness",
            f"{run.folder.root}: no likeness of tiles, as its training slides are not there: {error}",
        )
        return None


@dataclass
class _DrawnSlides:
    """What is kept of the slides with pictures: curves and areas, tiles, and how well the integrals hold."""

    curves: list[pd.DataFrame] = field(default_factory=list)
    areas: list[dict[str, Any]] = field(default_factory=list)
    checks: list[pd.DataFrame] = field(default_factory=list)
    extremes: list[pd.DataFrame] = field(default_factory=list)
    tiles: list[pd.DataFrame] = field(default_factory=list)

    def add(
        self,
        run: LoadedRun,
        slide_id: str,
        scores: pd.DataFrame,
        tasks: Sequence[str],
        folder: Path,
        settings: ExplainSettings,
    ) -> None:
        """Draw a slide for the tasks that say most of its animal."""
        slides = run.fold.study.slides
        sample = str(slides.at[slide_id, "sample_id"])
        drawn = _tasks_to_draw(run, sample, tasks)
        of_sample = scores[scores["sample_id"] == sample]
        of_sample, integrated = regions.add_integrated(run, of_sample, drawn, steps=settings.steps)
        self.checks.append(integrated)
        batch = run.batch([sample])
        of_slide = of_sample[of_sample["slide_id"] == slide_id]
        self.tiles.append(of_slide)
        regions.write_geojson(of_slide, folder / "tiles.geojson")
        override = float(slides["mpp_override"].loc[slide_id])
        path = run.fold.study.slide_path(slide_id)
        with open_slide(path, mpp_override=None if np.isnan(override) else override) as slide:
            for task in drawn:
                order = of_sample[f"integrated:{task}"].to_numpy()
                curve = deletion_insertion(run, batch, task, order, draws=settings.draws, seed=settings.seed)
                named = {"slide_id": slide_id, "sample_id": sample, "task": task}
                self.curves.append(curve.assign(**named))
                area = area_between(curve)
                self.areas.append({**named, **area})
                stem = folder / file_name(task)
                figures.deletion_insertion(
                    curve, area, stem.with_name(f"{stem.name}_deletion.png"), title=f"{slide_id}: {task}"
                )
                extreme = regions.extreme_tiles(of_slide, f"integrated:{task}", settings.tiles)
                self.extremes.append(_tiles(slide, extreme, task, stem))
                _views(slide, of_slide, task, _label(run, sample, slide_id), stem, settings)

    def write(self, place: Path) -> None:
        tables = {
            "extreme_tiles": self.extremes, "convergence": self.checks, "deletion_insertion": self.curves,
        }  # fmt: skip
        for name, parts in tables.items():
            pd.concat(parts, ignore_index=True).to_csv(place / f"{name}.csv", index=False)
        pd.DataFrame(self.areas).to_csv(place / "areas.csv", index=False)
        pd.concat(self.tiles, ignore_index=True).to_parquet(place / "drawn_tiles.parquet", index=False)


def _slides_to_draw(
    run: LoadedRun, scores: pd.DataFrame, settings: ExplainSettings, audit: Audit
) -> list[str]:
    """Slides asked for, or those of the samples with the highest grade of any finding, one a compound."""
    there = scores["slide_id"].unique().tolist()
    if settings.named_slides is not None:
        for slide in settings.named_slides:
            if slide not in there:
                audit.drop(
                    "explain",
                    "slide",
                    slide,
                    f"{run.folder.root.name}: no tiles, or no test slide of this run",
                )
        return [s for s in settings.named_slides if s in there]
    first = scores.drop_duplicates("sample_id")
    study = run.fold.study
    grade = study.findings.loc[first["sample_id"]].max(axis=1).fillna(-1.0).to_numpy()
    ordered = first.assign(grade=grade, compound=study.obs.loc[first["sample_id"], "compound"].to_numpy())
    ordered = ordered.sort_values("grade", ascending=False, kind="stable").drop_duplicates("compound")
    return ordered["slide_id"].head(settings.n_slides).tolist()


def _tasks_to_draw(run: LoadedRun, sample: str, tasks: Sequence[str]) -> list[str]:
    """Tasks of the findings that the animal has, the highest grade first; then severity, injury, DILI."""
    lesions = [LESION_PREFIX + term for term, grade in _grades(run, sample).items() if grade >= 1]
    wanted = [t for t in [*lesions, "severity", "injury", "dili", *tasks] if t in tasks]
    return list(dict.fromkeys(wanted))[:TASKS_DRAWN]


def _label(run: LoadedRun, sample: str, slide_id: str) -> str:
    grades = _grades(run, sample)
    findings = ", ".join(f"{term} {grade:.0f}" for term, grade in grades.items() if grade >= 1)
    return f"{slide_id}: {findings or ('no finding' if grades else 'not examined')}"


def _grades(run: LoadedRun, sample: str) -> dict[str, float]:
    """Finding -> grade where it was examined, the highest first."""
    grades = run.fold.study.findings.loc[[sample]].iloc[0].dropna()
    return {
        str(term): float(grade) for term, grade in grades.sort_values(ascending=False, kind="stable").items()
    }


def _tiles(slide: Slide, extreme: pd.DataFrame, task: str, stem: Path) -> pd.DataFrame:
    """Top and bottom tiles at the slide's own resolution, one PNG each and a sheet of all."""
    pixels, files = [], []
    for tile in extreme.to_dict("records"):
        side = max(1, round(tile["side"]))
        pixels.append(slide.read_region(int(tile["x"]), int(tile["y"]), side, side, slide.mpp))
        file = stem.parent / "tiles" / f"{stem.name}_{tile['end']}{tile['rank']}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[-1]).save(file)
        files.append(f"{stem.parent.name}/tiles/{file.name}")
    column = f"integrated:{task}"
    figures.tile_sheet(
        extreme,
        pixels,
        column,
        stem.with_name(f"{stem.name}_tiles.png"),
        title=f"{extreme['slide_id'].iloc[0]}: tiles that raise and lower {task}, integrated gradients",
    )
    places = extreme[["sample_id", "slide_id", "tile", "x", "y", "side", "mpp0"]]
    return places.assign(
        task=task, end=extreme["end"], rank=extreme["rank"], score=extreme[column], file=files
    )


def _views(
    slide: Slide, of_slide: pd.DataFrame, task: str, title: str, stem: Path, settings: ExplainSettings
) -> None:
    """The whole slide and parts of it under attention, contribution, integrated gradients and likeness."""
    columns = {
        "attention": "attention, the same for every task",
        f"contribution:{task}": f"{task}: gradient x difference to controls",
        f"integrated:{task}": f"{task}: integrated gradients",
    }
    if f"likeness:{task}" in of_slide:
        columns[f"likeness:{task}"] = f"{task}: likeness to training slides that have it"
    first = of_slide.iloc[int(of_slide[f"integrated:{task}"].to_numpy().argmax())]
    centre = (float(first["x"] + first["side"] / 2), float(first["y"] + first["side"] / 2))
    views = {"whole": figures.whole_slide(slide, settings.view_px)}
    for mpp in settings.views_mpp:
        if slide.mpp <= mpp < views["whole"].mpp:
            views[f"{mpp:g}um"] = figures.field_around(slide, centre, mpp, settings.view_px)
    for name, view in views.items():
        figures.slide_scores(view, of_slide, columns, stem.with_name(f"{stem.name}_{name}.png"), title=title)


def explain_genes(
    run: LoadedRun, place: Path, tasks: Sequence[str], settings: ExplainSettings
) -> dict[str, pd.DataFrame]:
    """Attributions, rankings and pathways of treated test samples; returns the ranking of each task."""
    treated = [s for s in run.fold.split.test if not run.fold.study.obs.at[s, "is_control"]]
    having = samples_with(run, treated, "expression")
    transform = run.fold.expression
    if not having or transform is None:
        return {}
    place.mkdir(parents=True, exist_ok=True)
    attention = genes.pathway_attention(run, having)
    if attention.shape[1]:
        attention.to_csv(place / "pathway_attention.csv")
    read = genes.gene_attention(run, run.batch(having))
    rankings, checks = {}, []
    for task in tasks:
        attributed = genes.attribute_genes(run, having, task, steps=settings.steps)
        attributed.integrated.to_parquet(place / f"{file_name(task)}.parquet")
        table = genes.ranking(attributed, transform.symbols)
        if read is not None:
            table["attention"] = table["gene_id"].map(
                dict(zip(transform.gene_ids, read.mean(0), strict=True))
            )
        rankings[task] = table
        checks.append(attributed.checks.assign(task=task))
        if attention.shape[1]:
            pathways = genes.pathway_table(run, attributed, attention)
            pathways.to_csv(place / f"{file_name(task)}_pathways.csv", index=False)
    pd.concat([t.assign(task=task) for task, t in rankings.items()]).to_csv(
        place / "ranking.csv", index=False
    )
    pd.concat(checks).to_csv(place / "convergence.csv", index=False)
    return rankings


def explain_fusion(run: LoadedRun, place: Path, tasks: Sequence[str], slides: Sequence[str]) -> None:
    """Gates, token attention and predictions without a modality, of the test samples; tiles of the drawn slides."""
    usable = run.fold.usable(run.fold.split.test)
    if run.config["modality"]["name"] != "both" or not usable:
        return
    place.mkdir(parents=True, exist_ok=True)
    batch = run.batch(usable)
    samples = fusion.gates(run, batch)
    samples.to_csv(place / "gates.csv", index=False)
    fusion.gates_by(samples).to_csv(place / "gates_by.csv", index=False)
    if (samples["has_slide"] & samples["has_expression"]).any():
        figures.gates(samples, place / "gates.png", title=f"{run.config['name']}: gate of the test samples")
    fusion.without_each(run, batch, tasks).to_csv(place / "without.csv", index=False)
    fusion.token_attention(run, batch).to_csv(place / "token_attention.csv", index=False)
    owners = list(dict.fromkeys(str(run.fold.study.slides.at[s, "sample_id"]) for s in slides))
    fusion.expression_on_tiles(run, owners).to_parquet(place / "expression_on_tiles.parquet", index=False)


def _write_aggregates(
    rankings: dict[str, dict[str, pd.DataFrame]], place: Path, top_k: int
) -> dict[str, pd.DataFrame]:
    """Mean ranks over runs and their stability, one table each for all tasks; returns the ranking of each task."""
    if not rankings:
        return {}
    place.mkdir(parents=True, exist_ok=True)
    tables, stability = {}, []
    for task, by_run in rankings.items():
        tables[task], leading = genes.aggregate(by_run, top_k)
        stability.append({"task": task, **leading})
    pd.concat([t.assign(task=task) for task, t in tables.items()], ignore_index=True).to_csv(
        place / "ranking.csv", index=False
    )
    pd.DataFrame(stability).to_csv(place / "stability.csv", index=False)
    return tables
