"""What a run made of a study whose truth is known: a lesion, a programme, what each modality moves, the embedding.

Reads ``truth/``, after training. Which slide and which programme are drawn is a rule and no choice: the slide whose
localisation is the median over all slides that could be drawn, and the programme with the most test animals.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch

from toxfusion.evaluation.figures.canvas import (
    BLUE,
    CYCLE,
    GREY,
    MARKERS,
    RED,
    STYLE,
    new_figure,
    save_figure,
)
from toxfusion.evaluation.figures.embeddings import project
from toxfusion.evaluation.figures.slides import scale_bar
from toxfusion.explanation import fusion, truth
from toxfusion.explanation.attribution import samples_with
from toxfusion.explanation.figures import PANEL, draw_scores, whole_slide
from toxfusion.explanation.genes import attribute_genes, ranking
from toxfusion.explanation.likeness import fit_likeness
from toxfusion.explanation.regions import add_integrated, tile_scores
from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.slides.readers import open_slide
from toxfusion.study.vocabulary import LESION_PREFIX, short_name
from toxfusion.synthetic.axes import AXES
from toxfusion.synthetic.slide_spec import MASK_MPP, PHENOTYPES
from toxfusion.training.folder import RunFolder

VISIBLE_FROM, VISIBLE_TO = 0.05, 0.6
"""A slide is measured where the mask marks between these shares of its tiles."""
SLIDES_A_LESION = 4
LEAST_GATE_RANGE = 0.05
"""A gate whose values over animals lie closer together than this weighs them all alike."""
STEPS = 32
TOP_GENES = 20
VIEW_PX = 900


@dataclass(frozen=True)
class FoundLesion:
    """The slide that is drawn, and what was measured over all that could be.

    Attributes:
        slide, compound, finding: that are drawn.
        auroc, alike_auroc: of its tiles, lesion against none, by integrated gradients and by likeness.
        n_slides: measured; mean_auroc, mean_alike_auroc: over all of them.
        by_finding: task, slides, and means over them of auroc, average_precision, alike_auroc, alike_average_precision
            and prevalence; one row a finding.
    """

    slide: str
    compound: str
    finding: str
    auroc: float
    alike_auroc: float
    n_slides: int
    mean_auroc: float
    mean_alike_auroc: float
    by_finding: pd.DataFrame


@dataclass(frozen=True)
class FoundProgramme:
    """Genes at the head of a ranking beside the planted programme.

    Attributes:
        axis: in words. task: that was explained. n_animals: explained. top: genes looked at.
        hits: of them, genes of the programme. expected: as many by chance. average_precision, prevalence: of all genes.
    """

    axis: str
    task: str
    n_animals: int
    top: int
    hits: int
    expected: float
    average_precision: float
    prevalence: float


@dataclass(frozen=True)
class Listened:
    """What each modality moves.

    Attributes:
        by: indexed by where lesions are seen (slide, both, expression, neither): n animals; slide and expression, how
            much the expected grade moves when that modality is taken away, mean of absolute changes.
        least_gate, largest_gate: the slide's share in what is fused, over animals.
    """

    by: pd.DataFrame
    least_gate: float
    largest_gate: float

    @property
    def gate_is_still(self) -> bool:
        """Whether hardly anything in the gate tells one animal from another."""
        return self.largest_gate - self.least_gate < LEAST_GATE_RANGE


def load(folder: RunFolder) -> LoadedRun:
    """A finished run on its own study and split."""
    return load_run(folder, *load_own_study(folder))


def find_lesion(run: LoadedRun, path: Path) -> FoundLesion:
    """Measure on test slides whether tiles of planted lesions are found, and draw the slide of the median.

    Of each finding that the run predicts, up to `SLIDES_A_LESION` slides in the order of their ids, of animals in which
    the lesion is severe, with a mask that marks from `VISIBLE_FROM` to `VISIBLE_TO` of the tiles.

    Args:
        path: of the picture: H&E, the planted lesion, integrated gradients of the finding, and likeness to it.

    Raises:
        TruthError: no test slide shows a lesion that the run predicts, or the study is not virtual.
    """
    study, test = run.fold.study, samples_with(run, run.fold.split.test, "slide")
    likeness = fit_likeness(run)
    measured: list[dict[str, Any]] = []
    tiles: dict[tuple[str, str], pd.DataFrame] = {}
    for axis, phenotypes in truth.axis_phenotypes().items():
        task = truth.task_of_axis(axis, run.tasks.names)
        if not task.startswith(LESION_PREFIX) or any(task == m["task"] for m in measured):
            continue
        for sample in sorted(truth.severe_samples(study, axis, test)):
            scores = tile_scores(run, [sample], [task])
            marked = truth.lesion_shares(study, scores)[phenotypes[0]].to_numpy() >= truth.LEAST_SHARE
            if not VISIBLE_FROM <= marked.mean() <= VISIBLE_TO or scores["slide_id"].nunique() > 1:
                continue
            scores, _ = add_integrated(run, scores, [task], steps=STEPS)
            # Of a finding that all training slides have, or none, likeness says nothing: 0 everywhere.
            alike_scores = likeness.scores(run, [sample]).reindex(
                columns=[f"likeness:{task}"], fill_value=0.0
            )
            scores = pd.concat([scores, alike_scores], axis=1)
            slide = str(scores["slide_id"].iloc[0])
            score = truth.localisation(scores[f"integrated:{task}"].to_numpy(), marked)
            alike = truth.localisation(scores[f"likeness:{task}"].to_numpy(), marked)
            score |= {f"alike_{name}": alike[name] for name in ("auroc", "average_precision")}
            tiles[slide, task] = scores
            measured.append(
                {"task": task, "phenotype": phenotypes[0], "slide": slide, "sample": sample, **score}
            )
            if sum(m["task"] == task for m in measured) == SLIDES_A_LESION:
                break
    if not measured:
        raise truth.TruthError(f"{run.folder.root}: no test slide shows a lesion that the run predicts")
    table = pd.DataFrame(measured)
    middle = table.sort_values("auroc", kind="stable").iloc[(len(table) - 1) // 2]
    slide, task = str(middle["slide"]), str(middle["task"])
    _draw_lesion(run, slide, str(middle["phenotype"]), task, tiles[slide, task], path)
    columns = ["auroc", "average_precision", "alike_auroc", "alike_average_precision", "prevalence"]
    by = table.groupby("task", sort=False)[columns].mean()
    by.insert(0, "slides", table.groupby("task", sort=False).size())
    return FoundLesion(
        slide=slide,
        compound=str(study.obs.at[middle["sample"], "compound"]),
        finding=short_name(task),
        auroc=float(middle["auroc"]),
        alike_auroc=float(middle["alike_auroc"]),
        n_slides=len(table),
        mean_auroc=float(table["auroc"].mean()),
        mean_alike_auroc=float(table["alike_auroc"].mean()),
        by_finding=by.reset_index().assign(task=lambda t: t["task"].map(short_name)),
    )


def _draw_lesion(
    run: LoadedRun, slide_id: str, phenotype: str, task: str, tiles: pd.DataFrame, path: Path
) -> None:
    study = run.fold.study
    with open_slide(study.slide_path(slide_id)) as slide:
        view = whole_slide(slide, VIEW_PX)
    bit = PHENOTYPES.index(phenotype)
    marked = (truth.lesion_mask(study, slide_id) >> bit & 1).astype(np.float64)
    extent = (0.0, marked.shape[1] * MASK_MPP / view.mpp, marked.shape[0] * MASK_MPP / view.mpp, 0.0)
    height, width = view.pixels.shape[:2]
    with mpl.rc_context(STYLE):
        figure = new_figure(4 * PANEL, 0.5 + 0.85 * PANEL * height / width)
        axes = figure.subplots(1, 4)
        axes[0].imshow(view.pixels)
        axes[0].set_title(f"H&E, {slide_id}", fontsize="small")
        axes[1].imshow(view.pixels)
        overlay = np.zeros((*marked.shape, 4))
        overlay[marked > 0] = (*to_rgb(RED), 0.6)
        axes[1].imshow(overlay, extent=extent, interpolation="nearest")
        axes[1].set_title(f"planted: {phenotype.replace('_', ' ')}", fontsize="small")
        draw_scores(axes[2], view, tiles, f"integrated:{task}", f"what raised the risk of {short_name(task)}")
        draw_scores(axes[3], view, tiles, f"likeness:{task}", f"looks like slides with {short_name(task)}")
        for axis in axes:
            axis.set_xlim(0, width)
            axis.set_ylim(height, 0)
            scale_bar(axis, width, height, view.mpp)
            axis.set_axis_off()
        save_figure(figure, path)


def find_programme(run: LoadedRun, path: Path) -> FoundProgramme:
    """Rank genes by what they add to the finding of the axis with the most active test animals, and draw the first.

    Args:
        path: of the picture: the first `TOP_GENES` genes, those of the planted programme in colour.

    Raises:
        TruthError: no programme is active in a test animal, or the study is not virtual.
    """
    study, test = run.fold.study, samples_with(run, run.fold.split.test, "expression")
    assert run.fold.expression is not None, "samples have expression where the fold has a transform"
    active = {axis.name: truth.active_samples(study, axis.name, test) for axis in AXES if axis.programme}
    name = max(active, key=lambda axis: len(active[axis]))
    if not active[name]:
        raise truth.TruthError(f"{run.folder.root}: no programme is active in a test animal")
    axis, task = next(a for a in AXES if a.name == name), truth.task_of_axis(name, run.tasks.names)
    attributed = attribute_genes(run, active[name], task, steps=STEPS)
    symbols = run.fold.expression.symbols
    genes = ranking(attributed, symbols)
    planted = truth.programme(study, name)
    score = truth.recovery(genes["integrated"].abs().to_numpy(), genes["symbol"].tolist(), planted)
    head = genes.head(TOP_GENES)
    belongs = head["symbol"].isin(planted).to_numpy()
    with mpl.rc_context(STYLE):
        figure = new_figure(7, 0.9 + 0.24 * len(head))
        bars = figure.subplots()
        bars.barh(np.arange(len(head)), head["integrated"], color=np.where(belongs, BLUE, GREY))
        bars.set_yticks(np.arange(len(head)), head["symbol"], fontsize="small")
        bars.invert_yaxis()
        bars.axvline(0, color="black", linewidth=0.8)
        bars.set_xlabel(f"mean integrated gradient of {short_name(task)}, {len(active[name])} animals")
        patches = [Patch(color=BLUE, label=f"planted: {axis.title}"), Patch(color=GREY, label="other genes")]
        figure.legend(handles=patches, fontsize="small", loc="outside upper left", ncols=2)
        save_figure(figure, path)
    return FoundProgramme(
        axis=axis.title,
        task=short_name(task),
        n_animals=len(active[name]),
        top=len(head),
        hits=int(belongs.sum()),
        expected=len(head) * score["prevalence"],
        average_precision=score["average_precision"],
        prevalence=score["prevalence"],
    )


@torch.no_grad()
def listened_to(run: LoadedRun, path: Path) -> Listened:
    """What treated test animals with both modalities are judged by, by where their lesions can be seen.

    Args:
        path: of the picture: how far the expected grade of each animal moves without either modality.
    """
    test = [s for s in run.fold.split.test if run.fold.has_slide(s) and run.fold.has_expression(s)]
    batch = run.batch(test)
    animals = fusion.gates(run, batch).set_index("sample_id")
    animals["seen"] = truth.seen_in(run.fold.study, test).reindex(animals.index)
    number = fusion.without_each(run, batch, ["severity"]).set_index("sample_id")
    for modality in ("slide", "expression"):
        animals[modality] = (number["value"] - number[f"without_{modality}"]).abs()
    animals = animals.dropna(subset="seen")
    order = [name for name in ("slide", "both", "expression", "neither") if (animals["seen"] == name).any()]
    _draw_listened(animals, order, path)
    by = animals.groupby("seen")
    means = by[["slide", "expression"]].mean()
    means.insert(0, "n", by.size())
    gate = animals["gate_slide"]
    return Listened(means.reindex(order), float(gate.min()), float(gate.max()))


def _draw_listened(animals: pd.DataFrame, order: list[str], path: Path) -> None:
    """One point an animal and modality taken away, beside its mean, by where the animal's lesions can be seen."""
    with mpl.rc_context(STYLE):
        figure = new_figure(6.5, 3.6)
        axis = figure.subplots()
        for shift, modality, colour in ((-0.2, "slide", BLUE), (0.2, "expression", RED)):
            for i, name in enumerate(order):
                moved = np.sort(animals.loc[animals["seen"] == name, modality].to_numpy())
                spread = np.linspace(-0.15, 0.15, len(moved)) if len(moved) > 1 else np.zeros(len(moved))
                axis.scatter(i + shift + spread, moved, s=8, color=colour, edgecolor="none")
                axis.plot([i + shift - 0.17, i + shift + 0.17], [moved.mean()] * 2, color="black")
        axis.set_xticks(range(len(order)), order)
        axis.set_xlabel("lesions and programmes of the animal are seen in")
        axis.set_ylabel("change of the expected grade")
        axis.set_ylim(bottom=0)
        patches = [Patch(color=BLUE, label="without the slide"), Patch(color=RED, label="without expression")]
        figure.legend(handles=patches, fontsize="small", loc="outside upper left", ncols=2)
        save_figure(figure, path)


