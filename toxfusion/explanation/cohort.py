"""Views of a whole cohort: a map of fused vectors, predicted risk over dose, nearest compounds, prototypes of style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from toxfusion.evaluation.figures import umap_points
from toxfusion.explanation import cohort_figures
from toxfusion.explanation.regions import spread_out, tile_places
from toxfusion.models.modes import as_array, place_of, placed
from toxfusion.models.network import Network
from toxfusion.objectives.style import StyleBranch
from toxfusion.runs.loaded import LoadedRun
from toxfusion.runs.probes import network_of
from toxfusion.slides.faults import SlideError
from toxfusion.slides.readers import open_slide
from toxfusion.study.audit import Audit
from toxfusion.training.checkpoint import read_checkpoint

STAGE = "explain"
STYLE_BRANCH = "terms.style_branch."
"""Where the weights of the style branch lie in a checkpoint of pretraining."""
LEAST_SAMPLES = 10
"""Fewer samples make no map."""
MAP_NEIGHBOURS = 15
COLOURED_BY = ("compound", "dose", "time", "finding", "batch")
PROTOTYPES_DRAWN, SAMPLES_EACH, TILES_EACH = 6, 3, 2
"""Prototypes in the picture, samples nearest to each, and top tiles of each sample."""


@dataclass(frozen=True)
class Look:
    """What one run says of every sample that it can read.

    Attributes:
        run: name of its folder.
        obs: rows of the study with part, finding and grade; index sample_id.
        vectors: float32 [n, W], fused.
        risk: float64 [n, tasks]: probability of two-class tasks, expected grade of severity, standardised value of an
            analyte; other tasks are left out. Index sample_id.
    """

    run: str
    obs: pd.DataFrame
    vectors: np.ndarray
    risk: pd.DataFrame

    def standardised(self) -> np.ndarray:
        """float64 [n, W], by mean and deviation of training samples; of all samples where none is of training."""
        train = (self.obs["part"] == "train").to_numpy()
        fitted = self.vectors[train] if train.sum() > 1 else self.vectors
        scale = fitted.std(0, dtype=np.float64)
        return (self.vectors - fitted.mean(0, dtype=np.float64)) / np.where(scale > 1e-6, scale, 1.0)


def look(run: LoadedRun, tasks: Sequence[str]) -> Look:
    """Encode every sample of the run's split, training samples included."""
    part = run.fold.split.part_of()
    samples = run.fold.usable([s for s in run.fold.sample_ids if s in part])
    outputs = run.embed(samples)
    with torch.no_grad():
        values = run.targets(placed(outputs.read, run.predictor))
    risk = {}
    for task in (t for t in run.tasks if t.family in ("binary", "ordinal", "value")):
        for name in (n for n in task.names if n in tasks):
            value = values[name].double()
            risk[name] = as_array(value.sigmoid() if task.family == "binary" else value)
    study = run.fold.study
    finding, grade = leading_findings(study.findings.loc[samples])
    obs = study.obs.loc[samples].assign(part=[part[s] for s in samples], finding=finding, grade=grade)
    return Look(
        run.folder.root.name,
        obs,
        outputs.fused,
        pd.DataFrame(risk, index=pd.Index(samples, name="sample_id")),
    )


def leading_findings(findings: pd.DataFrame) -> tuple[list[str], list[float]]:
    """The finding of the highest grade of each animal, with the grade; "none" or "not examined" else."""
    names, grades = [], []
    for animal in findings.to_numpy(np.float64):
        known = np.isfinite(animal)
        best = int(np.where(known, animal, -1).argmax()) if known.any() else -1
        grade = float(animal[best]) if best >= 0 else float("nan")
        names.append("not examined" if best < 0 else str(findings.columns[best]) if grade >= 1 else "none")
        grades.append(grade)
    return names, grades


