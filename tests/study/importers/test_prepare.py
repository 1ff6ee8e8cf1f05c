"""``prepare`` on the command line: what it prints, how it refuses, and that its files say what the importers take."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from toxfusion.config.entry import compose
from toxfusion.config.folders import config_dir
from toxfusion.config.nodes import build, located
from toxfusion.prepare import main
from toxfusion.study.split import Split
from toxfusion.study.study import Study

SOURCES = sorted(p.stem for p in (config_dir() / "source").glob("*.yaml"))
SPLITS = sorted(p.stem for p in (config_dir() / "split").glob("*.yaml"))


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"v": [9, 1], "t": [4, 6], "extra": [1, 1]}, index=["Alb", "Hmox1"]).to_csv("counts.csv")
    Path("samples.csv").write_text("sample_id,compound,dose,dili\nv,drug,0,1\nt,drug,5,1\n")
    return ["output=study", "source.expression=counts.csv", "source.samples=samples.csv"]


def test_own_tables_on_the_command_line(tables: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["source=counts", *tables, "source.name=mine"])
    printed = capsys.readouterr().out
    assert "study 'mine' in study" in printed
    assert "samples: 2 (1 vehicle controls), 2 with expression, 0 with slides" in printed
    assert "DILI: 1 compounds positive" in printed
    assert "1 profile dropped in prepare: not in the sample table" in printed
    assert Study.open("study").expression[1, 0] == pytest.approx(18.6096, abs=1e-3)  # log2(400,001)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=study"], "source"),
        (["source=counts", "output=study", "source.samples=s.csv"], "source.expression"),
        (["source=count", "output=study"], "counts"),
        (["source=counts", "source.speces=Mouse"], "source.species"),
        (
            ["source=counts", "source.expression=gone.csv", "source.samples=samples.csv", "output=study"],
            "gone.csv",
        ),
    ],
)
def test_refusals_name_the_key(
    tables: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("study").exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from toxfusion.prepare import main; main(['--help']); "
        "print({'numpy', 'pandas', 'anndata', 'torch', 'hydra'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.rstrip().endswith("set()")
    assert "counts | features | matrix | mudata | spatial | tcga | tggates" in ran.stdout


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "counts"])
def test_a_source_file_holds_every_setting_of_its_importer(source: str) -> None:
    node = yaml.safe_load((config_dir() / "source" / f"{source}.yaml").read_text())
    importer = located(node["_target_"], "source")
    for group, option in (d.popitem() for d in node.pop("defaults", []) if isinstance(d, dict)):
        node[group] = build(yaml.safe_load((config_dir() / "source" / group / f"{option}.yaml").read_text()))
    settings = {k for k in node if not k.startswith("_")}
    parameters = dict(list(inspect.signature(importer).parameters.items())[1:])
    assert settings == set(parameters)
    for key, parameter in parameters.items():
        if parameter.default is not parameter.empty:
            assert node[key] == parameter.default, key


@pytest.mark.parametrize("scheme", SPLITS)
def test_a_split_file_holds_every_setting_of_its_scheme(
    scheme: str, tiny_study: Study, tmp_path: Path
) -> None:
    path = ["split.path=folds.csv"] if scheme == "predefined" else []
    node = compose("train", ["data.root=study", f"split={scheme}", *path])["split"]
    target = located(node["_target_"], "split")
    assert {k for k in node if k != "_target_"} == set(inspect.signature(target).parameters)
    if scheme == "predefined":
        part = tiny_study.obs["compound"].eq("gammacin").map({True: "test", False: "train"})
        pd.DataFrame({"sample_id": part.index, "fold": 0, "part": part}).to_csv(
            tmp_path / "p.csv", index=False
        )
        node["path"] = str(tmp_path / "p.csv")
    if scheme == "mechanism_kfold":
        # One unit joins both mechanisms of the small study.
        node["keep_compounds"] = False
    if "n_folds" in node:
        node["n_folds"] = 2
    split = build(node)(tiny_study)
    assert isinstance(split, Split)
    assert split.test


def test_the_composed_source_is_the_file(tables: list[str]) -> None:
    config = compose("prepare", ["source=counts", *tables])
    assert config["source"]["kind"] == "counts"
    assert config["source"]["species"] == "Rattus norvegicus"
