"""Cross-modal retrieval of finished runs, experiment by experiment, beside chance: do pairs matter?

    python -m toxfusion.train -m experiment=full,null_shuffled_pairs data=spatial data.root=studies/her2st task=none \\
        split=section_kfold split.fold=0,1 seed=0,1 size=demo
    python benchmarks/retrieval.py outputs/her2st

Recall at 10 by instance among the test samples of a fold that have both modalities, after pretraining: mean, least and
highest over folds and seeds. ``shuffled`` pairs the test samples at random. Runs of `null_shuffled_pairs` were
pretrained on slides and profiles that do not belong together.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd


def of_runs(runs: Path) -> pd.DataFrame:
    """Recall at 10 of all runs below a folder: mean, least and highest by experiment and direction, and chance."""
    recalls = []
    for file in sorted(runs.rglob("metrics.json")):
        for record in json.loads(file.read_text()).get("retrieval", []):
            if record["match"] == "instance" and record["metric"] == "recall_at_10":
                recalls.append({"experiment": file.parents[1].name.partition("_split")[0], **record})
    if not recalls:
        raise SystemExit(f"{runs}: no finished run with two modalities below it")
    by = pd.DataFrame(recalls).groupby(["experiment", "direction"])
    columns = {"value": ["mean", "min", "max", "count"], "chance": ["mean"], "shuffled": ["mean"]}
    table = by[list(columns)].agg(columns)
    table.columns = ["mean", "least", "highest", "runs", "chance", "shuffled"]
    return table.reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="a folder with runs below it")
    print(of_runs(parser.parse_args().runs).to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
