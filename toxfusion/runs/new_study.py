"""Scoring a study without labels with finished runs: what ``toxfusion.predict`` calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from toxfusion.data.clinical import STAGE as CLINICAL_STAGE
from toxfusion.evaluation import predictions
from toxfusion.evaluation.applicability import (
    DECISION,
    LEAST_UNITS,
    ApplicabilityError,
    Band,
    Reference,
    beyond,
    choose_band,
    conformal_p,
)
from toxfusion.evaluation.calibration import Platt, fit_platt
from toxfusion.runs.loaded import encode_slides, load_run
from toxfusion.study.audit import Audit
from toxfusion.study.split import Split
from toxfusion.study.study import Study
from toxfusion.training.folder import RunError, RunFolder

N_NEAREST = 3
"""Training compounds named beside each compound."""
GATES = ["gate_slide", "gate_expression"]
CLINICAL = "clinical:"
"""How columns begin that say what clinical columns change of a task's number."""
_UNIT = ["level", "unit_id"]


@dataclass(frozen=True)
class Scores:
    """Scores of a new study.

    Attributes:
        units: one row a task and unit: unit_id, compound, risk (mean over runs; probabilities, but for subtype, are
            calibrated where ``calibrated`` is true; survival: the risk score; biochemistry: the standardised value),
            spread (standard deviation over runs), low, high (over runs), n_runs, seen_in_training (a run trained on a
            compound of that name), distance (mean over runs and over the unit's treated samples, see
            ``applicability.Reference``), distance_percentile (100 - 100 p, see ``applicability.conformal_p``), abstain
            and the reason.
        compounds: one row a compound: n_samples (treated), gates (means over runs and treated samples),
            seen_in_training, distance, distance_percentile, abstain (by distance), and the nearest training compounds
            with their distances.
        samples: one row a sample: which modalities there are, gates (means over runs), ``clinical:<task>`` (what
            clinical columns change of the task's number, against a sample of the training mean; mean over runs),
            distance and distance_percentile (of treated samples among treated, of vehicle controls among controls).
        curves: ``LoadedRun.survival_curves`` of each run, named in column ``run``; None without discrete survival.
        notes: what a reader of the scores must know: what could not be calibrated or judged, and why.
    """

    units: pd.DataFrame
    compounds: pd.DataFrame
    samples: pd.DataFrame
    curves: pd.DataFrame | None
    notes: list[str]


@dataclass(frozen=True)
class _RunScores:
    """What one run says: predictions and unit distances of the study, samples, distances to training compounds."""

    table: pd.DataFrame
    far: pd.DataFrame
    samples: pd.DataFrame
    to_compounds: pd.DataFrame
    valid_units: pd.DataFrame
    curves: pd.DataFrame | None


def score_study(
    folders: Sequence[RunFolder],
    study: Study,
    audit: Audit,
    *,
    alpha: float = 0.05,
    error: float | None = None,
) -> Scores:
    """Score every sample of a study with every run of an experiment, its slides encoded before as far as they are not.

    Args:
        alpha: units whose distance has a p of at most this are abstained on.
        error: share of wrong classes wished among called units; see ``applicability.choose_band``. None: none is
            abstained on by risk.

    Raises:
        ApplicabilityError: alpha or error out of range.
        RunError: a run is not finished or not of a network, runs of several experiments, no sample has what a run
            reads, or a run of an earlier version.
    """
    if not 0 < alpha < 1 or not (error is None or 0 <= error < DECISION):
        raise ApplicabilityError(
            f"alpha {alpha} must lie between 0 and 1, and error {error} between 0 and {DECISION} (null = none)"
        )
    check_one_experiment(folders)
    for folder in folders:
        encode_slides(folder, study)
    of_runs = [_score_with(folder, study, audit) for folder in folders]
    missing = [record for record in audit.records if record.stage == CLINICAL_STAGE]
    notes = [f"clinical column {record.id}: {record.reason}" for record in missing]
    notes += [
        f"expression: {r.reason}" for r in audit.records if (r.stage, r.kind) == ("expression", "study")
    ]
    valid = validation_units(folders)
    tables, valid = _calibrated([run.table for run in of_runs], valid, notes)
    joined = pd.concat(tables, ignore_index=True)
    keys = ["task", *_UNIT, "compound", "dose_level", "time_h", "study"]
    grouped = joined.groupby(keys, sort=False, dropna=False)
    units = grouped.agg(
        risk=("score", "mean"),
        spread=("score", lambda s: float(np.std(s))),
        low=("score", "min"),
        high=("score", "max"),
        n_runs=("score", "size"),
        calibrated=("calibrated", "all"),
        seen_in_training=("seen", "any"),
    )
    far = _percentiles(of_runs)
    units = units.reset_index().join(far[["distance", "distance_percentile"]], on=_UNIT)
    units = _abstained(units, far["p"], _bands(valid, joined, error, notes), alpha)
    _note_resolution(far, alpha, notes)
    samples = _samples(of_runs, study, far)
    _note_controls(samples, notes)
    return Scores(
        units,
        _compounds(of_runs, study, samples, far, units, alpha),
        samples,
        pd.concat([c for c in (run.curves for run in of_runs) if c is not None], ignore_index=True)
        if any(run.curves is not None for run in of_runs)
        else None,
        notes,
    )


