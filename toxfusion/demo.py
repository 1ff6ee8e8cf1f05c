"""``python -m toxfusion.demo``: the whole way from a virtual study to the table of ablations, in minutes.

Every step is one of the command lines, printed before it runs, so that each can be repeated alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


@entry_point("demo")
def main(config: dict[str, Any]) -> None:
    """Synthesize a study, pretrain, fine-tune, ablate and compare on held-out compounds; ends in one page.

    Examples:
      toxfusion demo
      toxfusion demo output=mine jobs=8 experiments=[full,ablation_noxattn]
      toxfusion demo output=larger seed=2 compounds=200 folds=5 seeds=[0,1,2]
    """
    from toxfusion import compare, extract, synthesize

    root = Path(config["output"])
    study, runs = root / "study", root / "runs"
    began = time.monotonic()
    jobs = config["jobs"]
    _run(
        "synthesize",
        synthesize.main,
        [
            f"output={study}",
            "size=demo",
            f"seed={config['seed']}",
            f"setting={config['setting']}",
            f"jobs={jobs}",
            *([] if config["compounds"] is None else [f"n_compounds={config['compounds']}"]),
        ],
    )
    _run("extract", extract.main, [f"study={study}", "output=tiles", "previews=false"])
    # Training would do this too, in the first cell while the others wait; here it has all cores.
    features = ["output=features", "input=tiles", "encoder=imagenet", "name=imagenet-default"]
    _run("extract", extract.main, [f"study={study}", *features])
    few = root / "runs_few"
    _sweep(config, study, runs, config["experiments"])
    _sweep(config, study, few, config["experiments_few"], f"task.budget={config['budget']}")
    for folder, tables in ((runs, root / "comparison"), (few, root / "comparison_few")):
        _run("compare", compare.main, [f"runs={folder}", f"output={tables}"])
    page = _show(config, root, runs)
    print(
        f"\n{(time.monotonic() - began) / 60:.1f} min. Open {page}: the table, a lesion, its genes, and what they mean."
    )


def _run(name: str, command: Callable[..., None], arguments: list[str]) -> None:
    print(f"\n$ python -m toxfusion.{name} {' '.join(arguments)}", flush=True)
    command(arguments)


def _sweep(config: dict[str, Any], study: Path, runs: Path, experiments: list[str], *overrides: str) -> None:
    """Experiments on every fold, cells side by side."""
    from toxfusion import train

    folds = range(config["folds"])
    _run(
        "train",
        train.main,
        [
            "-m",
            f"experiment={','.join(experiments)}",
            f"split.fold={','.join(map(str, folds))}",
            f"split.n_folds={config['folds']}",
            f"seed={','.join(map(str, config['seeds']))}",
            f"data.root={study}",
            "size=demo",
            f"paths.outputs={runs}",
            "heatmaps=0",
            "trainer.progress=false",
            "hydra/launcher=joblib",
            f"hydra.launcher.n_jobs={config['jobs']}",
            "hydra.launcher.verbose=10",
            *overrides,
        ],
    )


def _show(config: dict[str, Any], root: Path, runs: Path) -> Path:
    """The page of the demo, of the first fold of the full method; returns it."""
    from toxfusion.report.demo_page import Compared, write_demo_page
    from toxfusion.training.folder import RunFolder

    full = RunFolder(
        next(f.parent for f in sorted(runs.glob(f"*/full*/fold0_seed{config['seeds'][0]}/done.json")))
    )
    compared = Compared.read(root / "comparison", root / "comparison_few", config["budget"])
    links = {
        "All comparisons, learned from all labels": root / "comparison" / "comparison.html",
        "All comparisons, learned from few": root / "comparison_few" / "comparison.html",
        "The run that is drawn here: curves, predictions, config": full.root,
        "The study, with its truth": root / "study",
    }
    return write_demo_page(root, full, compared, links)


if __name__ == "__main__":
    main()