def explain_cohort(looks: Sequence[Look], place: Path, *, neighbours: int, seed: int, audit: Audit) -> None:
    """Map, dose-response curves and nearest compounds; what the runs do not have goes to the audit.

    Args:
        looks: of `look`, one a run.
        neighbours: compounds listed for each compound.
    """
    place.mkdir(parents=True, exist_ok=True)
    _write_map(looks, place, seed, audit)
    if not has_doses(looks[0].obs):
        for view in ("dose_response", "nearest_compounds"):
            audit.drop(STAGE, "view", view, "the study has no treated samples with doses of a compound")
        return
    curves = dose_response(looks)
    if curves.empty:
        audit.drop(
            STAGE, "view", "dose_response", "no task whose risk can be drawn, or no test sample with a dose"
        )
    else:
        _write_curves(curves, looks, place, audit)
    nearest = nearest_compounds(looks, neighbours)
    if nearest.empty:
        audit.drop(
            STAGE, "view", "nearest_compounds", "fewer than two compounds with treated samples in a run"
        )
    else:
        nearest.to_csv(place / "nearest_compounds.csv", index=False)


def has_doses(obs: pd.DataFrame) -> bool:
    """Whether some treated sample has a dose or a dose level."""
    treated = obs[~obs["is_control"].astype(bool)]
    return bool((treated["dose"].notna() | (treated["dose_level"].astype(str) != "")).any())


def embedding(shown: Look, seed: int) -> pd.DataFrame:
    """UMAP (McInnes et al., 2018) of the fused vectors of one run, standardised; Euclidean, on one thread.

    Returns:
        run, sample_id, part, x, y, compound, dose_level, dose, time_h, finding, grade, batch, study, is_control, dili.
    """
    values = shown.standardised()
    places = umap_points(values, seed, min(MAP_NEIGHBOURS, len(values) - 1))
    kept = [
        "compound",
        "dose_level",
        "dose",
        "time_h",
        "finding",
        "grade",
        "batch",
        "study",
        "is_control",
        "dili",
    ]
    table = shown.obs[kept].rename_axis("sample_id").reset_index()
    table.insert(0, "run", shown.run)
    table.insert(2, "part", shown.obs["part"].to_numpy())
    table.insert(3, "x", places[:, 0])
    table.insert(4, "y", places[:, 1])
    return table


def _write_map(looks: Sequence[Look], place: Path, seed: int, audit: Audit) -> None:
    """The map of the first run, coloured by what is known of its samples."""
    shown = looks[0]
    if len(shown.obs) < LEAST_SAMPLES:
        reason = f"{len(shown.obs)} samples; a map needs {LEAST_SAMPLES}"
        audit.drop(STAGE, "view", "embedding", reason)
        return
    for other in looks[1:]:
        reason = f"the map is of {shown.run}: vectors of different networks are not one space"
        audit.drop(STAGE, "embedding", other.run, reason)
    table = embedding(shown, seed)
    table.to_csv(place / "embedding.csv", index=False)
    far = furthest_compounds(shown)
    for by in COLOURED_BY:
        reason = cohort_figures.nothing_to_colour(table, by)
        if reason:
            audit.drop(STAGE, "view", f"embedding_{by}", reason)
            continue
        cohort_figures.embedding(table, by, far, place / f"embedding_{by}.png", title=shown.run)


def furthest_compounds(shown: Look) -> list[str]:
    """Compounds by the distance of their treated samples' mean from that of all vehicle controls, the furthest first.

    Those that the run tested come before the others. The mean is that of all samples where there is no control.
    """
    values = shown.standardised()
    control = shown.obs["is_control"].to_numpy(bool)
    origin = values[control].mean(0) if control.any() else values.mean(0)
    means, names = _compound_means(shown, values)
    tested = set(shown.obs.loc[shown.obs["part"] == "test", "compound"].astype(str))
    order = np.lexsort([-np.linalg.norm(means - origin, axis=1), [name not in tested for name in names]])
    return [names[i] for i in order]


