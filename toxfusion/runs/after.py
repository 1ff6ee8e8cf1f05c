"""What follows a finished run: its figures, and the rest of its run in Weights & Biases. Results are safe before."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from toxfusion.distributed.ranks import is_rank_zero
from toxfusion.evaluation import figures, predictions
from toxfusion.evaluation.figures import HEATMAP
from toxfusion.runs.loaded import load_own_study, load_run
from toxfusion.study.audit import Audit
from toxfusion.training.folder import RunError, RunFolder
from toxfusion.training.lock import only_run


def report(config: dict[str, Any]) -> None:
    """Draw a finished run's figures and log it to W&B, whichever of the two has not been done; rank zero only.

    A failure here loses no result: what cannot be drawn is in the run's audit.json, and a run that W&B did not take
    is logged when the same command line is given again.
    """
    folder = RunFolder(Path(config["paths"]["output"]))
    if not is_rank_zero() or folder.finished() is None:
        return
    with only_run(folder.root):
        if not folder.figures.is_dir():
            draw(config, folder)
        if config["logger"]["kind"] == "wandb":
            _track(config, folder)


def draw(config: dict[str, Any], folder: RunFolder) -> None:
    """Curves and confusion of the test part, and slides under their attention, into ``folder.figures``.

    What cannot be drawn is recorded in the run's audit.
    """
    part = folder.root / ".figures"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    audit = Audit()
    if folder.predictions.is_file():
        figures.held_out([predictions.read(folder.predictions)], part, title=config["name"])
    if config["heatmaps"] > 0 and (folder.stage("finetune") / "best.ckpt").is_file():
        _draw_heatmaps(config["heatmaps"], folder, part, audit)
    audit.write(folder.audit)
    part.replace(folder.figures)


def _draw_heatmaps(n: int, folder: RunFolder, target: Path, audit: Audit) -> None:
    try:
        from toxfusion.runs.heatmap import draw_slide, worst_slides
        from toxfusion.slides.faults import SlideError
    except ImportError as error:  # a machine that trains on features need not read slides
        audit.drop("figures", "heatmap", f"{n} slides", f"no slide can be read here: {error}")
        return
    run = load_run(folder, *load_own_study(folder))
    if run.network.bag is None:
        return
    for slide_id in worst_slides(run, n):
        path = target / f"{HEATMAP}{re.sub(r'[^A-Za-z0-9._-]+', '-', slide_id)}.png"
        try:
            draw_slide(run, slide_id, path)
        except (RunError, SlideError, OSError) as error:
            audit.drop("figures", "heatmap", slide_id, str(error))


def _track(config: dict[str, Any], folder: RunFolder) -> None:
    import wandb

    from toxfusion.training import wandb as tracking

    if tracking.is_complete(folder):
        return
    try:
        tracking.log_results(config, folder, sorted(folder.figures.glob("*.png")))
    except (wandb.Error, tracking.TrackingError, OSError) as error:
        print(
            f"{folder.root}: finished, but Weights & Biases did not take all of it ({error}); the same command line "
            "tries again",
            file=sys.stderr,
        )


def next_steps(config: dict[str, Any], *, brief: bool) -> str:
    """Where a finished run lies, what it holds, and which commands take it; "" where it is not finished.

    Args:
        brief: its place and validation score alone, for a cell of a sweep.
    """
    folder = RunFolder(Path(config["paths"]["output"]))
    done = folder.finished() if is_rank_zero() else None
    if done is None:
        return ""
    score = f", validation score {done['objective']:.3f}" if math.isfinite(done["objective"]) else ""
    lines = [f"finished: {folder.root}{score}"]
    if brief or config["method"] == "tile_encoder":
        return lines[0] + "\n"
    best = folder.stage("finetune") / "best.ckpt"
    kept = [best, folder.metrics, folder.predictions, folder.embeddings, folder.figures]
    lines += [
        f"  {file.relative_to(folder.root)}"
        for file in kept
        if file.is_file() or (file.is_dir() and any(file.iterdir()))
    ]
    if not folder.predictions.is_file():
        return "\n".join([*lines, *_recalls(folder)]) + "\n"
    lines += ["next:", f"  toxfusion evaluate run={folder.root}"]
    if best.is_file():
        folds = folder.root.parent
        lines += [
            f"  toxfusion explain run={folds}",
            f'  toxfusion predict "run={folds}/*" study=NEW_STUDY',
            f'  toxfusion export "run={folds}/*" output=bundles/{folds.name}',
        ]
    lines.append(f"  toxfusion compare runs={folder.root.parents[1]}")
    return "\n".join(lines) + "\n"


def _recalls(folder: RunFolder) -> list[str]:
    """What a run without a task is read by: a line a direction of retrieval, recall at 10 beside chance."""
    return [
        f"retrieval, {measured['direction'].replace('_', ' ')}: {measured['value']:.3f} among the first ten "
        f"(chance {measured['chance']:.3f}, {measured['n']} test samples)"
        for measured in json.loads(folder.metrics.read_text()).get("retrieval", [])
        if measured["metric"] == "recall_at_10" and measured["match"] == "instance"
    ]
