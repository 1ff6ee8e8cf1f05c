"""Values of the wrong kind, shells and disks as they are: one sentence each, before any work."""

from __future__ import annotations

import errno
import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from toxfusion.config import environment
from toxfusion.config.entry import compose
from toxfusion.config.faults import ConfigError, system_fault
from toxfusion.config.nodes import check_targets
from toxfusion.config.values import check_arguments, check_numbers
from toxfusion.study.splits import CompoundKFold


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed=-1", "seed=-1: give a whole number from 0 to 4294967295"),
        ("seed=null", "seed=null: give a whole number"),
        ("seed=0.5", r"seed=0\.5: give a whole number"),
        ("heatmaps=null", "heatmaps=null: give a whole number of 0 or more"),
        ("heatmaps=-2", "heatmaps=-2: give a whole number of 0 or more"),
        ("split.n_folds=null", r"split\.n_folds=null: give a whole number of 2 or more"),
        ("split.n_folds=2.5", r"split\.n_folds=2\.5: give a whole number"),
        ("split.valid_fraction=null", r"split\.valid_fraction=null: give a number"),
        ("trainer.devices=0", r"trainer\.devices=0: give a whole number of 1 or more"),
        ("size.width=-4", r"size\.width=-4: give a whole number of 1 or more"),
        ("size.finetune_steps=null", r"size\.finetune_steps=null: give a whole number of 0 or more"),
        ("size.n_genes=0", r"size\.n_genes=0: give a whole number of 1 or more or null"),
        ("size.dropout=2", r"size\.dropout=2: give a number from 0 to 0\.99"),
        ("optimizer.finetune_lr=-1e-3", r"optimizer\.finetune_lr=-0\.001: give a number of 0 or more"),
        ("modality.dropout=null", r"modality\.dropout=null: give a number from 0 to 1"),
        ("logger=null", "logger=null: choose one of csv"),
        ("split=null", "split=null: choose one of"),
        ("~trainer", "~trainer: choose one of"),
        ("resume=maybe", "resume=maybe: give one of true, false"),
        ("trainer.precision=foo", r"trainer\.precision=foo: give one of 32-true, 16-mixed"),
        ("trainer.accelerator=tpus", r"trainer\.accelerator=tpus: give one of auto, cpu"),
        ("optimizer.average=2", r"optimizer\.average=2: give a number from 0 to 1"),
        ("task=[]", r"task=\[\]: choose one of"),
        ("pretrain.gene_mask=1.5", r"pretrain\.gene_mask=1\.5: give a number from 0 to 1"),
        ("pretrain.warm_start.own_weight=0", r"own_weight=0: give a number of 1 or more"),
        ("pretrain.warm_start.slide_ridge=0", r"slide_ridge=0: give a number of 1e-06 or more"),
        (
            "data.expression.n_genes=1.5",
            r"data\.expression\.n_genes=1\.5: give a whole number of 1 or more or null",
        ),
        ("data.expression.clip=nan", r"data\.expression\.clip=nan: give a number"),
        ("data.expression.clip_quantile=2", r"clip_quantile=2: give a number from 0 to 0\.5 or null"),
        ("task.weights.dili=-1", r"task\.weights\.dili=-1: give a number of 0 or more"),
        ("pretrain.weights.align=inf", r"pretrain\.weights\.align=inf: give a number of 0 or more"),
        ("split.valid_fraction=-1", r"split\.valid_fraction=-1: give a number from 0 to 1"),
        ("trainer.gradient_clip_val=nan", r"gradient_clip_val=nan: give a number of 0 or more or null"),
        ("optimizer.finetune_lr=inf", r"finetune_lr=inf: give a number of 0 or more"),
        ("bag.heads=-1", r"bag\.heads=-1: give a whole number of 1 or more"),
        ("permute_labels=maybe", "permute_labels=maybe: give one of true, false"),
        ("task.dili=3", r"task\.dili=3: give one of true, false"),
        ("paths.outputs=", "paths.outputs= has no value; is a shell variable empty"),
        ("data.root=", "data.root= has no value"),
        ("paths.outputs=null", "paths.outputs=null: give a folder"),
        ("data.root=null", "data.root=null: give a folder"),
        ("=5", "cannot read '=5': it has no key"),
    ],
)
def test_what_is_no_whole_number_or_group_is_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(override)


@pytest.mark.parametrize(
    ("source", "override", "message"),
    [
        ("matrix", "source.kind=raw", r"source\.kind=raw: give one of log2, counts"),
        ("matrix", "source.kind=null", r"source\.kind=null: give one of log2, counts"),
        (
            "matrix",
            "source.orientation=rows",
            r"source\.orientation=rows: give one of auto, genes_by_samples",
        ),
        ("matrix", "source.samples=[s.csv]", r"source\.samples=\['s\.csv'\]: give text"),
        ("spatial", "source.pitch_um=nan", r"source\.pitch_um=nan: give a number or null"),
    ],
)
def test_a_value_of_another_kind_than_its_source_takes_is_refused(
    source: str, override: str, message: str
) -> None:
    needed = {
        "matrix": ["source.expression=e.csv", "source.samples=s.csv"],
        "spatial": ["source.sections=[A1]"],
    }
    config = compose("prepare", [f"source={source}", "output=x", *needed[source], override])
    with pytest.raises(ConfigError, match=message):
        check_targets(config)


