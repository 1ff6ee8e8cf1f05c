"""Finished runs as a Python user meets them: ``toxfusion.load(folder)``, then predict and embed a study."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

from toxfusion.runs.loaded import LoadedRun, encode_slides, load_own_study, load_run
from toxfusion.runs.new_study import score_study
from toxfusion.study.audit import Audit
from toxfusion.study.split import Split
from toxfusion.study.study import Study
from toxfusion.training.folder import RunFolder
from toxfusion.training.outputs import embeddings_table


@dataclass(frozen=True)
class Run:
    """A finished run of a network, by its folder.

    Nothing is read before it is asked for, and no label of a study is looked at.
    """

    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that the run was made with."""
        return RunFolder(self.folder).read_config()

    def on(self, study: Study | str | PathLike[str] | None = None) -> LoadedRun:
        """The network of the run on a study: batches, vectors, and numbers with gradient.

        Args:
            study: a study or its folder; the run's own, with its split, where None. Slides of another study are
                encoded first, as far as they are not.

        Raises:
            RunError: the run is not finished, or of no network.
            StudyError: the folder is no study.
        """
        folder = RunFolder(self.folder)
        if study is None:
            return load_run(folder, *load_own_study(folder))
        opened = _opened(study)
        encode_slides(folder, opened)
        everything = Split([], [], opened.sample_ids, fold=0, manifest={"transductive": True})
        return load_run(folder, opened, everything)

    def predict(self, study: Study | str | PathLike[str]) -> pd.DataFrame:
        """Calibrated risks of every unit of a study, as ``toxfusion predict`` writes them for one run.

        Returns:
            One row a task and unit: risk, its bounds, the distance from the training study, and whether to abstain.
        """
        return score_study([self.folder], _opened(study), Audit()).units

    def embed(self, study: Study | str | PathLike[str] | None = None) -> anndata.AnnData:
        """Fused vectors of every sample that the run can read, with the gate and the shared parts beside.

        Returns:
            AnnData whose X is float32 [n, W]; obs has the columns of the study; obsm the shared parts.
        """
        loaded = self.on(study)
        outputs = loaded.embed(loaded.fold.usable(loaded.fold.sample_ids))
        return embeddings_table(loaded.fold, outputs)


def load(folder: str | PathLike[str]) -> Run:
    """A finished run, by its folder.

    Raises:
        RunError: no finished run lies there.
    """
    RunFolder(Path(folder)).read_config()
    return Run(Path(folder))


def _opened(study: Study | str | PathLike[str]) -> Study:
    return study if isinstance(study, Study) else Study.open(Path(study))
