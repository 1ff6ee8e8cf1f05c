"""The run that each file of these tests explains."""

from __future__ import annotations

import pytest

from toxfusion.runs.loaded import LoadedRun, load_own_study, load_run
from toxfusion.training.folder import RunFolder


@pytest.fixture(scope="module")
def run(full: RunFolder) -> LoadedRun:
    return load_run(full, *load_own_study(full))
