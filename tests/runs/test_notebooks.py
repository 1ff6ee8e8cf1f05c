"""The notebooks of the documentation run from top to bottom, on the small study and a run of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import pytest

from tests.training.small_runs import SMALL, STORED
from toxfusion.study.study import Study

NOTEBOOKS = Path(__file__).resolve().parents[2] / "docs" / "notebooks"


def execute(name: str, **parameters: Any) -> dict[str, Any]:
    """Run the code cells in one namespace, with other parameters; returns it."""
    matplotlib.use("agg")
    names: dict[str, Any] = {"__name__": name}
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            unknown = parameters.keys() - names.keys()
            assert not unknown, f"{name} has no parameter {unknown}"
            names.update(parameters)
    plt.close("all")
    return names


def test_a_study_becomes_a_batch(finished_run: tuple[Study, Path]) -> None:
    study, _ = finished_run
    names = execute("data_to_batch", STUDY=str(study.root), OVERRIDES=[*SMALL, *STORED])
    batch = names["batch"]
    assert batch.sample_ids == names["start"].train[:6]
    assert batch.expression.shape == (6, names["start"].fold.n_genes)
    assert int(batch.tiles.offsets[-1]) == len(batch.tiles.features) > 0
    assert "dili" in batch.labels


def test_a_fusion_of_ones_own_learns(finished_run: tuple[Study, Path]) -> None:
    study, _ = finished_run
    names = execute("own_fusion", STUDY=str(study.root), OVERRIDES=[*SMALL, *STORED], STEPS=15)
    assert type(names["network"].fusion).__name__ == "LargestFusion"
    assert names["losses"][-1] < names["losses"][0] - 0.05


def test_a_finished_run_predicts_and_explains(finished_run: tuple[Study, Path]) -> None:
    study, folder = finished_run
    names = execute("finished_run", STUDY=str(study.root), RUN=str(folder))
    assert set(names["risks"].query("task == 'dili'")["unit_id"]) <= set(study.obs["compound"])
    assert names["vectors"].n_obs > 0
    assert len(names["tiles"]) == len(names["loaded"].batch([names["sample"]]).tiles.features)
    assert names["genes"].integrated.shape == names["genes"].change.shape
    assert names["genes"].checks["converged"].all()


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_hold_no_output(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
