"""The card of a bundle: what it was trained on, how it did on held-out compounds, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from toxfusion.evaluation.families import FAMILIES
from toxfusion.evaluation.scoring import headline_scores
from toxfusion.evaluation.templates import templates
from toxfusion.runs.new_study import called_tasks, fitted_platt, validation_units
from toxfusion.study.rules import EXPRESSION_FILE
from toxfusion.study.split import PARTS
from toxfusion.study.study import Study, virtual_setting
from toxfusion.training.folder import RunFolder

TAGS = ["computational-pathology", "transcriptomics", "multimodal", "self-supervised-learning", "toxicology"]
SUSPECT_AUROC = 0.90


def model_card(
    folders: Sequence[RunFolder], scores: pd.DataFrame, *, name: str, licence: str | None, version: str
) -> str:
    """Markdown with the front matter of the Hugging Face hub.

    Args:
        folders: the runs of the bundle.
        scores: of ``score_run`` over their test parts.
        name: of the bundle.
        licence: an identifier of the hub; None leaves it out.
        version: of toxfusion.
    """
    config = folders[0].read_config()
    study = _study(Path(config["data"]["root"]))
    scored = headline_scores(scores)
    scored = scored[scored["value"].notna()]
    data_name = Path(config["data"]["root"]).name
    meta = ModelCardData(
        library_name="toxfusion",
        license=licence,
        tags=TAGS,
        model_name=name,
        eval_results=[_result(score, data_name) for score in scored.to_dict("records")] or None,
    )
    valid = validation_units(folders)
    tasks = called_tasks(folders[0].read_predictions())
    return (
        templates("toxfusion.runs", escaped=False)
        .get_template("model_card.md")
        .render(
            front_matter=meta.to_yaml(),
            name=name,
            version=version,
            config=config,
            study=study,
            setting=virtual_setting(study.provenance) if study is not None and study.virtual else "",
            data_name=data_name,
            runs=[_run(folder) for folder in folders],
            scores=scored.to_dict("records"),
            chance={family: rule.chance for family, rule in FAMILIES.items()},
            suspect=[
                score["task"]
                for score in scored.to_dict("records")
                if score["metric"] == "auroc" and score["value"] > SUSPECT_AUROC
            ],
            calibration=[(task, *fitted_platt(valid, task)) for task in tasks],
            contract=folders[0].read_trained()["contract"],
            nulls=[key for key in ("permute_labels", "shuffle_pairs") if config[key]],
        )
    )


def _study(root: Path) -> Study | None:
    """The study that the runs were trained on, where it still is."""
    return Study.open(root) if (root / EXPRESSION_FILE).is_file() else None


def _run(folder: RunFolder) -> dict[str, Any]:
    """Fold, seed, scheme, and samples and compounds of each part."""
    config, obs = folder.read_config(), folder.read_embeddings().obs
    parts = {part: obs[obs["part"] == part] for part in PARTS}
    return {
        "fold": config["split"]["fold"],
        "seed": config["seed"],
        "scheme": config["split"]["_target_"].rpartition(".")[2],
        **{part: f"{len(samples)} of {samples['compound'].nunique()}" for part, samples in parts.items()},
    }


def _result(score: dict[Any, Any], data_name: str) -> EvalResult:
    return EvalResult(
        task_type="tabular-classification" if FAMILIES[score["family"]].two_class else "tabular-regression",
        task_name=str(score["task"]),
        dataset_type=data_name,
        dataset_name=data_name,
        dataset_split="test",
        metric_type=str(score["metric"]),
        metric_name=f"{score['metric']} (95 % {score['low']:.3f} to {score['high']:.3f})",
        metric_value=round(float(score["value"]), 4),
    )