def validation_units(folders: Sequence[RunFolder]) -> pd.DataFrame:
    """Labelled validation units of all runs, once each: task, unit_id, label, and score, the mean over runs."""
    pooled = predictions.pool([folder.read_predictions() for folder in folders], part="valid")
    grouped = pooled[pooled["label"].notna()].groupby(["task", "unit_id"], as_index=False)
    return grouped.agg(label=("label", "first"), score=("score", "mean"))


def check_one_experiment(folders: Sequence[RunFolder]) -> None:
    """Raise RunError where runs are of several experiments, or one fold and seed is there twice."""
    configs = [folder.read_config() for folder in folders]
    names = sorted({c["name"] for c in configs})
    cells = [(c["split"]["fold"], c["seed"]) for c in configs]
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if len(names) > 1 or twice:
        what = f"experiments {names}" if len(names) > 1 else f"several runs of fold and seed {twice[0]}"
        raise RunError(
            f"{what} among {len(folders)} runs: scores are averaged over folds and seeds of one experiment; "
            "narrow the pattern"
        )


def _score_with(folder: RunFolder, study: Study, audit: Audit) -> _RunScores:
    # Transductive: a compound that the run has seen may be scored again; the table says which ones were seen.
    split = Split(train=[], valid=[], test=study.sample_ids, fold=0, manifest={"transductive": True})
    run = load_run(folder, study, split, audit)
    usable = run.fold.usable(study.sample_ids, audit)
    if not usable:
        raise RunError(f"{study.root}: no sample has what {folder.root} reads; extract its slides first")
    outputs = run.embed(usable)
    table = run.predict(usable, outputs=outputs)
    known, vectors = _known_samples(folder)
    train, valid = (known["part"] == "train").to_numpy(), (known["part"] == "valid").to_numpy()
    reference = Reference.fit(vectors[train], known["compound"].to_numpy()[train])
    obs = study.obs.loc[usable]
    here = _unit_distances(obs, reference.distance(outputs.fused))
    there = _unit_distances(known[valid], reference.distance(vectors[valid]))
    for kind, of_kind in here.groupby("like"):
        alike = there.loc[there["like"] == kind, "distance"].to_numpy()
        here.loc[of_kind.index, "beyond"] = beyond(alike, of_kind["distance"].to_numpy())
        here.loc[of_kind.index, "compared"] = len(alike)
    treated = ~obs["is_control"].to_numpy(dtype=bool)
    to_compounds = reference.to_compounds(outputs.fused[treated])
    curves = run.survival_curves(outputs)
    return _RunScores(
        table.assign(seen=table["compound"].isin(run.contract["compounds"])),
        here,
        pd.DataFrame(outputs.gate, index=usable, columns=GATES).join(
            run.clinical_change(outputs).add_prefix(CLINICAL)
        ),
        to_compounds.groupby(obs["compound"].astype(str).to_numpy()[treated]).mean(),
        there,
        None if curves is None else curves.assign(run=str(folder.root)),
    )


