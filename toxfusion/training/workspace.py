"""The workspace of a W&B project, from the names under which runs log; built without an account."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from toxfusion.evaluation.families import FAMILIES
from toxfusion.study.files import replace_file
from toxfusion.study.vocabulary import title_of
from toxfusion.tasks.biochemistry import Biochemistry
from toxfusion.tasks.dili import Dili
from toxfusion.tasks.injury import Injury
from toxfusion.tasks.lesions import Lesions
from toxfusion.tasks.severity import Severity
from toxfusion.tasks.subtype import Subtype
from toxfusion.tasks.survival import Survival
from toxfusion.training.wandb import FIGURES, GATES, METRICS, PREDICTIONS, STEP

GROUP = "Group"
KINDS = (Dili, Injury, Lesions, Severity, Survival, Subtype, Biochemistry)
HEADLINES = {kind.headline: kind.family for kind in KINDS}
"""Headline -> family of the tasks that have panels."""
TWO_CLASS = tuple(h for h, family in HEADLINES.items() if FAMILIES[family].two_class)
ENDS = ("", "_low", "_high")


class WorkspaceError(RuntimeError):
    """W&B does not take the workspace."""


def build_workspace(entity: str, project: str, name: str, *, terms: Sequence[str]) -> ws.Workspace:
    """Metrics and calibration by group, losses, collapse monitors and gates over steps, figures and tables.

    Runs are grouped as ``tracking.group_of`` names them: a bar or line is the mean over the folds and seeds of a
    group, with their range.

    Args:
        terms: of pretraining, as they are named in pretrain.terms.
    """
    pretraining = [_line(t, f"pretrain-train/{t}", f"pretrain-valid/{t}") for t in ("loss", *terms)]
    finetuning = [_line(t, f"finetune-train/{t}", f"finetune-valid/{t}") for t in ("loss", *HEADLINES)]
    sections: dict[str, list[Any]] = {
        "Test part": [_metric(headline) for headline in HEADLINES],
        "Calibration": [
            *(
                _bar(f"{title_of(h)}: calibration", *(f"test/{h}/{m}" for m in _CALIBRATION))
                for h in TWO_CLASS
            ),
            wr.MediaBrowser(title="ROC, PR and calibration", media_keys=[f"{FIGURES}/curves"]),
        ],
        "Losses of pretraining": pretraining,
        "Losses of fine-tuning": finetuning,
        "Validation of fine-tuning": [
            _line("score", "finetune-valid/score"),
            wr.LinePlot(title="metrics", x=STEP, metric_regex=_VALIDATION, groupby=GROUP),
        ],
        "Collapse monitors": [
            *(_line(m, *(f"pretrain-monitor/{m}_{x}" for x in ("slide", "expression"))) for m in _COLLAPSE),
            _line("alignment", "pretrain-monitor/alignment"),
            wr.LinePlot(title="of single terms", x=STEP, metric_regex=_TERM_MONITORS, groupby=GROUP),
        ],
        "Gates": [
            _line("weight of the slide", "pretrain-monitor/gate_slide", "finetune-monitor/gate_slide"),
            _bar("mean gate of the test part", "test/gate_slide", "test/gate_expression"),
            wr.WeavePanelSummaryTable(table_name=GATES),
        ],
        "Confusion and attention": [
            wr.MediaBrowser(title=key, media_keys=[f"{FIGURES}/{key}"]) for key in ("confusion", "heatmaps")
        ],
        "Tables": [wr.WeavePanelSummaryTable(table_name=key) for key in (METRICS, PREDICTIONS)],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[ws.Section(name=k, panels=panels, is_open=True) for k, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric(GROUP)]),
    )


def write_workspace(workspace: ws.Workspace, path: Path) -> None:
    """The specification of a workspace as JSON, which the package has checked against its own schema."""
    spec = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    content = {"entity": workspace.entity, "project": workspace.project, "name": workspace.name, "spec": spec}
    replace_file(path, json.dumps(content, indent=1).encode())


def save_workspace(workspace: ws.Workspace) -> str:
    """Save as a new workspace of its project; returns where it is.

    Raises:
        WorkspaceError: no account, or W&B refuses it.
    """
    try:
        return str(workspace.save().url)
    except (wandb.Error, ValueError, OSError) as error:
        raise WorkspaceError(
            f"entity={workspace.entity} project={workspace.project}: W&B does not take the workspace ({error}); "
            "`wandb login` first, or give save=false"
        ) from error


_CALIBRATION = ("brier", "ece", "calibration_slope")
_COLLAPSE = ("rank", "uniformity", "variance_private")
_VALIDATION = "^finetune-valid/.*_(auroc|auprc|quadratic_kappa|spearman|error)$"
_TERM_MONITORS = "^pretrain-monitor/.*_(accuracy|scale|skipped|entropy|kl|floor)$"


def _line(title: str, *names: str) -> wr.LinePlot:
    return wr.LinePlot(
        title=title, x=STEP, y=list(names), groupby=GROUP, groupby_aggfunc="mean", groupby_rangefunc="minmax"
    )


def _bar(title: str, *names: str) -> wr.BarPlot:
    return wr.BarPlot(
        title=title, metrics=list(names), groupby=GROUP, groupby_aggfunc="mean", groupby_rangefunc="minmax"
    )


def _metric(headline: str) -> wr.BarPlot:
    family = FAMILIES[HEADLINES[headline]]
    title = f"{title_of(headline)}: {family.metric_name}, low and high end of its 95 % interval"
    return _bar(title, *(f"test/{headline}/{family.metric}{end}" for end in ENDS))
