"""``python -m toxfusion.evaluate``: score a finished run again from its checkpoint, with intervals and figures."""

from __future__ import annotations

from typing import Any

from toxfusion.config import entry_point


@entry_point("evaluate")
def main(config: dict[str, Any]) -> None:
    """Score a finished run again from its checkpoint: predictions, embeddings, metrics with intervals, figures."""
    from pathlib import Path

    from toxfusion.evaluating import evaluate_run
    from toxfusion.runs import RunFolder

    table, probes = evaluate_run(
        RunFolder(Path(config["run"])),
        Path(config["paths"]["output"]),
        draws=config["draws"],
        seed=config["seed"],
        probes=config["probes"],
        embeddings=config["embeddings"],
    )
    ranked = ["auroc", "auprc", "balanced_accuracy", "mcc", "quadratic_kappa"]
    other = ["harrell_c", "uno_c", "integrated_brier", "accuracy", "macro_f1", "spearman", "r2"]
    shown = table[table["metric"].isin([*ranked, *other])]
    columns = ["task", "metric", "value", "low", "high", "n", "n_compounds", "prevalence"]
    print(shown[columns].to_string(index=False, float_format="%.3f"))
    if len(probes):
        probes = probes[~probes["task"].str.startswith("lesion:")]
        columns = [
            "probe",
            "embedding",
            "task",
            "k",
            "hidden",
            "share",
            "metric",
            "value",
            "low",
            "high",
            "chance",
        ]
        print(f"\n{probes[columns].to_string(index=False, float_format='%.3f', na_rep='')}")


if __name__ == "__main__":
    main()
