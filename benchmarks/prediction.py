"""Is a mechanism that training never saw farther away, and is what is scored calibrated? Scores of a virtual study.

    common='size=study times_h=[696.0] slides=false'
    python -m toxfusion.synthesize output=studies/known seed=41 $common 'leave_out=[A2,A3,A10]'
    python -m toxfusion.synthesize output=studies/all seed=41 $common
    python -m toxfusion.synthesize output=studies/new seed=42 $common
    for study in known all; do
        python -m toxfusion.train -m experiment=ablation_omics_only data.root=studies/$study \\
            split.fold=0,1,2,3,4 seed=0,1,2 trainer.progress=false
        python -m toxfusion.predict "run=outputs/$study/ablation_omics_only/*" study=studies/new \\
            paths.output=scores-$study
        python benchmarks/prediction.py --study studies/new --scores scores-$study --unseen A2 A3 A10
    done

Prints, for compounds without an unseen axis and for those that have it as main axis or as a partner, how many are
abstained on and the median distance percentile; the AUROC of the distance for unseen against seen; and Brier score and
AUROC of the DILI risk. Reads ``truth/``: a check of the method and never an input of it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import brier_score_loss, roc_auc_score

from toxfusion.study.study import Study

GROUPS = ("seen", "unseen as partner", "unseen as main axis")


def groups(truth: pd.DataFrame, unseen: list[str]) -> pd.Series:
    """One of `GROUPS` for each compound of truth/compounds.parquet."""
    strange = truth["axis"].isin(unseen)
    place = np.select([strange & (truth["main"] == True), strange], [2, 1], 0)  # noqa: E712 (may be missing)
    return pd.Series(place, truth["compound"]).groupby(level=0).max().map(dict(enumerate(GROUPS)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--unseen", nargs="+", required=True)
    arguments = parser.parse_args()
    compounds = pd.read_csv(arguments.scores / "compounds.csv").set_index("compound")
    compounds["group"] = groups(
        pd.read_parquet(arguments.study / "truth" / "compounds.parquet"), arguments.unseen
    )
    grouped = compounds.groupby("group")
    print(
        grouped.agg(
            compounds=("distance", "size"),
            abstained=("abstain", "sum"),
            median_percentile=("distance_percentile", "median"),
        )
        .reindex(GROUPS)
        .round(1)
    )
    for name in GROUPS[1:]:
        both = compounds[compounds["group"].isin(["seen", name])]
        if both["group"].nunique() == 2:
            print(f"AUROC of distance, {name}: {roc_auc_score(both['group'] == name, both['distance']):.2f}")
    obs = Study.open(arguments.study).obs
    label = obs[~obs["is_control"].astype(bool)].groupby("compound")["dili"].first()
    scores = pd.read_csv(arguments.scores / "scores.csv")
    dili = scores[scores["task"] == "dili"].set_index("compound")
    dili["label"] = label
    for name, risks in (("all", dili), ("seen", dili[compounds["group"].reindex(dili.index) == "seen"])):
        y, risk = risks["label"].to_numpy(), risks["risk"].to_numpy()
        print(
            f"DILI, {name}: {len(risks)} compounds, prevalence {y.mean():.2f}, calibrated {risks['calibrated'].all()}, "
            f"Brier {brier_score_loss(y, risk):.3f} (prevalence alone {y.mean() * (1 - y.mean()):.3f}), "
            f"AUROC {roc_auc_score(y, risk):.2f}"
        )


if __name__ == "__main__":
    main()
