"""``python -m toxfusion.evaluate``: score a finished run again from its checkpoint, with intervals and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from toxfusion.config.command import entry_point

if TYPE_CHECKING:
    import pandas as pd


@entry_point("evaluate")
def main(config: dict[str, Any]) -> None:
    """Score a finished run again from its checkpoint: predictions, embeddings, metrics with intervals, figures.

    Examples:
      toxfusion evaluate run=outputs/mine/full/fold0_seed0
      toxfusion evaluate run=outputs/mine/full/fold0_seed0 probes=[few_shot,retrieval]
    """
    from toxfusion.runs.again import evaluate_run
    from toxfusion.training.folder import RunFolder

    evaluation = evaluate_run(
        RunFolder(Path(config["run"])),
        Path(config["paths"]["output"]),
        draws=config["draws"],
        seed=config["seed"],
        probes=config["probes"],
        embeddings=config["embeddings"],
    )
    ranked = ["auroc", "auprc", "balanced_accuracy", "mcc", "quadratic_kappa"]
    other = ["harrell_c", "uno_c", "integrated_brier", "accuracy", "macro_f1", "spearman", "r2"]
    scores = evaluation.scores[evaluation.scores["metric"].isin([*ranked, *other])]
    print(_aligned(scores, ["task", "metric", "value", "low", "high", "n", "n_compounds", "prevalence"]))
    if shown := by_stratum(evaluation.strata, [*ranked, *other, "false_positive_rate"]):
        print(shown)
    if len(evaluation.probes):
        keys = ["probe", "embedding", "task", "k", "hidden", "share", "metric"]
        probes = evaluation.probes[~_single_lesion(evaluation.probes)]
        known = probes["value"].notna()
        print(f"\n{_aligned(probes[known], [*keys, 'value', 'low', 'high', 'chance'])}")
        for probe in probes.loc[~known, ["probe", "embedding", "task", "reason"]].to_dict("records"):
            print(
                " ".join(filter(None, (probe["probe"], probe["embedding"], probe["task"])))
                + f": {probe['reason']}"
            )


def by_stratum(strata: pd.DataFrame, metrics: list[str]) -> str:
    """The table of strata with a number, under its heading; empty where there is none."""
    shown = strata[
        strata["metric"].isin(metrics)
        & (strata["by"] != "batch")
        & strata["value"].notna()
        & ~_single_lesion(strata)
    ]
    if shown.empty:
        return ""
    heading = "By stratum (small: fewer than 10 compounds, or units of a class; batches and lesions are in strata.csv)"
    columns = [
        "task",
        "by",
        "stratum",
        "metric",
        "value",
        "low",
        "high",
        "n",
        "n_positive",
        "n_compounds",
        "small",
    ]
    return f"\n{heading}\n{_aligned(shown, columns)}"


def _single_lesion(table: pd.DataFrame) -> pd.Series:
    return table["task"] != table["headline"]


def _aligned(table: pd.DataFrame, columns: list[str]) -> str:
    return table[columns].to_string(index=False, float_format="%.3f", na_rep="")


if __name__ == "__main__":
    main()
