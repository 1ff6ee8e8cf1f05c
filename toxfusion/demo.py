"""``python -m toxfusion.demo``: the whole way from a virtual study to the table of ablations, in minutes.

Every step is one of the command lines, printed before it runs, so that each can be repeated alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from toxfusion.config.entry import entry_point

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@entry_point("demo")
def main(config: dict[str, Any]) -> None:
    """Synthesize a study, pretrain, fine-tune, ablate and compare on held-out compounds; tables and figures.

    Examples:
      toxfusion demo
      toxfusion demo output=mine jobs=8 experiments=[full,ablation_noxattn]
    """
    import time
    from pathlib import Path

    from toxfusion import compare, extract, synthesize, train

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
        ],
    )
    _run("extract", extract.main, [f"study={study}", "output=tiles", "previews=false"])
    # Training would do this too, in the first cell while the others wait; here it has all cores.
    features = ["output=features", "input=tiles", "encoder=imagenet", "name=imagenet-default"]
    _run("extract", extract.main, [f"study={study}", *features])
    _run(
        "train",
        train.main,
        [
            "-m",
            f"experiment={','.join(config['experiments'])}",
            f"split.fold={','.join(map(str, range(config['folds'])))}",
            f"split.n_folds={config['folds']}",
            f"data.root={study}",
            "size=demo",
            f"paths.outputs={runs}",
            "heatmaps=0",
            "trainer.progress=false",
            "hydra/launcher=joblib",
            f"hydra.launcher.n_jobs={jobs}",
            "hydra.launcher.verbose=10",
        ],
    )
    _run("compare", compare.main, [f"runs={runs}", f"output={root / 'comparison'}"])
    _draw(study, runs, root / "figures")
    print(
        f"\n{(time.monotonic() - began) / 60:.1f} min. Tables: {root / 'comparison'}; figures: {root / 'figures'}"
    )


def _run(name: str, command: Callable[..., None], arguments: list[str]) -> None:
    print(f"\n$ python -m toxfusion.{name} {' '.join(arguments)}", flush=True)
    command(arguments)


def _draw(study: Path, runs: Path, folder: Path) -> None:
    """An embedding map of the test samples and a slide under its attention, of the first fold of the full method."""
    from toxfusion.runs.heatmap import draw_embeddings, draw_heatmap
    from toxfusion.training.folder import RunFolder

    full = next(f.parent for f in sorted(runs.glob("*/full*/fold0_seed0/done.json")))
    folder.mkdir(parents=True, exist_ok=True)
    draw_embeddings(RunFolder(full), folder / "embeddings.png")
    draw_heatmap(RunFolder(full), folder / "heatmap.png")


if __name__ == "__main__":
    main()