def draw_mechanisms(folder: RunFolder, path: Path) -> None:
    """Two principal components of fused vectors of test animals at the middle and high dose, by mechanism."""
    table = anndata.read_h5ad(folder.embeddings)
    treated = (table.obs["part"] == "test") & (table.obs["dose_level"].astype(str).isin(("middle", "high")))
    table = table[treated.to_numpy()]
    points, names = project(np.asarray(table.X, np.float64), "pca", seed=0)
    mechanism = table.obs["mechanism"].astype(str).to_numpy()
    titles = {axis.name: axis.title for axis in AXES}
    with mpl.rc_context(STYLE):
        figure = new_figure(8.5, 4.6)
        axis = figure.subplots()
        for i, name in enumerate(sorted(set(mechanism), key=lambda n: (n == "none", len(n), n))):
            shown = mechanism == name
            colour = GREY if name == "none" else CYCLE[i % len(CYCLE)]
            label = "no mechanism" if name == "none" else titles[name]
            axis.scatter(
                points[shown, 0],
                points[shown, 1],
                s=26,
                color=colour,
                marker=MARKERS[i % len(MARKERS)],
                label=label,
            )
        axis.set_xlabel(names[0])
        axis.set_ylabel(names[1])
        axis.set_xticks([])
        axis.set_yticks([])
        axis.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
        save_figure(figure, path)
