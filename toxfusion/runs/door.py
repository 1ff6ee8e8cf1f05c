"""Finished runs as a Python user meets them: ``toxfusion.load(folder)``, then predict and embed a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd

from toxfusion.runs.loaded import LoadedRun, encode_slides, load_own_study, load_run
from toxfusion.runs.named import named_runs
from toxfusion.runs.new_study import score_study
from toxfusion.study.audit import Audit
from toxfusion.study.split import Split
from toxfusion.study.study import Study
from toxfusion.training.folder import RunError, RunFolder
from toxfusion.training.outputs import embeddings_table

if TYPE_CHECKING:
    from mudata import MuData


@dataclass(frozen=True)
class Run:
    """Finished runs of one network: one, or the folds and seeds of an experiment, which predict together.

    Nothing is read before it is asked for, and no label of a study is looked at.

    Attributes:
        folders: one a run.
    """

    folders: tuple[RunFolder, ...]

    @property
    def members(self) -> list[Run]:
        """Each run by itself."""
        return [Run((folder,)) for folder in self.folders]

    @property
    def folder(self) -> Path:
        """Where the run lies; raises RunError where there are several."""
        return self._only().root

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration that the run was made with; raises RunError where there are several."""
        return self._only().read_config()

    def _only(self) -> RunFolder:
        if len(self.folders) > 1:
            raise RunError(
                f"{len(self.folders)} runs, each with a network and vectors of its own; take one of run.members"
            )
        return self.folders[0]

    def on(self, study: Study | str | PathLike[str] | None = None) -> LoadedRun:
        """The network of the run on a study: batches, vectors, and numbers with gradient.

        Args:
            study: a study or its folder; the run's own, with its split, where None. Slides of another study are
                encoded first, as far as they are not.

        Raises:
            RunError: the run is of no network, there are several, or it is of a bundle and no study is named.
            StudyError: the folder is no study.
        """
        folder = self._only()
        if study is None:
            return load_run(folder, *load_own_study(folder))
        opened = _opened(study)
        encode_slides(folder, opened)
        everything = Split([], [], opened.sample_ids, fold=0, manifest={"transductive": True})
        return load_run(folder, opened, everything)

    def predict(self, study: Study | str | PathLike[str]) -> pd.DataFrame:
        """Calibrated risks of every unit of a study, as ``toxfusion predict`` writes them.

        Returns:
            One row a task and unit: risk, its bounds, the distance from the training study, and whether to abstain.
        """
        return score_study(self.folders, _opened(study), Audit()).units

    def embed(self, study: Study | str | PathLike[str] | None = None) -> anndata.AnnData:
        """Fused vectors of every sample that the run can read, with the gate and the shared parts beside.

        Returns:
            AnnData whose X is float32 [n, W]; obs has the columns of the study; obsm the shared parts.
        """
        loaded = self.on(study)
        outputs = loaded.embed(loaded.fold.usable(loaded.fold.sample_ids))
        return embeddings_table(loaded.fold, outputs)

    def multimodal(self, study: Study | str | PathLike[str] | None = None) -> MuData:
        """Expression, slide vectors and fused vectors of the samples that the run can read, for muon and scvi-tools.

        Returns:
            MuData; modality ``expression`` is [n, G] log2 with the genes of the study, ``slides`` [n, S] the shared
            part of the slides and ``fused`` [n, W], each of the samples that have it. obs is that of `embed`;
            uns["trained_on"] of vectors names the compounds that the run saw.

        Raises:
            RunError: the package mudata is not installed; and as `on`.
        """
        try:
            from mudata import MuData
        except ImportError as error:
            raise RunError("the package mudata is not installed; pip install 'toxfusion[interop]'") from error
        loaded = self.on(study)
        fold = loaded.fold
        fused = embeddings_table(fold, loaded.embed(fold.usable(fold.sample_ids)))
        obs, seen = fused.obs.copy(), {"trained_on": list(loaded.contract["compounds"])}
        parts = {"fused": anndata.AnnData(fused.X, obs=obs[[]], uns=seen)}
        whole = fold.study
        profiled = [s for s in obs.index if whole.has_expression[whole.positions([s])[0]]]
        if profiled:
            values = np.asarray(whole.expression[whole.positions(profiled)])
            parts["expression"] = anndata.AnnData(values, obs=obs.loc[profiled, []], var=whole.var.copy())
        if "slide_shared" in fused.obsm:
            there = obs["has_slide"].to_numpy(dtype=bool)
            parts["slides"] = anndata.AnnData(
                fused.obsm["slide_shared"][there], obs=obs.loc[there, []], uns=seen
            )
        joined = MuData(parts)
        joined.obs = obs.loc[joined.obs_names]
        return joined


def load(name: str | PathLike[str], trust: Sequence[str] = ()) -> Run:
    """Finished runs, as ``toxfusion predict run=...`` takes them.

    Args:
        name: a run folder, a pattern of run folders, a bundle, or ``hf://owner/name`` of the Hugging Face hub.
        trust: packages beside toxfusion whose classes a bundle may name. Their code is run.

    Raises:
        RunError: no finished run lies there.
        BundleError: a bundle that is damaged, not trusted, or cannot be fetched.
    """
    return Run(tuple(named_runs(str(name), Audit(), trust)))


def _opened(study: Study | str | PathLike[str]) -> Study:
    return study if isinstance(study, Study) else Study.open(Path(study))
