"""Settings side by side on the tuning study: what the defaults of conf/ were chosen by.

    python benchmarks/tuning.py --study studies/tuning --output tuning "a=" "b=size.dropout=0.2"

Each setting is a name and overrides of toxfusion.train; prints the mean over test folds of the AUROC (severity: kappa).
The study is `toxfusion.synthesize seed=11 size=study n_compounds=48 times_h=[696.0]`; this spends its test folds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from toxfusion.evaluation import predictions
from toxfusion.evaluation.scoring import score_run


def run(study: Path, output: Path, name: str, overrides: list[str], folds: int) -> dict[str, float | str]:
    """Train a setting on some folds of five; mean of the scores of their test parts."""
    outputs = output / name
    command = ["toxfusion.train", "-m", f"data.root={study}", f"paths.outputs={outputs}", "split.n_folds=5"]
    command += [f"split.fold={','.join(map(str, range(folds)))}", "trainer.progress=false", *overrides]
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
    files = sorted(outputs.rglob("predictions.parquet"))
    scores = pd.concat([score_run(predictions.read(file), draws=2) for file in files])
    headline = scores[scores["metric"].isin(["auroc", "quadratic_kappa"])]
    found = headline.groupby("task")["value"].mean()
    return {
        "setting": name,
        **{task: float(found[task]) for task in ("lesions", "injury", "dili", "severity")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("settings", nargs="+", help="NAME=OVERRIDE OVERRIDE ...")
    given = parser.parse_args()
    settings = [text.partition("=")[::2] for text in given.settings]
    with ThreadPoolExecutor(given.jobs) as pool:
        rows = pool.map(lambda s: run(given.study, given.output, s[0], s[1].split(), given.folds), settings)
        for row in rows:
            print(pd.DataFrame([row]).to_string(index=False, header=False, float_format="%.3f"), flush=True)


if __name__ == "__main__":
    main()
