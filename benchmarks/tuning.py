"""Settings side by side on the tuning study: what the defaults of conf/ were chosen by.

    python benchmarks/tuning.py --study studies/tuning --output tuning --seeds 0 1 2 "a=" "b=size.dropout=0.2"

Each setting is a name and overrides of toxfusion.train; prints AUROC (severity: kappa) of its out-of-fold predictions,
averaged over seeds, and the mean of the four. Finished runs are skipped. This spends the study's test folds: no report
may use it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from toxfusion.evaluation import predictions
from toxfusion.evaluation.scoring import headline_scores, score_run

TASKS = ("lesions", "injury", "dili", "severity")


def run(arguments: argparse.Namespace, name: str, overrides: list[str]) -> dict[str, float | str]:
    """Train a setting on all folds and seeds; scores of its pooled test predictions."""
    outputs = arguments.output / name
    command = ["toxfusion.train", "-m", f"data.root={arguments.study}", f"paths.outputs={outputs}"]
    command += [
        f"split.n_folds={arguments.folds}",
        f"split.fold={','.join(map(str, range(arguments.folds)))}",
    ]
    command += [
        f"seed={','.join(map(str, arguments.seeds))}",
        "trainer.progress=false",
        "heatmaps=0",
        *overrides,
    ]
    command += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={arguments.jobs}"]
    subprocess.run([sys.executable, "-m", *command], check=True, stdout=subprocess.DEVNULL)
    files = [
        f
        for seed in arguments.seeds
        for f in sorted(outputs.glob(f"*/*/fold*_seed{seed}/predictions.parquet"))
    ]
    scores = score_run([predictions.read(file) for file in files], draws=2)
    values = headline_scores(scores).set_index("task")["value"].loc[list(TASKS)]
    return {"setting": name, **values.astype(float), "mean": float(values.mean())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("settings", nargs="+", help="NAME=OVERRIDE OVERRIDE ...")
    arguments = parser.parse_args()
    settings = [text.partition("=")[::2] for text in arguments.settings]
    for name, overrides in settings:
        scores = pd.DataFrame([run(arguments, name, overrides.split())])
        print(scores.to_string(index=False, header=False, float_format="%.3f"), flush=True)


if __name__ == "__main__":
    main()
