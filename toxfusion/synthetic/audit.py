"""Checks of the virtual study against its reference: frequencies, noise, and shortcuts that would make it too easy.

Each check is a row: what was measured, the limit or target it is held to, and whether it passes. Checks of latents
and expression run on a cohort of `AUDIT_COMPOUNDS` compounds of the study's seed; checks of images and files read the
slides of a written study, and say so when there are none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from toxfusion.study.study import Study
from toxfusion.study.vocabulary import LESION_PREFIX
from toxfusion.synthetic.axes import COURSE_TIMES_H, INDEX
from toxfusion.synthetic.cohort import PHENOTYPE_INDEX, CohortConfig
from toxfusion.synthetic.drawn import Cohort, draw_cohort
from toxfusion.synthetic.expression import measure_expression
from toxfusion.synthetic.labels import ANALYTES, MEDIAN, TERMS, measure_chemistry
from toxfusion.synthetic.oracle import oracle_aurocs, oracle_table, population_aurocs
from toxfusion.synthetic.slide_plan import ARTEFACT_RATES
from toxfusion.synthetic.study import StudyConfig, observations

AUDIT_COMPOUNDS = 240
POPULATION = 5_000
INCIDENCE: dict[str, tuple[float, float, float, float]] = {
    "Hypertrophy": (0, 1.3, 5.7, 12.0),
    "Necrosis": (2.0, 1.6, 3.0, 3.7),
    "Cellular infiltration": (0.8, 1.1, 2.2, 3.9),
    "Microgranuloma": (1.9, 2.1, 2.0, 1.6),
    "Single cell necrosis": (0, 0.7, 1.9, 4.9),
    "Increased mitosis": (0.2, 0.8, 2.4, 3.9),
    "Change, eosinophilic": (0, 0.5, 1.8, 4.3),
    "Degeneration, granular, eosinophilic": (0, 0.7, 1.4, 1.9),
    "Vacuolization, cytoplasmic": (0.1, 0.4, 1.4, 3.4),
    "Proliferation, bile duct": (0, 0.3, 0.6, 1.8),
    "Edema": (0, 0.1, 0.6, 0.9),
    "Fibrosis": (0, 0.1, 0.3, 0.8),
    "Deposit, glycogen": (0, 0.2, 0.2, 0.7),
    "Alteration, nuclear": (0, 0, 0.3, 0.7),
    "Hemorrhage": (0, 0.1, 0.4, 0.5),
}
"""Incidence in % of animals at control, low, middle and high dose in Open TG-GATEs (23,868 rats)."""
RELATED = (0.1, 5.1, 15.4, 29.3)
INJURED_GROUPS = (0.0, 6.0, 18.5, 34.0)
AFFECTED_OF_FIVE = (13.0, 14.0, 10.0, 14.0, 49.0)
GRADES = (40.0, 43.0, 14.0, 3.0)
SHORTCUT_LIMIT = 0.60
COLOUR_LESIONS = ("Vacuolization, cytoplasmic", "Hemorrhage", "Deposit, glycogen", "Change, eosinophilic",
                  "Degeneration, granular, eosinophilic")  # fmt: skip
"""Lesions whose look is a colour; a colour histogram may find them."""


@dataclass(frozen=True)
class Check:
    """One line of the audit; ``passed`` is None where a number is reported without a limit."""

    subject: str
    measured: str
    target: str
    passed: bool | None


def audit_study(root: Path, config: StudyConfig) -> str:
    """Run every check and give the table as text; checks of slides need a study in ``root``.

    Args:
        config: seed and DILI setting are used; sizes are the audit's own.
    """
    checks = [*cohort_checks(config.cohort), *oracle_checks(config.cohort), *expression_checks(config.cohort)]
    checks += image_checks(root)
    table = pd.DataFrame(
        [
            (r.subject, r.measured, r.target, {True: "pass", False: "FAIL", None: "-"}[r.passed])
            for r in checks
        ],
        columns=["check", "measured", "target", ""],
    )
    widths = [max(len(c), int(table[c].str.len().max())) for c in table.columns]
    lines = [
        "  ".join(str(v).ljust(w) for v, w in zip(line, widths, strict=True)).rstrip()
        for line in (tuple(table.columns), *table.itertuples(index=False))
    ]
    failed = sum(r.passed is False for r in checks)
    return "\n".join([*lines, f"{len(checks)} checks, {failed} failed"])


# -------------------------------------------------------------------------------------- frequencies


def cohort_checks(config: CohortConfig, n_compounds: int = AUDIT_COMPOUNDS) -> Iterator[Check]:
    """Frequencies, grades, clustering and chemistry of all five rats of every group at the eight times."""
    cohort = draw_cohort(
        replace(config, n_compounds=n_compounds, times_h=COURSE_TIMES_H, animals_per_group=5)
    )
    reading = cohort.reading
    related = np.any(reading.related, axis=-1)
    yield _close("treatment-related finding, % by dose", related.mean((0, 1, 3)) * 100, RELATED, 2.0, 0.35)
    yield _close(
        "groups with 2 or more of 5, % by dose", cohort.injury.mean((0, 1)) * 100, INJURED_GROUPS, 2.0, 0.35
    )
    for k, (term, target) in enumerate(INCIDENCE.items()):
        yield _close(
            f"{term}, % by dose", (reading.grade[..., k] > 0).mean((0, 1, 3)) * 100, target, 1.5, 0.6
        )
    affected = related[:, :, 1:].sum(-1).ravel()
    shares = np.bincount(affected, minlength=6)[1:] / max(1, (affected > 0).sum()) * 100
    yield _close("1 to 5 of 5 rats affected, %", shares, AFFECTED_OF_FIVE, 6.0, 0.0)
    yield _between("intraclass correlation of groups", intraclass_correlation(related), 0.74, 0.86)
    yield _between("groups with a single rat affected, %", shares[0], 8, 20)
    grades = np.bincount(reading.grade[reading.related], minlength=5)[1:]
    yield _close("grades 1 to 4 of related findings, %", grades / grades.sum() * 100, GRADES, 8.0, 0.0)
    spontaneous = np.any(reading.spontaneous, axis=-1)
    yield _between(
        "controls with any finding, %", (reading.grade[:, :, 0] > 0).any(-1).mean() * 100, 3.5, 7.0
    )
    yield _close(
        "spontaneous necrosis and microgranuloma, % by dose",
        spontaneous.mean((0, 1, 3)) * 100,
        (4.5,) * 4,
        1.5,
        0.0,
    )
    yield _between("dead at high dose, %", cohort.latents.died[:, :, 3].mean() * 100, 0.5, 4.0)
    inert = 100 * (~related[:, :, 3].any((1, 2))).mean()
    yield _between("compounds without related finding at high dose, %", inert, 20, 45)
    yield from _extent_checks(cohort)
    yield from _chemistry_checks(cohort)


def intraclass_correlation(related: np.ndarray) -> float:
    """One-way ANOVA estimate of the intraclass correlation of flags [..., rats] of treated groups."""
    flags = related[:, :, 1:].reshape(-1, related.shape[-1]).astype(float)
    n = flags.shape[1]
    between, within = n * flags.mean(1).var(ddof=1), flags.var(1, ddof=1).mean()
    return float((between - within) / (between + (n - 1) * within))


def _extent_checks(cohort: Cohort) -> Iterator[Check]:
    """The same lesion in the digitised piece and in the piece whose RNA is measured."""
    for phenotype, axis in (("necrosis", "A5"), ("infiltration", "A6"), ("fibrosis", "A8")):
        k = PHENOTYPE_INDEX[phenotype]
        there = cohort.latents.animal[..., k] > 0
        slide = np.clip(cohort.latents.slide[..., k], 0, None)[there]
        rna = np.clip(cohort.latents.rna[..., INDEX[axis]], 0, None)[there]
        yield _between(
            f"extent of {phenotype} in slide and RNA piece, r",
            float(np.corrcoef(slide, rna)[0, 1]),
            0.60,
            0.80,
        )


def _chemistry_checks(cohort: Cohort) -> Iterator[Check]:
    values = measure_chemistry(cohort.config.seed, cohort.compounds, cohort.latents, cohort.config.times_h)
    for k, analyte in enumerate(ANALYTES):
        median = float(np.median(values[:, :, 0, :, k]))
        yield _between(f"control median {analyte}", median, 0.8 * MEDIAN[analyte], 1.25 * MEDIAN[analyte])
    grade = np.where(cohort.reading.related[..., 1], cohort.reading.grade[..., 1], 0)
    alt = values[..., 0] / np.median(values[:, :, :1, :, 0], axis=3, keepdims=True)
    fold = [float(np.median(alt[grade == g])) if (grade == g).sum() > 5 else np.nan for g in (1, 2, 3)]
    yield Check("ALT fold at related necrosis grade 1, 2, 3", _numbers(fold), "1.5 3.9 7.8", None)
    any_finding = np.any(cohort.reading.related, axis=-1)[:, :, 1:].ravel()
    hypertrophy = (cohort.reading.grade[..., 0] > 0)[:, :, 1:].ravel()
    weight = values[:, :, 1:, :, ANALYTES.index("liver_weight_pct")].ravel()
    yield Check(
        "relative liver weight alone for hypertrophy, AUROC",
        f"{_auroc(hypertrophy, weight):.2f}",
        "real 0.82",
        None,
    )
    shape = cohort.reading.grade.shape[:4]
    level = np.broadcast_to(np.arange(4)[None, None, :, None], shape)[:, :, 1:].ravel()
    time = np.broadcast_to(np.log(cohort.config.times_h)[None, :, None, None], shape)[:, :, 1:].ravel()
    clusters = np.broadcast_to(np.arange(shape[0])[:, None, None, None], shape)[:, :, 1:].ravel()
    design = np.stack([level, time, level * time], 1)
    yield Check("dose and time alone for any related finding, AUROC",
                f"{_cross_validated(design, any_finding, clusters):.2f}", "real 0.76", None)  # fmt: skip
    yield Check("dose and time alone for hypertrophy, AUROC",
                f"{_cross_validated(design, hypertrophy, clusters):.2f}", "real 0.86", None)  # fmt: skip


# ------------------------------------------------------------------------------------------ oracles


def oracle_checks(config: CohortConfig) -> Iterator[Check]:
    """Oracles of thousands of compounds in both settings, and of the lesions of a cohort."""
    limits = {"realistic": {"both": (0.61, 0.67), "all": (0.68, 0.73)}, "control": {"both": (0.82, 0.88)}}
    for setting, wanted in limits.items():
        table = population_aurocs(setting, POPULATION, config.seed)
        by_view: dict[str, float] = dict(zip(table["view"], table["auroc"].astype(float), strict=True))
        for view in ("both", "slide", "expression", "all"):
            subject = f"DILI oracle, {setting}, {view}, {POPULATION} compounds"
            low, high = wanted.get(view, (0.5, by_view["all"] + 0.01))
            yield _between(subject, by_view[view], low, high, digits=3)
    cohort = draw_cohort(replace(config, n_compounds=AUDIT_COMPOUNDS, animals_per_group=2))
    aurocs = oracle_aurocs(oracle_table(cohort))
    yield _between("group injury oracle, both", _of(aurocs, "injury"), 0.90, 0.98)
    lesions = aurocs[(aurocs.index != "dili") & (aurocs.index != "injury") & (aurocs["positives"] >= 15)]
    macro = lesions[["both", "slide", "expression"]].mean()
    gain = macro["both"] - macro[["slide", "expression"]].max()
    yield Check("lesion oracles, mean of terms: both, slide, expression", _numbers(macro, 3), "", None)
    yield _between("gain of both over the better modality, mean of lesions", gain, 0.005, 0.15, digits=3)
    hypertrophy = aurocs.loc[LESION_PREFIX + "Hypertrophy"]
    yield Check(
        "hypertrophy oracle: slide, expression",
        _numbers(hypertrophy[["slide", "expression"]]),
        "0.85-0.90 0.93",
        None,
    )
    slide_only = lesions.index[lesions["slide"] > lesions["expression"] + 0.05].tolist()
    yield Check("lesions seen better in the slide", str(len(slide_only)), "at least 1", len(slide_only) >= 1)
    yield from _minimal_checks(cohort)


def _minimal_checks(cohort: Cohort) -> Iterator[Check]:
    """Grade 1 against grade 0 among treated rats, by the lesion's own severity on the digitised slide."""
    shown = cohort.latents.slide_severity[:, :, 1:]
    checks = {}
    for k, (term, phenotypes) in enumerate(TERMS.items()):
        grade = cohort.reading.grade[:, :, 1:, :, k]
        severity = shown[..., [PHENOTYPE_INDEX[p] for p in phenotypes]].max(-1)
        kept = grade <= 1
        if (grade == 1).sum() >= 15:
            checks[term] = _auroc(grade[kept] == 1, severity[kept])
    worst = max(checks, key=lambda term: checks[term])
    value = float(np.median(list(checks.values())))
    yield _between(
        "minimal lesion (grade 1 against 0) by its severity on the slide, median AUROC", value, 0.5, 0.80
    )
    yield Check("the most separable of them", f"{worst} {checks[worst]:.2f}", "", None)


