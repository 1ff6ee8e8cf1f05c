"""Which weights of fine-tuning are kept, and what that is worth on the test part: rules on the same trainings.

    python benchmarks/selection.py data.root=blca data=cohort tile_features=none experiment=survival_snn \
        split=predefined split.path=blca/splits/published.csv split.valid_folds=5 --folds 0 1 2 3 4 --members 0 1

Every validation scores its weights on the validation part, by which a rule chooses, and on the test part, by which the
rules are compared here; no training sees that. Rules: the last weights; those of the highest score; and the last unless
the highest gains more over them than once or (as in training) twice the error of the gain. Each with averaged weights
and without. Prints what each training keeps, and the mean over trainings of the test score that each rule ends with and
of its gain over the last weights as they are.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd

from toxfusion.config.entry import compose
from toxfusion.evaluation.selection import validation_score
from toxfusion.study.audit import Audit
from toxfusion.training.assemble import (
    Assembled,
    assemble,
    make_fold,
    make_tasks,
    open_study,
    study_gene_sets,
    with_nulls,
)
from toxfusion.training.choice import Score
from toxfusion.training.finetuning import FinetuningModule
from toxfusion.training.folder import RunFolder
from toxfusion.training.network import Stages, encode, finetune, part_predictions, pretrain
from toxfusion.training.settings import RunSettings
from toxfusion.training.tile_features import tile_features
from toxfusion.training.validation import TaskChoice


@dataclass(frozen=True)
class Validated:
    """Weights at one validation: their score there, and the share of test pairs that they rank right."""

    step: int
    score: Score
    tested: float


class Recording(TaskChoice):
    """Scores the test part too; what is kept does not depend on that."""

    def __init__(self, *positional: Any, of: Assembled, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.of = of
        self.validated: list[Validated] = []

    def score(self, trainer: L.Trainer, module: L.LightningModule) -> Score:
        score, test = super().score(trainer, module), self.of.fold.split.test
        assert isinstance(module, FinetuningModule)
        outputs = encode(self.of, test)
        table = part_predictions(self.of, module.predictor, "valid", test, outputs)
        self.validated.append(Validated(trainer.global_step, score, validation_score(table).value))
        return score


def trained(overrides: list[str], average: float) -> list[Validated]:
    """One training to its last step."""
    fixed = ["trainer.patience=null", "trainer.progress=false", f"optimizer.average={average}"]
    settings = RunSettings.read(compose("train", [*overrides, *fixed]))
    study, split = open_study(settings)
    audit, study = Audit(), with_nulls(settings, study, split)
    tasks = make_tasks(settings, study, split, audit)
    store = tile_features(settings, study, split, []) if settings.modality in ("both", "wsi") else None
    fold = make_fold(settings, study, split, tasks, store, audit)
    of = assemble(settings, fold, tasks, study_gene_sets(settings, study), audit)
    with tempfile.TemporaryDirectory() as folder:
        stages = Stages(RunFolder(Path(folder)), settings.trainer, [], resume=False)
        if settings.pretrain.steps > 0:
            pretrain(of, stages)
        recording: list[Recording] = []

        def choose(*positional: Any, **named: Any) -> TaskChoice:
            recording.append(Recording(*positional, of=of, **named))
            return recording[0]

        finetune(of, stages, choose=choose)
    return recording[0].validated


def rules(validated: list[Validated]) -> dict[str, Validated]:
    """What each rule keeps."""
    highest = max(validated, key=lambda v: v.score.value)
    last = validated[-1]
    gain, error = highest.score.gain_over(last.score)
    return {
        "last": last,
        "highest": highest,
        "one error": highest if gain > error else last,
        "two errors": highest if gain > 2 * error else last,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="+", help="of toxfusion.train")
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--members", type=int, nargs="+", default=[0], help="seeds; also split.valid_fold")
    arguments = parser.parse_args()
    kept_by_rule = []
    for fold in arguments.folds:
        for member in arguments.members:
            own = [*arguments.overrides, f"split.fold={fold}", f"seed={member}"]
            if any(o.startswith("split.valid_folds=") for o in own):
                own.append(f"split.valid_fold={member}")
            plain, averaged = trained(own, 0.0), trained(own, 0.1)
            for weights, validated in (("plain", plain), ("averaged", averaged)):
                for rule, kept in rules(validated).items():
                    gain = kept.tested - plain[-1].tested
                    kept_by_rule.append((fold, member, weights, rule, kept.step, kept.tested, gain))
            print(f"fold {fold}, member {member}: done", flush=True)
    columns = ["fold", "member", "weights", "rule", "step", "tested", "gain"]
    table = pd.DataFrame(kept_by_rule, columns=columns)
    summary = table.groupby(["weights", "rule"], sort=False).agg(
        trainings=("step", "size"),
        step=("step", "mean"),
        tested=("tested", "mean"),
        gain=("gain", "mean"),
        error=("gain", lambda g: g.std(ddof=1) / np.sqrt(len(g)) if len(g) > 1 else np.nan),
        worst=("gain", "min"),
    )
    print(table.round(4).to_string())
    print(summary.round(4).to_string())


if __name__ == "__main__":
    main()
