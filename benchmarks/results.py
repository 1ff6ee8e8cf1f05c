"""Every experiment on virtual studies that no setting was chosen on: writes docs/results.md.

    python benchmarks/results.py --output results --seeds 21 --jobs 2

Everything is one of the command lines, each finished step is skipped when the command is repeated, and the folds of one
study share their tile encoders. Runs are spread over ``--jobs`` processes, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

EXPERIMENTS = (
    "full",
    "ablation_nopretrain",
    "ablation_noxattn",
    "ablation_wsi_only",
    "ablation_omics_only",
    "ablation_noorth",
    "ablation_noalign",
    "ablation_random_tiles",
    "supervised_concat",
    "meanpool_logistic",
    "pca_logistic",
    "concat_logistic",
    "metadata_logistic",
    "chemistry_logistic",
)
NULLS = ("null_permuted_labels", "null_shuffled_pairs")
COHORT = ("size=study", "n_compounds=40")
GRID = ("grid.max_tiles=32", "previews=false")


def command(*arguments: str, threads: int) -> None:
    """One command line of toxfusion; prints it, and stops with it when it fails."""
    print("$ python -m", *arguments, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", *arguments], check=True, env=environment)


def run_study(root: Path, seed: int, folds: int, jobs: int) -> Path:
    """Write the study of a seed and run every experiment on every fold; returns the folder of runs."""
    study, runs = root / f"study-s{seed}", root / "runs"
    command("toxfusion.synthesize", f"output={study}", f"seed={seed}", *COHORT, f"jobs={jobs}", threads=1)
    command("toxfusion.extract", f"study={study}", "output=tiles", *GRID, threads=jobs)
    common = (
        f"data.root={study}",
        f"paths.outputs={runs}",
        f"split.n_folds={folds}",
        "trainer.progress=false",
    )

    def cells(job: tuple[tuple[str, ...], int]) -> None:
        experiments, k = job
        named = f"experiment={','.join(experiments)}"
        command("toxfusion.train", "-m", named, f"split.fold={k}", *common, threads=1)

    rest = tuple(e for e in (*EXPERIMENTS, *NULLS) if e != "full")
    # The first run of a fold trains its tile encoder and writes the features that the others of the fold read.
    rounds = (
        [(("full",), k) for k in range(folds)],
        [(("ablation_random_tiles",), 0)],
        [(half, k) for k in range(folds) for half in (rest[::2], rest[1::2])],
    )
    for jobs_of_round in rounds:
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(cells, jobs_of_round))
    return runs


def retrieval(runs: Path) -> pd.DataFrame:
    """Recall at 10 by instance, mean over folds and studies, beside chance."""
    rows = []
    for file in sorted(runs.glob("*/*/*/metrics.json")):
        for record in json.loads(file.read_text()).get("retrieval", []):
            if record["match"] == "instance" and record["metric"] == "recall_at_10":
                rows.append({"experiment": file.parents[1].name.partition("_split")[0], **record})
    table = pd.DataFrame(rows)
    return table.groupby(["experiment", "direction"])[["value", "chance", "shuffled"]].mean().reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[21])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--document", type=Path, default=Path("docs/results.md"))
    given = parser.parse_args()
    for seed in given.seeds:
        runs = run_study(given.output, seed, given.folds, given.jobs)
    write_document(runs, given.output / "comparison", given.document, given.seeds, given.folds)


def write_document(runs: Path, found: Path, document: Path, seeds: list[int], folds: int) -> None:
    """Compare the runs and write the tables down; runs that are missing are named in the tables."""
    command("toxfusion.compare", f"runs={runs}", f"output={found}", threads=1)
    named = " ".join(map(str, seeds))
    shown = "\n".join(
        f"    {line}" for line in retrieval(runs).to_string(index=False, float_format="%.3f").splitlines()
    )
    document.write_text(
        "# Results on virtual studies\n\n"
        f"Written by `python benchmarks/results.py --seeds {named} --folds {folds}`: virtual studies of "
        f"seeds that no setting was chosen on ({', '.join((*COHORT, *GRID))}), {folds} "
        "compound-disjoint folds, one seed of training. "
        "No number here says anything about a real compound; what the study is, says [synthetic.md](synthetic.md), and "
        "what each column means, [evaluation.md](evaluation.md).\n\n"
        f"{(found / 'comparison.md').read_text().strip()}\n\n"
        "## Cross-modal retrieval\n\n"
        "Recall at 10 among the test samples of a fold that have both modalities, after pretraining, by instance; mean "
        "over folds. `shuffled` pairs the test samples at random.\n\n"
        f"{shown}\n"
    )
    print(f"written: {document}")


if __name__ == "__main__":
    main()
