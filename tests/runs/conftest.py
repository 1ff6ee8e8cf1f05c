"""A finished run of the small study, shared by the tests of what is done with one: read only."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.feature_store import featured_study
from tests.training.test_run import small
from toxfusion.study.study import Study
from toxfusion.training.run import run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """The study, and the folder of a run of ``full`` on its first fold."""
    root = tmp_path_factory.mktemp("finished")
    study = featured_study(root / "study")
    config = small(study, root)
    run(config)
    return study, Path(config["paths"]["output"])