def test_an_empty_text_is_a_value_where_it_is_quoted() -> None:
    assert compose("train", ["data.root=x", "paths.variant=''"])["paths"]["variant"] == ""


def checked(*overrides: str) -> None:
    """Compose the configuration of a run and check its values, as the command line does."""
    config = compose("train", ["data.root=x", *overrides])
    check_numbers(config)
    check_targets(config)


def test_the_defaults_and_the_nulls_that_mean_something_pass() -> None:
    checked("trainer.patience=null", "split.valid_folds=null", "trainer.gradient_clip_val=null")
    for name in ("matrix", "counts"):
        table = ["source.expression=e.csv", "source.samples=s.csv"]
        check_targets(compose("prepare", [f"source={name}", "output=x", *table]))
    check_arguments("split", {"n_folds": 3, "valid_fraction": 0, "analogues": None}, CompoundKFold)
    with pytest.raises(ConfigError, match=r"split\.fold=true: give a whole number"):
        check_arguments("split", {"fold": True}, CompoundKFold)


@pytest.mark.parametrize("value", ["a=b", "a(b", "caf\u00e9 (1)"])
def test_a_value_that_the_grammar_takes_apart_is_shown_quoted(value: str) -> None:
    with pytest.raises(ConfigError) as refused:
        compose("train", [f"data.root={value}"])
    quoted = str(refused.value).partition("for the shell: '")[2].rstrip("'")
    assert quoted == f'data.root="{value}"'
    assert compose("train", [quoted])["data"]["root"] == value


def test_what_the_disk_refuses_is_one_sentence() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/out.h5ad")
    assert str(system_fault(full)) == (
        "/data/out.h5ad: cannot be written or read (No space left on device); free some of the disk, or give another "
        "folder"
    )
    in_words = OSError(
        "Can't write data (file write failed: errno = 28, error message = 'No space left on device')"
    )
    wrapped = RuntimeError("unable to save")
    wrapped.__cause__ = in_words
    assert "free some of the disk" in str(system_fault(wrapped))
    absent = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "/proc/x")
    assert "/proc/x: cannot be written or read (No such file or directory); a part of this path" in str(
        system_fault(absent)
    )
    after = ValueError("a fault of ours")
    after.__context__ = absent
    assert system_fault(after) is None
    assert system_fault(OSError("no such thing")) is None
    assert system_fault(ValueError("a fault of ours")) is None


