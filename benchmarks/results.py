"""Every preset, ablation, baseline and null on a virtual study that no setting was chosen on: writes docs/results.md.

    python benchmarks/results.py --output results --study-seed 31 --seeds 0 1 2 --jobs 2

Everything is one of the command lines, and each finished step is skipped when the command is repeated. Tile encoders
and features are shared by all runs of a fold. Runs are spread over ``--jobs`` processes, one thread each.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.retrieval import of_runs

PRESETS = (
    "full",
    "mirror",
    "tangle",
    "tangle_rec",
    "clip",
    "siglip",
    "ablation_nopretrain",
    "mcat",
    "survpath",
    "late_fusion",
    "abmil",
    "transmil",
    "snn",
)
ABLATIONS = (
    "ablation_noxattn",
    "ablation_noalign",
    "ablation_noorth",
    "ablation_wsi_only",
    "ablation_omics_only",
    "supervised_concat",
)
RANDOM_TILES = "ablation_random_tiles"
NULLS = ("null_permuted_labels", "null_shuffled_pairs", "null_shuffled_throughout", "null_random_network")
#: Their fits do not depend on the seed, or hardly: one seed.
BASELINES = (
    "meanpool_logistic",
    "pca_logistic",
    "pca_forest",
    "pca_boosting",
    "concat_logistic",
    "concat_forest",
    "concat_boosting",
    "metadata_logistic",
    "chemistry_logistic",
    "alt_ast_logistic",
)
PARTS = {
    "presets": PRESETS,
    "ablations": (*ABLATIONS, RANDOM_TILES),
    "nulls": NULLS,
    "baselines": BASELINES,
}
COHORT = ("size=study", "n_compounds=80", "times_h=[696.0]")
GRID = ("grid.max_tiles=32", "previews=false")


def command(*arguments: str, threads: int) -> None:
    """One command line of toxfusion; prints it, and stops with it when it fails."""
    print("$ python -m", *arguments, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", *arguments], check=True, env=environment)


def run_study(root: Path, given: argparse.Namespace) -> Path:
    """Write the study and run every experiment on every fold with every seed; returns the folder of runs."""
    study, runs = root / f"study-s{given.study_seed}", root / "runs"
    command(
        "toxfusion.synthesize",
        f"output={study}",
        f"seed={given.study_seed}",
        *COHORT,
        f"jobs={given.jobs}",
        threads=1,
    )
    command("toxfusion.extract", f"study={study}", "output=tiles", *GRID, threads=given.jobs)
    common = (
        f"split.fold={','.join(map(str, range(given.folds)))}",
        f"data.root={study}",
        f"paths.outputs={runs}",
        f"split.n_folds={given.folds}",
        "trainer.progress=false",
        "heatmaps=0",
        "hydra/launcher=joblib",
        f"hydra.launcher.n_jobs={given.jobs}",
        "hydra.launcher.verbose=10",
    )

    wanted = [name for part in given.parts for name in PARTS[part]]
    # Seed by seed, so that an interrupted study has whole tables of fewer seeds.
    for seed in given.seeds:
        names = [name for name in wanted if name not in BASELINES or seed == given.seeds[0]]
        if names:
            cells = (f"experiment={','.join(names)}", f"seed={seed}")
            command("toxfusion.train", "-m", *cells, *common, threads=1)
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--study-seed", type=int, default=31)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--document", type=Path, default=Path("docs/results.md"))
    given = parser.parse_args()
    write_document(run_study(given.output, given), given)


def write_document(runs: Path, given: argparse.Namespace) -> None:
    """Compare the runs and write the tables down; runs that are missing are named in the tables."""
    found = given.output / "comparison"
    command("toxfusion.compare", f"runs={runs}", f"output={found}", threads=1)
    seeds = " ".join(map(str, given.seeds))
    parts = " ".join(given.parts)
    shown = "\n".join(
        f"    {line}" for line in of_runs(runs).to_string(index=False, float_format="%.3f").splitlines()
    )
    given.document.write_text(
        "# Results on a virtual study\n\n"
        f"Written by `python benchmarks/results.py --study-seed {given.study_seed} --seeds {seeds} --folds "
        f"{given.folds} --parts {parts}`.\n\n"
        f"It is the virtual study of seed {given.study_seed}, on which no setting was chosen "
        f"({', '.join((*COHORT, *GRID))}). There are {given.folds} compound-disjoint folds, and "
        f"{len(given.seeds)} seeds of training for every network. Settings are those of conf/. They were chosen on the "
        "tuning studies of seeds 11, 23 and 101 to 103.\n\n"
        "No number here says anything about a real compound. See [the virtual study](explanation/virtual_study.md) for "
        "what it is, [methods](explanation/methods.md) for the rows, and [evaluation](explanation/evaluation.md) for "
        "the columns.\n\n"
        f"{(found / 'comparison.md').read_text().strip()}\n\n"
        "## Cross-modal retrieval\n\n"
        "Recall at 10 among the test samples of a fold that have both modalities, after pretraining, by instance; mean "
        "over folds and seeds (`benchmarks/retrieval.py`). `shuffled` pairs the test samples at random.\n\n"
        f"{shown}\n"
    )
    print(f"written: {given.document}")


if __name__ == "__main__":
    main()
