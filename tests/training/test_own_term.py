"""A term of pretraining from a user's own package: one class, one file of conf, and nothing else."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pandas as pd
import pytest

from tests.feature_store import featured_study
from tests.training.small_runs import SMALL, STORED
from tests.training.small_training import FEATURES, GENES, config, pretraining
from toxfusion import train
from toxfusion.objectives.terms.term import NetworkShape, PretrainingError, Term
from toxfusion.objectives.terms.term_set import ListedTerm, TermSet, TermSettings, ViewSettings
from toxfusion.objectives.terms.view import MissingPart, View
from toxfusion.training.checkpoint import read_checkpoint
from toxfusion.training.folder import RunFolder

CLASS = """
    import torch
    from torch import nn
    from toxfusion.objectives.terms.term import Term


    class ShortVectors(Term):
        branches = ("bag",)

        def __init__(self, shape, *, power):
            super().__init__()
            self.power = power
            self.gain = nn.Parameter(torch.ones(shape.width))

        def forward(self, view, network):
            vector = self.gain * view.slide.vector
            self.beside = {"length": vector.detach().norm(dim=1).mean()}
            return vector.abs().pow(self.power).mean()
"""
NODE = """
    defaults:
      - full
      - _self_
    weights: {short: 0.2}
    terms:
      short: {_target_: own_package.terms.ShortVectors, power: 1.5}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a package of one class and a conf folder of one file; returns the conf folder."""
    for path, text in (("own_package/terms.py", CLASS), ("conf/pretrain/short.yaml", NODE)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "conf"


def test_a_term_of_ones_own_is_trained_logged_and_weighed_from_the_command_line(
    own: Path, tmp_path: Path
) -> None:
    study = featured_study(tmp_path / "study")
    outputs = tmp_path / "outputs"
    small = [*SMALL, *STORED, "task=none", "size.pretrain_steps=12", f"data.root={study.root}"]
    asked = ["pretrain=short", "pretrain.weights.short=0.3", "pretrain.terms.short.power=2", "name=own"]
    train.main(["--config-dir", str(own), *small, *asked, f"paths.outputs={outputs}"])
    (done,) = outputs.rglob("done.json")
    folder = RunFolder(done.parent)
    history = pd.read_csv(folder.history)
    assert {"train/short", "valid/short", "monitor/short_length"} <= set(history["name"])
    saved = folder.read_config()["pretrain"]
    assert saved["weights"]["short"] == 0.3
    assert saved["terms"]["short"] == {"_target_": "own_package.terms.ShortVectors", "power": 2}
    gain = read_checkpoint(folder.stage("pretrain") / "best.ckpt")["state_dict"]["terms.terms.short.gain"]
    assert (gain != 1).any()


class Greedy(Term):
    """Reads a half of the bags that it did not ask for."""

    def __init__(self, shape: NetworkShape) -> None:
        super().__init__()

    def forward(self, view: View, network: object) -> object:  # type: ignore[override]
        return view.hidden_tiles


SHAPE = NetworkShape(32, 16, 16, GENES, FEATURES, 1, False)


def listed(kind: object, weights: dict[str, float]) -> TermSet:
    term = ListedTerm(kind, kind)  # type: ignore[arg-type]
    settings = TermSettings({"mine": term}, weights, ViewSettings(0.3, 0.5, 8, 8))
    return TermSet(pretraining(config("pretrain=clip")).network, settings, SHAPE)


@pytest.mark.parametrize(
    ("kind", "weights", "says"),
    [
        (Greedy, {}, r"pretrain.terms.mine: has no weight; give pretrain.weights.mine"),
        (Greedy, {"mine": -1.0}, r"pretrain.weights.mine=-1.0: a weight is 0"),
        (Greedy, {"mine": "much"}, r"pretrain.weights.mine=much: a weight is 0"),
        (Greedy, {"mine": None}, r"pretrain.weights.mine=None: a weight is 0"),
        (Greedy, {"mine": float("nan")}, r"pretrain.weights.mine=nan: a weight is 0"),
        (Greedy, {"mine": 0.0}, r"no term applies to modality=both"),
        (dict, {"mine": 1.0}, r"pretrain.terms.mine: <class 'dict'> is no subclass of .*\.Term"),
    ],
)
def test_a_list_that_does_not_fit_is_refused_by_key(
    kind: object, weights: dict[str, float], says: str
) -> None:
    with pytest.raises(PretrainingError, match=says):
        listed(kind, weights)


def test_what_a_term_did_not_ask_for_is_not_there() -> None:
    assert not pretraining(config("pretrain=clip")).terms.needs
    greedy = listed(Greedy, {"mine": 1.0})
    view = View(None, None, None)  # type: ignore[arg-type]
    with pytest.raises(MissingPart, match="a term of pretraining reads hidden_tiles"):
        greedy(view, None)