def test_an_output_below_a_file_and_a_name_too_long_end_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "e.csv").write_text("gene,s1\nAlb,1\nMt1,2\n")
    (tmp_path / "s.csv").write_text("sample_id,compound,dose\ns1,a,0\n")
    source = [
        f"source.expression={tmp_path}/e.csv",
        f"source.samples={tmp_path}/s.csv",
        f"paths.outputs={tmp_path}/o",
    ]
    for output in (tmp_path / "file" / "study", tmp_path / ("x" * 300)):
        command = [sys.executable, "-m", "toxfusion.prepare", "source=matrix", *source, f"output={output}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert "give" in ended.stderr


def test_a_user_id_without_a_name_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        if name := os.environ.get("USER"):
            return name
        raise KeyError("getpwuid(): uid not found: 4242")

    for variable in environment.USER_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(getpass, "getuser", nameless)
    monkeypatch.setattr(environment, "remarks", [])
    environment.prepare_environment()
    assert os.environ["USER"] == f"uid{os.getuid()}"
    assert "has no name here" in environment.remarks[0]
    environment.prepare_environment()
    assert len(environment.remarks) == 1


def test_a_locale_without_utf8_is_left_for_utf8_mode(tmp_path: Path) -> None:
    folder = tmp_path / "Z\u00fcrich"
    folder.mkdir()
    (folder / "e.csv").write_text("gene,s1\nAlb,1\nMt1,2\n")
    (folder / "s.csv").write_text("sample_id,compound,dose\ns1,\u03b1-drug,0\n", encoding="utf-8")
    source = [
        f'source.expression="{folder}/e.csv"',
        f'source.samples="{folder}/s.csv"',
        f'output="{folder}/study"',
    ]
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", "toxfusion.prepare", "source=matrix", *source, f"paths.outputs={tmp_path}/o"],
        capture_output=True,
        env={**os.environ, **plain},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert (folder / "study" / "expression.h5ad").is_file()


@pytest.mark.parametrize(
    ("command", "override", "message"),
    [
        ("extract", "random=no", "random=no: give true or false"),
        ("extract", "previews=[]", r"previews=\[\]: give true or false"),
        ("extract", "grid=x", r"grid=x: give one of its keys: grid\.mpp=\.\.\."),
        ("extract", "grid.mpp=[1]", r"grid\.mpp=\[1\]: give a number"),
        ("extract", "grid.mpp=abc", r"grid\.mpp=abc: give a number"),
        ("extract", "grid.max_tiles=many", "give a whole number of 1 or more or null"),
        ("extract", "mpp_override=fine", "mpp_override=fine: give a number"),
        ("extract", "encoder=[imagenet,uni]", r"encoder=\[imagenet,uni\]: give one text"),
        ("explain", "gene_sets=null", r"gene_sets=null: give one of its keys: gene_sets\.programmes="),
        ("explain", "report=nein", "report=nein: give true or false"),
        ("doctor", "batch_permutations=x", "batch_permutations=x: give a whole number"),
        ("explain", "top_k=0", "top_k=0: give a whole number of 1 or more"),
        ("explain", "n_slides=-1", "n_slides=-1: give a whole number of 0 or more"),
        ("compare", "interval=foo", "interval=foo: give one of percentile, bca"),
        ("compare", "runs=[a,b]", r"runs=\[a,b\]: give one text"),
        ("synthesize", "slide_px=[512]", r"slide_px=\[512\]: give a number"),
        ("predict", "alpha=2", "alpha=2: give a number from 0 to 1"),
        ("predict", "error=-1", "error=-1: give a number from 0 to 1 or null"),
        ("train", "data.expression=x", r"data\.expression=x: give one of its keys"),
        ("train", "name=[a]", r"name=\[a\]: give one text"),
        ("train", "name=../x", r"name=\.\./x: give the name of one folder, without / and "),
        ("train", "name='a\\b'", "give the name of one folder"),
        ("extract", "name=a/b", "name=a/b: give the name of one folder"),
        ("demo", "seeds=1", r"seeds=1: give a list, seeds=\[1\]"),
        ("train", "optimizer.head_c=0.1", r"optimizer\.head_c=0\.1: give a list, optimizer\.head_c=\[0\.1\]"),
        ("train", "optimizer.head_c=[0.1,0]", r"optimizer\.head_c=\[0\.1, ?0\]: give numbers above 0"),
        ("train", "optimizer.head_c=[]", r"optimizer\.head_c=\[\]: give numbers above 0"),
        ("demo", "seeds=[]", "seeds=.*: give whole numbers from 0"),
        ("demo", "seeds=[0,-1]", "seeds=.*: give whole numbers from 0"),
        ("demo", "experiments=full", r"experiments=full: give a list, experiments=\[full\]"),
        ("demo", "folds=1", "folds=1: give a whole number of 2 or more"),
        ("demo", "compounds=0", "compounds=0: give a whole number of 1 or more or null"),
        ("synthesize", "leave_out=A2", r"leave_out=A2: give a list, leave_out=\[A2\]"),
        ("synthesize", "n_compounds=2.5", r"n_compounds=2\.5: give a whole number of 1 or more"),
    ],
)
def test_a_value_of_another_kind_than_the_files_have_is_refused(
    command: str, override: str, message: str
) -> None:
    needed = {
        "train": ["data.root=d"],
        "explain": ["run=r"],
        "synthesize": ["output=o"],
        "demo": ["output=o"],
        "predict": ["run=r", "study=s"],
        "compare": ["runs=r"],
    }
    with pytest.raises(ConfigError, match=message):
        check_numbers(compose(command, [*needed.get(command, []), override]))


@pytest.mark.parametrize(
    ("command", "override"),
    [
        ("explain", "tasks=[dili,injury]"),
        ("extract", "grid={mpp:0.5}"),
        ("extract", "grid.mpp=2"),
        ("extract", "shard=1/2"),
        ("synthesize", "slide_px=${size.cohort.slide_px}"),
    ],
)
def test_a_value_of_the_kind_that_the_files_have_is_taken(command: str, override: str) -> None:
    needed = {"explain": ["run=r"], "synthesize": ["output=o"]}
    check_numbers(compose(command, [*needed.get(command, []), override]))


@pytest.mark.parametrize(
    "value", ["~/study", "'~/study'", "$HOME/study", "'~'", "%USERPROFILE%/x", "~ann/study"]
)
@pytest.mark.parametrize("key", ["output", "source.expression"])
def test_a_path_that_a_shell_should_have_filled_in_is_refused(key: str, value: str) -> None:
    with pytest.raises(
        ConfigError, match="its beginning is not filled in by the shell; write the path in full"
    ):
        compose(
            "prepare",
            ["source=matrix", "output=o", "source.expression=e", "source.samples=s", f"{key}={value}"],
        )


@pytest.mark.parametrize("value", ["''", '""'])
def test_an_empty_folder_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"output=.*: give a folder"):
        compose("prepare", ["source=matrix", "source.expression=e", "source.samples=s", f"output={value}"])
