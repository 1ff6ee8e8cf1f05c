"""What the vectors of a row say of one fold: retrieval, genes from slides, and labels from few patients.

A row is anything that gives every patient a slide vector and an expression vector: a network after pretraining, or a
closed form. All rows are read in the same way: nothing is fitted on test patients, penalties are chosen on validation.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from toxfusion.evaluation.retrieval import ranks
from toxfusion.study.draws import generator
from toxfusion.study.files import write_parquet

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
INPUTS = ("slide", "expression", "both")
FEW, FEW_DRAWS = 10, 10
EVERY = 0
"""``labels`` of a reading with all labelled training patients."""
LEAST_PATIENTS = 12
"""A cohort with fewer test patients in a fold is not asked for R@10: chance alone finds them."""


@dataclass(frozen=True)
class Label:
    """A question with two answers.

    Attributes:
        name: of the question. column: of obs. negative, positive: its values; patients of others have no label.
    """

    name: str
    column: str
    negative: tuple[str, ...]
    positive: tuple[str, ...]

    @property
    def slug(self) -> str:
        """Its name as that of a task."""
        return re.sub(r"\W+", "_", self.name).strip("_").lower()

    def of(self, obs: pd.DataFrame) -> np.ndarray:
        """float64 [n], 0, 1 or NaN."""
        values = obs[self.column].astype(str) if self.column in obs else pd.Series("", index=obs.index)
        classes = np.full(len(obs), np.nan)
        classes[values.isin(self.negative).to_numpy()] = 0.0
        classes[values.isin(self.positive).to_numpy()] = 1.0
        return classes


_NO_FIBROSIS = ("0 - No Fibrosis",)
_PORTAL, _SEPTA = "1,2 - Portal Fibrosis", "3,4 - Fibrous Speta"
_CIRRHOSIS = ("5 - Nodular Formation and Incomplete Cirrhosis", "6 - Established Cirrhosis")
LABELS = (
    Label("LUAD or LUSC", "batch", ("luad",), ("lusc",)),
    Label("KIRC or KIRP", "batch", ("kirc",), ("kirp",)),
    Label("BRCA: IDC or ILC", "subtype", ("IDC",), ("ILC",)),
    Label(
        "LIHC: fibrosis, any or none", "ishak_fibrosis_score", _NO_FIBROSIS, (_PORTAL, _SEPTA, *_CIRRHOSIS)
    ),
    Label("LIHC: fibrosis, 5-6 or none", "ishak_fibrosis_score", _NO_FIBROSIS, _CIRRHOSIS),
)
CONTROLS = (
    Label("LIHC: inflammation beside (negative control)", "hepatic_inflammation_adj_tissue", ("None",),
          ("Mild", "Severe")),
)  # fmt: skip


@dataclass(frozen=True)
class Vectors:
    """What a row gives, n patients.

    Attributes:
        obs: with the columns batch and part (train, valid, test).
        slide, expression: float64 [n, K], in one space; NaN rows where a modality is absent; None for a row without.
        slide_read, expression_read: float64 [n, P], what labels are predicted from: of a network the shared and the
            private part, as its heads read them; None = ``slide`` and ``expression``.
        pooled: float64 [n, P], what genes are predicted from; None = what labels are, of slides.
        genes: float64 [n, G], standardised expression; None where genes are not asked for.
    """

    obs: pd.DataFrame
    slide: np.ndarray | None
    expression: np.ndarray | None
    slide_read: np.ndarray | None = None
    expression_read: np.ndarray | None = None
    pooled: np.ndarray | None = None
    genes: np.ndarray | None = None

    @property
    def labels_from_slide(self) -> np.ndarray | None:
        return self.slide if self.slide_read is None else self.slide_read

    @property
    def labels_from_expression(self) -> np.ndarray | None:
        return self.expression if self.expression_read is None else self.expression_read

    def inputs(self) -> dict[str, np.ndarray]:
        """slide, expression and both, as far as there are any; blocks have one mean square, so that none drowns."""
        train = (self.obs["part"] == "train").to_numpy()
        sides = {"slide": self.labels_from_slide, "expression": self.labels_from_expression}
        blocks = {name: _unit_power(of, train) for name, of in sides.items() if of is not None}
        return blocks | ({"both": np.hstack(list(blocks.values()))} if len(blocks) == 2 else {})


def _unit_power(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Centred, with a mean squared length of 64 over training patients; directions keep their share of it."""
    known = ~np.isnan(values).any(1)
    centred = values - values[train & known].mean(0)
    return centred * 8.0 / np.sqrt(max((centred[train & known] ** 2).sum(1).mean(), 1e-12))


