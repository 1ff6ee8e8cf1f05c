"""Finished runs of the small study, shared by the tests of what is done with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.feature_store import featured_study
from tests.training.small_runs import trained
from toxfusion.study.study import Study
from toxfusion.training.folder import RunFolder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The study, and the folder of a run of ``full`` on its first fold: read only."""
    root = tmp_path_factory.mktemp("finished")
    study = featured_study(root / "study")
    return study, trained(study, root).root


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return featured_study(tmp_path_factory.mktemp("studied") / "study")


@pytest.fixture(scope="module")
def short_run(study: Study, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of few steps; the tests of one file may write into it."""
    return trained(study, tmp_path_factory.mktemp("short"), "size.finetune_steps=3", "size.pretrain_steps=3")