# --------------------------------------------------------------------------------------- expression


def expression_checks(config: CohortConfig) -> Iterator[Check]:
    """Noise of controls, batches, single genes, and what controls tell of the treated."""
    cohort = draw_cohort(replace(config, n_compounds=80, times_h=(24.0, 360.0), animals_per_group=3))
    x = measure_expression(
        config.seed, cohort.compounds, cohort.latents, cohort.config.times_h, cohort.batches, cohort.rats
    )
    obs = observations(cohort)
    control = obs["is_control"].to_numpy()
    groups = obs["group_id"].to_numpy()
    centred = _centred(x, groups)
    sd = np.sqrt((centred[control] ** 2).sum(0) / (control.sum() - len(np.unique(groups[control]))))
    yield _between("within-group SD of control genes, median", float(np.median(sd)), 0.12, 0.20)
    u = np.linalg.svd(centred[control] / sd, compute_uv=False) ** 2
    yield _between(
        "residual variance on 5 principal components, %", 100 * float(u[:5].sum() / u.sum()), 30, 55
    )
    yield _between("mean of intensities", float(x.mean()), 5.5, 7.5)
    yield from _batch_checks(x, obs, cohort)
    yield from _gene_checks(x, obs, cohort)


def _centred(x: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rows minus the mean of their group."""
    _, code = np.unique(groups, return_inverse=True)
    sums = np.zeros((code.max() + 1, x.shape[1]))
    np.add.at(sums, code, x)
    return x - (sums / np.bincount(code)[:, None])[code]


def _batch_checks(x: np.ndarray, obs: pd.DataFrame, cohort: Cohort) -> Iterator[Check]:
    """Controls give the batch away, and do not give the injury of their compound away."""
    control = obs["is_control"].to_numpy()
    scores = PCA(20, random_state=0).fit_transform(x[control])
    rat = cohort.rats[control, 3]
    batch = obs["batch"].to_numpy()[control]
    model = KNeighborsClassifier(3).fit(scores[rat == 0], batch[rat == 0])
    accuracy = float((model.predict(scores[rat == 1]) == batch[rat == 1]).mean())
    chance = float(pd.Series(batch).value_counts(normalize=True).max())
    yield Check(
        "batch from controls, accuracy",
        f"{accuracy:.2f} (chance {chance:.2f})",
        "succeeds",
        bool(accuracy > 3 * chance),
    )
    compound = cohort.rats[control, 0]
    injured = np.any(cohort.injury[:, :, 3], axis=1)
    means = np.stack([scores[compound == c].mean(0) for c in range(len(cohort.compounds))])
    value = _cross_validated(means, injured, cohort.compounds.index // 5)
    yield _between("injury of the compound from its controls, AUROC", value, 0.35, SHORTCUT_LIMIT)


def _gene_checks(x: np.ndarray, obs: pd.DataFrame, cohort: Cohort) -> Iterator[Check]:
    """The best single gene, as change against controls, stays under the oracle."""
    control = obs["is_control"].to_numpy()
    reference = pd.DataFrame(x[control]).groupby(obs["control_group"].to_numpy()[control]).mean()
    change = x[~control] - reference.loc[obs["control_group"].to_numpy()[~control]].to_numpy()
    rats = cohort.rats[~control]
    aurocs = oracle_aurocs(oracle_table(cohort))
    injury = cohort.injury[tuple(rats[:, :3].T)]
    gaps = {"injury": _of(aurocs, "injury") - _best_gene(change, injury)}
    for k, term in enumerate(TERMS):
        label = cohort.reading.grade[(*rats.T, k)] > 0
        if label.sum() >= 20:
            gaps[term] = _of(aurocs, LESION_PREFIX + term) - _best_gene(change, label)
    closest = min(gaps, key=lambda name: gaps[name])
    yield _between("oracle minus best single gene, injury", gaps["injury"], 0.05, 0.5, digits=3)
    yield _between(
        "oracle minus best single gene, median of labels",
        float(np.median(list(gaps.values()))),
        0.05,
        0.5,
        digits=3,
    )
    name = f"{closest} {gaps[closest]:.3f}"
    yield Check("the label nearest to one gene", name, "at least 0.050", bool(gaps[closest] >= 0.05))


def _of(aurocs: pd.DataFrame, task: str) -> float:
    """The oracle of both modalities for a task."""
    return float(aurocs["both"].to_dict()[task])


def _best_gene(change: np.ndarray, label: np.ndarray) -> float:
    """Greatest AUROC of one gene, in either direction."""
    ranks = change.argsort(0).argsort(0)
    n1 = int(label.sum())
    n0 = len(label) - n1
    auroc = (ranks[label].sum(0) - n1 * (n1 - 1) / 2) / (n1 * n0)
    return float(np.maximum(auroc, 1 - auroc).max())


# -------------------------------------------------------------------------------------------- images


def image_checks(root: Path) -> list[Check]:
    """Colour, file size, dimensions and artefacts of the slides of a study against dose and lesions."""
    if not (root / "slides.parquet").is_file():
        return [Check("image checks", f"no study in {root}", "write one with slides first", None)]
    study = Study.open(root)
    if study.slides.empty:
        return [Check("image checks", f"no slides in {root}", "write the study with slides=true first", None)]
    return list(_slide_checks(study))


def _slide_checks(study: Study) -> Iterator[Check]:
    histogram, file = _colour_features(study), _file_features(study)
    obs = study.obs.loc[study.slides["sample_id"]]
    experiment = obs["compound"].to_numpy()
    high = (obs["dose_level"] == "high").to_numpy()
    low_or_high = obs["dose_level"].isin(["control", "high"]).to_numpy()
    artefacts = _artefact_features(study)
    for name, features in (
        ("colour histogram", histogram),
        ("file size and dimensions", file),
        ("artefacts", artefacts),
    ):
        value = _cross_validated(features[low_or_high], high[low_or_high], experiment[low_or_high])
        # Colour may follow the lesions that are colours; files and artefacts may follow nothing.
        limit = SHORTCUT_LIMIT if name != "artefacts" else 0.58
        yield _shortcut(f"{name} for high dose against control, AUROC", value, limit, low_or_high.sum())
        grades = study.findings.loc[obs.index].to_numpy()
        plain = [k for k, t in enumerate(study.findings.columns) if t not in COLOUR_LESIONS]
        lesion = np.any(grades[:, plain] > 0, axis=1)
        value = _cross_validated(features, lesion, experiment)
        yield _shortcut(f"{name} for any lesion that is no colour, AUROC", value, limit, len(lesion))
    controls = obs["is_control"].to_numpy()
    batch = obs["batch"].to_numpy()[controls]
    accuracy = _batch_accuracy(histogram[controls], batch, obs["control_group"].to_numpy()[controls])
    yield Check("batch from colour of controls, accuracy", accuracy, "succeeds", None)


def _shortcut(subject: str, value: float, limit: float, n: int) -> Check:
    """Passes under the limit plus the chance error of an AUROC on so few slides."""
    allowed = limit + 1.0 / np.sqrt(12 * max(n, 1) / 4) if n < 400 else limit
    return Check(
        f"{subject} (n {n})",
        f"{value:.2f}",
        f"at most {limit:.2f} (+ chance error: {allowed:.2f})",
        bool(value <= allowed),
    )


def _colour_features(study: Study) -> np.ndarray:
    """[n_slides, 27]: mean and histogram of each colour channel of the coarsest level, tissue only."""
    features = []
    for slide_id in study.slides.index:
        with tifffile.TiffFile(study.slide_path(slide_id)) as file:
            pixels = file.series[0].levels[-1].asarray()[..., :3]
        tissue = pixels[pixels.min(-1) < 225]
        tissue = tissue if len(tissue) else pixels.reshape(-1, 3)
        parts = [np.histogram(tissue[:, k], 8, (0, 256))[0] / len(tissue) for k in range(3)]
        features.append(np.concatenate([tissue.mean(0) / 255, *parts]))
    return np.array(features)


def _file_features(study: Study) -> np.ndarray:
    """[n_slides, 4]: bytes, width, height, bytes per pixel."""
    shapes = []
    for slide_id in study.slides.index:
        path = study.slide_path(slide_id)
        with tifffile.TiffFile(path) as file:
            height, width = file.pages[0].shape[:2]
        size = path.stat().st_size
        shapes.append((np.log(size), width, height, size / (width * height)))
    return np.array(shapes, float)


def _artefact_features(study: Study) -> np.ndarray:
    """[n_slides, n_artefacts] from the truth."""
    truth = pd.read_parquet(study.root / "truth" / "slides.parquet").set_index("slide_id")
    named = truth.loc[study.slides.index, "artefacts"].str.split()
    return np.array([[a in names for a in ARTEFACT_RATES] for names in named], float)


def _batch_accuracy(features: np.ndarray, batch: np.ndarray, fold: np.ndarray) -> str:
    right = []
    codes = pd.factorize(fold)[0] % 5
    for k in range(5):
        model = RandomForestClassifier(100, random_state=0).fit(features[codes != k], batch[codes != k])
        right.append(model.predict(features[codes == k]) == batch[codes == k])
    chance = float(pd.Series(batch).value_counts(normalize=True).max())
    return f"{np.concatenate(right).mean():.2f} (chance {chance:.2f})"


# -------------------------------------------------------------------------------------------- words


def _auroc(label: np.ndarray, score: np.ndarray) -> float:
    label = np.asarray(label).ravel()
    return float(roc_auc_score(label, np.ravel(score))) if len(np.unique(label)) == 2 else float("nan")


def _cross_validated(features: np.ndarray, label: np.ndarray, clusters: np.ndarray) -> float:
    """AUROC of a logistic regression, out of fold over five folds of whole clusters, averaged over folds."""
    label = np.asarray(label).astype(int)
    values = []
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(features, label, clusters):
        if len(np.unique(label[train])) < 2 or len(np.unique(label[test])) < 2:
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=2000))
        values.append(
            _auroc(label[test], model.fit(features[train], label[train]).decision_function(features[test]))
        )
    return float(np.mean(values)) if values else float("nan")


def _numbers(values: Any, digits: int = 2) -> str:
    return " ".join(f"{float(v):.{digits}f}" for v in values)


def _between(subject: str, value: float, low: float, high: float, digits: int = 2) -> Check:
    measured = f"{float(value):.{digits}f}"
    return Check(
        subject, measured, f"{low:.{digits}f} to {high:.{digits}f}", bool(low <= float(value) <= high)
    )


def _close(subject: str, values: Any, targets: Any, slack: float, ratio: float) -> Check:
    """Passes when each value lies within ``slack`` plus ``ratio`` times its target of that target."""
    pairs = zip(values, targets, strict=True)
    passed = all(abs(float(v) - t) <= slack + ratio * t for v, t in pairs)
    return Check(subject, _numbers(values, 1), _numbers(targets, 1), passed)