def retrieval(vectors: Vectors) -> pd.DataFrame:
    """Rank of the own partner among the test patients of the cohort, and of the organ where that has several.

    Both sides are centred on the training patients of the cohort, or organ, that is searched, where there are any: what
    all of its patients have in common finds none of them.

    Returns:
        Columns sample_id, within (name of the cohort or organ), direction, rank and n.
    """
    slide, expression = vectors.slide, vectors.expression
    if slide is None or expression is None or slide.shape[1] != expression.shape[1]:  # no common space
        return pd.DataFrame(columns=["sample_id", "within", "direction", "rank", "n"])
    obs, parts = vectors.obs, []
    paired = ~(np.isnan(slide).any(1) | np.isnan(expression).any(1))
    train, test = ((obs["part"] == part).to_numpy() & paired for part in ("train", "test"))
    organs = obs.groupby("organ")["batch"].nunique() if "organ" in obs else pd.Series(dtype=int)
    groups = [("batch", name) for name in sorted(set(obs["batch"]))]
    groups += [("organ", name) for name in organs.index[organs > 1]]
    for column, name in groups:
        within = (obs[column] == name).to_numpy()
        tested = np.flatnonzero(test & within)
        if len(tested) < LEAST_PATIENTS:
            continue
        known = train & within
        slides, profiles = (
            of[tested] - (of[known].mean(0) if known.any() else 0.0) for of in (slide, expression)
        )
        for direction, query, target in (
            ("slide to RNA", slides, profiles),
            ("RNA to slide", profiles, slides),
        ):
            rank = ranks(query, target)
            table = pd.DataFrame({"sample_id": obs.index[tested], "rank": rank, "n": len(tested)})
            parts.append(table.assign(within=name, direction=direction))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def predicted_genes(vectors: Vectors) -> pd.DataFrame | None:
    """Expression of test patients by ridge from the slide, the penalty chosen on validation; float32, G columns."""
    features = vectors.labels_from_slide if vectors.pooled is None else vectors.pooled
    if features is None or vectors.genes is None:
        return None
    known = ~np.isnan(features).any(1) & ~np.isnan(vectors.genes).any(1)
    part = vectors.obs["part"].to_numpy()
    train, valid, test = (np.flatnonzero((part == p) & known) for p in ("train", "valid", "test"))
    mean, scale = features[train].mean(0), np.maximum(features[train].std(), 1e-12)
    x, y = (features - mean) / scale, vectors.genes
    values, axes = np.linalg.eigh(x[train].T @ x[train] / len(train))
    cross = axes.T @ (x[train].T @ y[train] / len(train))
    shrunk = {p: axes @ (cross / (np.maximum(values, 0) + p * values.mean())[:, None]) for p in RIDGES}
    best = min(RIDGES, key=lambda p: float(np.mean((x[valid] @ shrunk[p] - y[valid]) ** 2)))
    table = pd.DataFrame((x[test] @ shrunk[best]).astype(np.float32), index=vectors.obs.index[test])
    table.columns = [str(c) for c in table.columns]
    return table.rename_axis("sample_id").reset_index()