def _known_samples(folder: RunFolder) -> tuple[pd.DataFrame, np.ndarray]:
    """obs and fused vectors of training and validation samples that have something the run reads."""
    table = folder.read_embeddings()
    there = (table.obs["has_slide"] | table.obs["has_expression"]).to_numpy(dtype=bool)
    return table.obs[there], np.asarray(table.X)[there]


def _unit_distances(obs: pd.DataFrame, distance: np.ndarray) -> pd.DataFrame:
    """Distances of compounds and groups (means over treated samples) and of samples.

    Returns:
        Columns level, unit_id, distance, and like: units of one value are compared with each other.
    """
    control = obs["is_control"].to_numpy(dtype=bool)
    treated = pd.Series(distance[~control])
    parts = [
        treated.groupby(obs[column].astype(str).to_numpy()[~control])
        .mean()
        .rename("distance")
        .rename_axis("unit_id")
        .reset_index()
        .assign(level=level, like=level)
        for level, column in (("compound", "compound"), ("group", "group_id"))
    ]
    kind = np.where(control, "control sample", "treated sample")
    samples = pd.DataFrame({"unit_id": obs.index.astype(str), "distance": distance, "like": kind})
    return pd.concat([*parts, samples.assign(level="sample")], ignore_index=True)


def _percentiles(of_runs: Sequence[_RunScores]) -> pd.DataFrame:
    """Indexed by level and unit_id: distance, p, distance_percentile, and n_units, the distinct validation units."""
    valid = pd.concat([run.valid_units for run in of_runs])
    n_units = valid.groupby("like")["unit_id"].nunique()
    joined = pd.concat([run.far for run in of_runs])
    grouped = joined.groupby(_UNIT, sort=False)
    far = grouped.agg(
        distance=("distance", "mean"),
        beyond=("beyond", "sum"),
        compared=("compared", "sum"),
        like=("like", "first"),
    )
    far["n_units"] = far["like"].map(n_units).fillna(0).astype(int)
    far["p"] = conformal_p(*(far[c].to_numpy() for c in ("beyond", "compared", "n_units")))
    far["distance_percentile"] = 100 * (1 - far["p"])
    return far


def _calibrated(
    tables: Sequence[pd.DataFrame], valid: pd.DataFrame, notes: list[str]
) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """Scores of two-class tasks made probabilities by Platt scaling, the validation rows with them; column calibrated.

    One slope and intercept a task from the validation parts of all runs together: a fold alone has too few compounds.
    Below `LEAST_UNITS` labelled units there is none. Probabilities of exclusive classes stay as they are: scaled one by
    one they would no longer add up to 1.
    """
    tables = [table.assign(calibrated=False) for table in tables]
    valid = valid.copy()
    for task in called_tasks(tables[0]):
        n, platt = fitted_platt(valid, task)
        if platt is None:
            notes.append(f"{task}: not calibrated, {n} labelled validation units are under {LEAST_UNITS}")
            continue
        if platt.reason:
            notes.append(f"{task}: calibrated to the prevalence of validation, {platt.reason}")
        for table in [*tables, valid]:
            of_task = table["task"] == task
            table.loc[of_task, "score"] = platt.of(table.loc[of_task, "score"].to_numpy())
            table.loc[of_task, "calibrated"] = True
    return tables, valid


def fitted_platt(valid: pd.DataFrame, task: str) -> tuple[int, Platt | None]:
    """How many validation units of a task are labelled, and their Platt scaling; None below `LEAST_UNITS`.

    Args:
        valid: of `validation_units`.
    """
    mine = valid[valid["task"] == task]
    if len(mine) < LEAST_UNITS:
        return len(mine), None
    return len(mine), fit_platt(mine["label"].to_numpy(), mine["score"].to_numpy())


def called_tasks(table: pd.DataFrame) -> list[str]:
    """Tasks whose score is the probability of one of two classes."""
    return [str(task) for task in table.loc[table["family"] == "binary", "task"].unique()]