def _compound_means(shown: Look, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Mean over the treated samples of each compound, [C, W], and its name."""
    treated = ~shown.obs["is_control"].to_numpy(bool)
    frame = (
        pd.DataFrame(values[treated]).groupby(shown.obs["compound"].astype(str).to_numpy()[treated]).mean()
    )
    return frame.to_numpy(), [str(name) for name in frame.index]


def dose_response(looks: Sequence[Look]) -> pd.DataFrame:
    """Predicted risk of test samples by compound, task, time and dose, vehicle controls included.

    A sample counts in the runs that tested it, so that every number is out of fold.

    Returns:
        compound, task, time_h, dose_level, dose, n_animals, n_runs, mean (over runs of their mean over animals), sd (of
        the runs' means; NaN for one run), low and high (the smallest and largest of these means), animal_low and
        animal_high (of the animals' means over runs).
    """
    parts = []
    keys = ["compound", "time_h", "dose_level", "dose"]
    for each in looks:
        tested = each.obs["part"] == "test"
        risk = each.risk[tested.to_numpy()].join(each.obs.loc[tested, keys])
        parts.append(
            risk.rename_axis("sample_id")
            .reset_index()
            .melt([*keys, "sample_id"], var_name="task", value_name="risk")
            .assign(run=each.run)
        )
    table = pd.concat(parts, ignore_index=True)
    known = table[table["dose"].notna() | (table["dose_level"].astype(str) != "")]
    keys = ["compound", "task", "time_h", "dose_level", "dose"]
    by_run = known.groupby([*keys, "run"], dropna=False)["risk"].mean().groupby(keys, dropna=False)
    summary = by_run.agg(n_runs="size", mean="mean", sd="std", low="min", high="max")
    by_animal = known.groupby([*keys, "sample_id"], dropna=False)["risk"].mean().groupby(keys, dropna=False)
    animals = by_animal.agg(n_animals="size", animal_low="min", animal_high="max")
    columns = [*keys, "n_animals", "n_runs", "mean", "sd", "low", "high", "animal_low", "animal_high"]
    return summary.join(animals).reset_index()[columns]


def _write_curves(curves: pd.DataFrame, looks: Sequence[Look], place: Path, audit: Audit) -> None:
    curves.to_csv(place / "dose_response.csv", index=False)
    folder = place / "dose_response"
    files: list[dict[str, str]] = []
    treated = pd.concat([each.obs for each in looks])
    treated = treated[~treated["is_control"].astype(bool)]
    dili = treated.groupby(treated["compound"].astype(str))["dili"].first()
    for compound, curve in curves.groupby("compound", sort=True):
        if len(curve.drop_duplicates(["dose_level", "dose"])) < 2:
            audit.drop(STAGE, "dose_response", str(compound), "one dose of it was tested: there is no curve")
            continue
        file = f"{len(files)}.png"
        known = {1.0: "DILI", 0.0: "no DILI"}.get(dili.get(str(compound), np.nan), "DILI not known")
        cohort_figures.dose_response(curve, folder / file, title=f"{compound} ({known})")
        files.append({"compound": str(compound), "file": file})
    if files:
        pd.DataFrame(files).to_csv(folder / "index.csv", index=False)


def nearest_compounds(looks: Sequence[Look], n: int) -> pd.DataFrame:
    """Compounds whose treated samples look most like those of each tested compound, for read-across.

    Vectors of different networks are not one space. So each run ranks all its other compounds (of its test, validation
    and training part) by the cosine of mean vectors, standardised by its training samples, for the compounds that it
    tested; ranks are then averaged over these runs.

    Args:
        n: neighbours of each compound.

    Returns:
        compound, neighbour, rank (from 1, by mean_rank), similarity (mean cosine over runs), dili_known (label of the
        neighbour; NaN where none), mean_rank, n_runs. Empty where a run has fewer than two compounds.
    """
    parts, dili = [], dict[str, float]()
    for each in looks:
        means, names = _compound_means(each, each.standardised())
        if len(names) < 2:
            continue
        unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        cosine = unit @ unit.T
        of_part = each.obs["compound"].astype(str).to_numpy()
        treated = ~each.obs["is_control"].to_numpy(bool)
        tested = set(of_part[treated & (each.obs["part"] == "test").to_numpy()])
        labels = each.obs.loc[treated].groupby(of_part[treated])["dili"].first()
        dili |= {str(c): float(v) for c, v in labels.items()}
        for i, name in enumerate(names):
            if name not in tested:
                continue
            others = np.array([j for j in range(len(names)) if j != i])
            order = others[np.argsort(-cosine[i, others], kind="stable")]
            parts.append(
                pd.DataFrame(
                    {
                        "compound": name,
                        "neighbour": [names[j] for j in order],
                        "place": np.arange(1, len(order) + 1),
                        "cosine": cosine[i, order],
                    }
                )
            )
    columns = ["compound", "neighbour", "rank", "similarity", "dili_known", "mean_rank", "n_runs"]
    if not parts:
        return pd.DataFrame(columns=columns)
    nearest = (
        pd.concat(parts)
        .groupby(["compound", "neighbour"], sort=False)
        .agg(mean_rank=("place", "mean"), similarity=("cosine", "mean"), n_runs=("place", "size"))
        .reset_index()
        .sort_values(["compound", "mean_rank", "similarity"], ascending=[True, True, False], kind="stable")
    )
    nearest["rank"] = nearest.groupby("compound").cumcount() + 1
    nearest["dili_known"] = nearest["neighbour"].map(dili)
    return nearest.loc[nearest["rank"] <= n, columns].reset_index(drop=True)


def style_branch(run: LoadedRun) -> StyleBranch | None:
    """The style branch of the run's pretraining with its best weights; None where it has none, or no prototypes."""
    pretrain = run.config["pretrain"]
    if (
        not pretrain["steps"]
        or not pretrain["weights"].get("cluster")
        or run.config["modality"]["name"] != "both"
    ):
        return None
    branch = StyleBranch(
        int(run.config["size"]["width"]),
        latent=int(pretrain["style_latent"]),
        n_prototypes=int(pretrain["prototypes"]),
    )
    state = read_checkpoint(run.folder.stage("pretrain") / "best.ckpt")["state_dict"]
    own = {k.removeprefix(STYLE_BRANCH): v for k, v in state.items() if k.startswith(STYLE_BRANCH)}
    branch.load_state_dict(own)
    return branch.eval().to(run.predictor.device)


def explain_prototypes(run: LoadedRun, place: Path, audit: Audit) -> None:
    """Slides nearest to prototypes of the style branch, with their top tiles; a table and a picture."""
    branch = style_branch(run)
    if branch is None:
        reason = f"{run.folder.root.name}: its pretraining has no style branch with prototypes"
        audit.drop(STAGE, "view", "prototypes", reason)
        return
    part = run.fold.split.part_of()
    samples = [s for s in run.fold.sample_ids if s in part and run.fold.has_slide(s)]
    if not samples:
        audit.drop(STAGE, "view", "prototypes", f"{run.folder.root.name}: no slide tiles that the run reads")
        return
    table = prototypes(run, branch, samples)
    table["part"] = table["sample_id"].map(part)
    place.mkdir(parents=True, exist_ok=True)
    table.to_csv(place / "prototypes.csv", index=False)
    drawn = table[table["prototype"].isin(table["prototype"].drop_duplicates().head(PROTOTYPES_DRAWN))]
    try:
        pixels = [tile_pixels(run, tile) for tile in drawn.to_dict("records")]
    except (SlideError, OSError) as error:  # features may be at hand where slides are not
        audit.drop(STAGE, "picture", "prototypes.png", str(error))
        return
    cohort_figures.prototypes(drawn, pixels, place / "prototypes.png", title=run.folder.root.name)


def prototypes(run: LoadedRun, branch: StyleBranch, samples: Sequence[str]) -> pd.DataFrame:
    """The prototypes that some slide is nearest to, by falling number of such slides; training samples included.

    Where these are fewer than ``PROTOTYPES_DRAWN``, those follow whose cosine differs most between slides. The network
    is that before fine-tuning, which the branch belongs to. A tile's contribution is the gradient of the cosine by its
    features times their difference to the mean tile of matched controls, as for tasks.

    Returns:
        run, prototype, n_nearest (samples nearest to it), rank (of the sample, from 1), sample_id, slide_id, compound,
        dose_level, time_h, finding, similarity (cosine), tile_rank, tile, x, y, side (level-0 px), contribution; one
        row a tile.
    """
    network = network_of(run, "pretrained").eval()
    scores = []
    with torch.no_grad():
        for batch in run.data_module().loader(samples):
            placed = batch.to(*place_of(network))
            seen = network.see_slide(placed.tiles, placed.path_membership)
            assert seen is not None, "a network with a style branch has a slide branch"
            scores.append(branch(seen.encoding.vector).scores.float().cpu().numpy())
    cosine = np.concatenate(scores)
    nearest = np.bincount(cosine.argmax(1), minlength=cosine.shape[1])
    order = np.lexsort([-cosine.std(0), -nearest])
    study = run.fold.study
    parts = []
    for k in order[: max(PROTOTYPES_DRAWN, int((nearest > 0).sum()))]:
        column = cosine[:, k]
        for rank, i in enumerate(np.argsort(-column, kind="stable")[:SAMPLES_EACH], start=1):
            tiles = _prototype_tiles(run, network, branch, samples[i], int(k))
            obs = study.obs.loc[samples[i]]
            tiles.insert(0, "run", run.folder.root.name)
            parts.append(
                tiles.assign(
                    prototype=k,
                    n_nearest=nearest[k],
                    rank=rank,
                    compound=obs["compound"],
                    dose_level=obs["dose_level"],
                    time_h=obs["time_h"],
                    finding=leading_findings(study.findings.loc[[samples[i]]])[0][0],
                    similarity=float(column[i]),
                )
            )
    columns = [
        "run",
        "prototype",
        "n_nearest",
        "rank",
        "sample_id",
        "slide_id",
        "compound",
        "dose_level",
        "time_h",
    ]
    columns += ["finding", "similarity", "tile_rank", "tile", "x", "y", "side", "contribution"]
    return pd.concat(parts, ignore_index=True)[columns]


def _prototype_tiles(
    run: LoadedRun, network: Network, branch: StyleBranch, sample: str, prototype: int
) -> pd.DataFrame:
    """Tiles of a sample that add most to its cosine with a prototype, two tile sides apart."""
    batch = run.batch([sample])
    features = batch.tiles.features.clone().requires_grad_()
    seen = network.see_slide(batch.tiles.with_features(features), batch.path_membership)
    assert seen is not None, "a network with a style branch has a slide branch"
    (gradient,) = torch.autograd.grad(branch(seen.encoding.vector).scores[0, prototype], features)
    difference = batch.tiles.features - torch.from_numpy(run.fold.control_tiles([sample])).to(features)
    table = tile_places(run, [sample]).assign(
        contribution=(gradient * difference).sum(1).float().cpu().numpy()
    )
    score, corners = table["contribution"].to_numpy(), table[["x", "y"]].to_numpy()
    top = spread_out(score, corners, TILES_EACH, 2 * float(table["side"].iloc[0]))
    return table.iloc[top].assign(tile_rank=np.arange(1, len(top) + 1))


def tile_pixels(run: LoadedRun, tile: dict) -> np.ndarray:
    """uint8 [p, p, 3]: a tile at the slide's own resolution."""
    study = run.fold.study
    override = float(study.slides["mpp_override"].loc[tile["slide_id"]])
    path = study.slide_path(tile["slide_id"])
    with open_slide(path, mpp_override=None if np.isnan(override) else override) as slide:
        side = max(1, round(tile["side"]))
        return slide.read_region(int(tile["x"]), int(tile["y"]), side, side, slide.mpp)