def label_scores(vectors: Vectors, labels: Sequence[Label]) -> pd.DataFrame:
    """Scores of test patients by logistic regression on vectors, with 10 labelled patients a class and with all.

    The ten are drawn ten times, nested in nothing and the same for every row; the penalty is the one of the best mean
    validation AUROC over draws.

    Returns:
        Columns task, labels (10, or 0 = all), input, draw, sample_id, label and score.
    """
    part, tables = vectors.obs["part"].to_numpy(), []
    for label in labels:
        y = label.of(vectors.obs)
        for name, values in vectors.inputs().items():
            known = ~np.isnan(values).any(1) & ~np.isnan(y)
            patients = {p: np.flatnonzero((part == p) & known) for p in ("train", "valid", "test")}
            if any(len(np.unique(y[patients[p]])) < 2 for p in ("train", "test")):
                continue
            for budget in (FEW, EVERY):
                draws = _draws(patients["train"], y, vectors.obs.index, budget, label.name)
                scores = _chosen(values, y, patients, draws)
                for draw, score in enumerate(scores):
                    table = pd.DataFrame(
                        {"sample_id": vectors.obs.index[patients["test"]], "label": y[patients["test"]]}
                    )
                    tables.append(
                        table.assign(task=label.name, labels=budget, input=name, draw=draw, score=score)
                    )
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _draws(train: np.ndarray, y: np.ndarray, names: pd.Index, budget: int, task: str) -> list[np.ndarray]:
    """Training rows of each draw; one of all rows without a budget. By name, so that every row of the table of results
    sees the same patients."""
    if budget == EVERY:
        return [train]
    ordered = train[np.argsort(names[train].to_numpy(str))]
    draws = []
    for draw in range(FEW_DRAWS):
        rng = generator(draw, "pairs", task)
        draws.append(np.concatenate([rng.permutation(ordered[y[ordered] == c])[:budget] for c in (0.0, 1.0)]))
    return draws


def _chosen(
    values: np.ndarray, y: np.ndarray, patients: Mapping[str, np.ndarray], draws: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Decision values of the test rows, one array a draw, with the penalty that is best on validation."""
    valid, test = patients["valid"], patients["test"]
    decided = len(np.unique(y[valid])) == 2
    by_penalty: dict[float, tuple[float, list[np.ndarray]]] = {}
    for penalty in PENALTIES if decided else (0.01,):
        judged, scores = [], []
        for train in draws:
            model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=1000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(values[train], y[train])
            scores.append(model.decision_function(values[test]))
            if decided:
                judged.append(roc_auc_score(y[valid], model.decision_function(values[valid])))
        by_penalty[penalty] = (float(np.mean(judged)) if judged else 0.0, scores)
    return max(by_penalty.values(), key=lambda of: of[0])[1]


def write_readings(vectors: Vectors, folder: Path, *, labels: bool = True) -> None:
    """retrieval.parquet, genes.parquet and labels.parquet of one row, fold and seed; the last one written last.

    Args:
        labels: read them; the file is empty else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(retrieval(vectors), folder / "retrieval.parquet")
    genes = predicted_genes(vectors)
    if genes is not None:
        write_parquet(genes, folder / "genes.parquet")
    asked = (*LABELS, *CONTROLS) if labels else ()
    write_parquet(label_scores(vectors, asked), folder / "labels.parquet")


def write_predictions(predictions: Mapping[int, pd.DataFrame], reads: str, folder: Path) -> None:
    """labels.parquet and survival.parquet of a row that was trained on labels, as those of rows that give vectors.

    Args:
        predictions: ``labels`` (10, or 0 = all) -> predictions table of the run.
        reads: "slide", "expression" or "both".
    """
    names = {label.slug: label.name for label in (*LABELS, *CONTROLS)}
    tables, survival = [], []
    for budget, table in predictions.items():
        tested = table[(table["part"] == "test") & table["label"].notna()].rename(
            columns={"unit_id": "sample_id"}
        )
        about = tested[tested["task"].isin(names)]
        about = about.assign(task=about["task"].map(names), labels=budget, input=reads, draw=0)
        tables.append(about[["task", "labels", "input", "draw", "sample_id", "label", "score"]])
        times = tested[tested["task"] == "survival"].rename(columns={"label": "time"})
        survival.append(times.assign(labels=budget)[["labels", "sample_id", "time", "event", "score"]])
    folder.mkdir(parents=True, exist_ok=True)
    write_parquet(pd.concat(survival, ignore_index=True), folder / "survival.parquet")
    write_parquet(pd.concat(tables, ignore_index=True), folder / "labels.parquet")