def _bands(
    valid: pd.DataFrame, joined: pd.DataFrame, error: float | None, notes: list[str]
) -> dict[str, Band]:
    if error is None:
        return {}
    bands = {}
    for task in called_tasks(joined):
        mine = valid[valid["task"] == task]
        bands[task] = choose_band(mine["label"].to_numpy(), mine["score"].to_numpy(), error)
        kept, n, wrong = bands[task].kept, bands[task].n, bands[task].error
        notes.append(
            f"{task}: no {LEAST_UNITS} of {n} validation units are called with an error of {error:g}; none is called"
            if kept == 0
            else f"{task}: risks nearer to {DECISION:g} than {bands[task].half_width:.3f} are not called; "
            f"on validation {100 * kept:.0f} % of {n} units are, {100 * wrong:.0f} % of them wrongly"
        )
    return bands


def _abstained(units: pd.DataFrame, p: pd.Series, bands: dict[str, Band], alpha: float) -> pd.DataFrame:
    """The units with abstain and reason."""
    far = (units.join(p, on=_UNIT)["p"] <= alpha).to_numpy()
    width = units["task"].map({task: band.half_width for task, band in bands.items()}).fillna(0.0)
    near = ((units["risk"] - DECISION).abs() < width).to_numpy()
    by_distance = f"farther than {100 * (1 - alpha):g} % of validation units"
    by_risk = [
        f"risk within {w:.3f} of {DECISION:g}" if np.isfinite(w) else "no risk is called" for w in width
    ]
    reasons = [
        "; ".join([by_distance] * bool(a) + [text] * bool(b))
        for a, b, text in zip(far, near, by_risk, strict=True)
    ]
    return units.assign(abstain=far | near, reason=reasons)


def _note_resolution(far: pd.DataFrame, alpha: float, notes: list[str]) -> None:
    for like, n in far.groupby("like", sort=False)["n_units"].first().items():
        if 1 / (n + 1) > alpha:
            notes.append(
                f"distance: {n} validation units ({like}) cannot tell {100 * alpha:g} %; "
                f"{int(np.ceil(1 / alpha)) - 1} are needed, so none is abstained on for its distance"
            )


def _note_controls(samples: pd.DataFrame, notes: list[str]) -> None:
    """Vehicle controls have no compound: where they lie far away, the study is what is new."""
    controls = samples.loc[samples["is_control"], "distance_percentile"]
    if len(controls):
        notes.append(
            f"vehicle controls of this study: median distance percentile {controls.median():.0f} "
            "(50 where they are like those of validation; higher: the study is new, whatever its compounds)"
        )


def _samples(of_runs: Sequence[_RunScores], study: Study, far: pd.DataFrame) -> pd.DataFrame:
    gates = pd.concat([run.samples for run in of_runs]).groupby(level=0, sort=False).mean()
    ids = list(gates.index)
    obs = study.obs.loc[ids]
    samples = obs[["compound", "dose_level", "time_h"]].astype({"compound": str, "dose_level": str})
    samples["is_control"] = obs["is_control"].astype(bool)
    samples["has_slide"] = [bool(study.slides_of(s)) for s in ids]
    samples["has_expression"] = study.has_expression[study.positions(ids)]
    samples = samples.join(gates).join(far.loc["sample"][["distance", "distance_percentile"]])
    return samples.rename_axis("sample_id").reset_index()


def _compounds(
    of_runs: Sequence[_RunScores],
    study: Study,
    samples: pd.DataFrame,
    far: pd.DataFrame,
    units: pd.DataFrame,
    alpha: float,
) -> pd.DataFrame:
    treated = samples[~samples["is_control"]]
    compounds = treated.groupby("compound")[GATES].mean()
    compounds.insert(0, "n_samples", treated.groupby("compound").size())
    compounds["seen_in_training"] = (
        units.groupby("compound")["seen_in_training"].any().reindex(compounds.index)
    )
    own = far.loc["compound"].reindex(compounds.index)
    compounds["distance"], compounds["distance_percentile"] = own["distance"], own["distance_percentile"]
    compounds["abstain"] = own["p"] <= alpha
    # A compound is in training in some folds only: mean over those.
    near = pd.concat([run.to_compounds for run in of_runs]).groupby(level=0).mean()
    compounds["nearest"] = [_nearest(near.loc[name]) for name in compounds.index]
    return compounds.rename_axis("compound").reset_index()


def _nearest(distances: pd.Series) -> str:
    closest = distances.nsmallest(N_NEAREST)
    return ", ".join(f"{name} ({value:.2f})" for name, value in closest.items())
