"""Comparison of runs: pooling, pairing, incomplete folds, leaks; and the command line over made-up run
folders.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import confusion_matrix

from tests.evaluation.conftest import runs_of
from toxfusion.compare import main
from toxfusion.evaluation import comparison_pages as pages
from toxfusion.evaluation import figures, predictions
from toxfusion.evaluation.comparison import Cohort, ComparisonError, Run, compare
from toxfusion.evaluation.comparison_table import Comparison, _p
from toxfusion.evaluation.figures import FigureError
from toxfusion.evaluation.figures.tested import _confusions
from toxfusion.evaluation.out_of_fold import out_of_fold
from toxfusion.runs.compared import compare_runs, read_runs
from toxfusion.training.folder import RunError

VIRTUAL = {"study": Cohort("study", virtual=True)}


def _row(compared: Comparison, experiment: str, headline: str) -> pd.Series:
    matching = compared.table[
        (compared.table["experiment"] == experiment) & (compared.table["headline"] == headline)
    ]
    assert len(matching) == 1
    return matching.iloc[0]


def test_a_copy_of_the_reference_differs_by_nothing(make_table) -> None:
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "copy")]
    compared = compare(runs, VIRTUAL, reference="full", draws=200)
    for headline in ("dili", "injury", "lesions", "severity"):
        copy = _row(compared, "copy", headline)
        assert (copy["difference"], copy["difference_low"], copy["difference_high"], copy["p"]) == (
            0,
            0,
            0,
            1,
        )
        assert copy["value"] == _row(compared, "full", headline)["value"]
        assert np.isnan(_row(compared, "full", headline)["difference"])
    assert compared.notes == []


def test_a_heading_says_how_many_units_of_how_many_compounds(make_table) -> None:
    compared = compare(runs_of(make_table, "full"), VIRTUAL, reference="full", draws=20)
    n_compounds = _row(compared, "full", "dili")["n_compounds"]
    assert compared.heading("injury").startswith(
        f"Injury of dose groups: AUROC ({5 * n_compounds} units of {n_compounds} compounds"
    )
    # Compounds, or patients, of one unit each are not counted twice.
    assert compared.heading("dili").startswith(f"DILI of compounds: AUROC ({n_compounds} units, ")


def test_a_random_method_is_worse_and_holm_counts_the_experiments(make_table) -> None:
    runs = [
        *runs_of(make_table, "full", strength=4.0),
        *runs_of(make_table, "noise", strength=0.0, noise=3),
        *runs_of(make_table, "noise_too", strength=0.0, noise=4),
    ]
    compared = compare(runs, VIRTUAL, reference="full", draws=500)
    noise = _row(compared, "noise", "injury")
    assert noise["difference_high"] < 0
    assert noise["p"] < 0.01
    both = compared.table[(compared.table["headline"] == "injury") & (compared.table["experiment"] != "full")]
    assert both["p_holm"].to_numpy() == pytest.approx(2 * both["p"].min())
    assert noise["strata_difference_high"] < 0
    assert compared.table["experiment"].iloc[0] == "full"


def test_pairs_are_of_one_fold_and_where_folds_are_tiny_the_heading_says_that_they_are_not(
    make_table,
) -> None:
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "shifted")]
    for run in runs[3:]:  # each fold on a scale of its own, which moves no pair within a fold
        binary = run.table["family"] == "binary"
        run.table.loc[binary, "score"] = (run.table.loc[binary, "score"] + run.fold) / 3
    compared = compare(runs, VIRTUAL, reference="full", draws=200)
    shifted = _row(compared, "shifted", "injury")
    assert (shifted["pairs"], shifted["difference"], shifted["p"]) == ("folds", 0, 1)
    assert shifted["pooled"] < shifted["value"] == shifted["folds"]
    dili = _row(compared, "shifted", "dili")
    assert (dili["pairs"], dili["value"]) == ("pooled", dili["pooled"])
    assert dili["value"] < dili["folds"]
    assert "8 units a fold, under 10, are too few to rank by" in compared.heading("dili")
    assert "a fold" not in compared.heading("injury")
    assert "pooled over folds" in compared.details("injury")
    assert "within folds" in compared.details("dili")


def test_what_was_tested_in_other_folds_has_no_pairs_in_common(make_table) -> None:
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "elsewhere")]
    for run in runs[3:]:
        moved = run.table["compound"].isin(["compound00", "compound23"])
        run.table.loc[moved & (run.table["part"] == "test"), "fold"] = 1
        run.table.drop(run.table.index[moved & (run.table["part"] == "valid")], inplace=True)
    compared = compare(runs, VIRTUAL, reference="full", draws=20)
    assert np.isnan(_row(compared, "elsewhere", "injury")["difference"])
    assert _row(compared, "elsewhere", "dili")["difference"] == 0  # of all folds
    assert any("elsewhere, injury" in n and "other folds" in n for n in compared.notes)


def test_a_p_at_its_floor_is_said_to_be_a_bound_and_passes_the_correction(make_table) -> None:
    runs = runs_of(make_table, "full", strength=5.0)
    for i in range(30):
        runs += runs_of(make_table, f"noise{i:02d}", strength=0.0, noise=3 + i)
    compared = compare(runs, VIRTUAL, reference="full", draws=500)
    differing = compared.table[(compared.table["headline"] == "injury") & compared.table["p"].notna()]
    assert differing["p_at_floor"].all()
    assert (differing["p_draws"] == 12_000).all()
    assert (differing["p_holm"] < 0.01).all()
    assert compared.details("injury").loc[1, ["p", "p (Holm)"]].tolist() == ["< 0.0002", "< 0.005"]


@pytest.mark.parametrize(
    ("p", "at_floor", "text"),
    [(np.nan, False, ""), (0.5, False, "0.500"), (0.0123, False, "0.012"), (0.00042, False, "0.0004"),
     (2 / 2001, True, "< 0.001"), (2 / 100_001, True, "< 0.00002"), (0.005, True, "< 0.005"), (1.0, True, "1.000")],
)  # fmt: skip
def test_p_in_words(p: float, at_floor: bool, text: str) -> None:
    assert _p(p, at_floor) == text


def test_tasks_that_nobody_has_heard_of_are_compared_by_their_family(make_table) -> None:
    """What is measured travels with the table, so that a task of one's own needs no place in a list."""
    names = {"dili": "fibrosis", "injury": "ascites", "lesion:necrosis": "stage:one", "lesion:hypertrophy": "stage:two",
             "severity": "ballooning", "lesions": "stages"}  # fmt: skip
    runs = runs_of(make_table, "full")
    known = compare(runs, VIRTUAL, reference="full", draws=50)
    own = [replace(r, table=r.table.replace({"task": names, "headline": names})) for r in runs]
    compared = compare(own, VIRTUAL, reference="full", draws=50)
    assert compared.headlines == ["ascites", "ballooning", "fibrosis", "stages"]
    for headline in ("dili", "injury", "lesions", "severity"):
        ours, theirs = _row(compared, "full", names[headline]), _row(known, "full", headline)
        assert (ours["value"], ours["low"], ours["metric"]) == (
            theirs["value"],
            theirs["low"],
            theirs["metric"],
        )
    assert compared.heading("stages").startswith("stages: AUROC (2 tasks, 120 units of 24 compounds")


def test_incomplete_folds_are_said_and_paired_on_what_is_common(make_table) -> None:
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "short", folds=range(2))]
    compared = compare(runs, VIRTUAL, reference="full", draws=50)
    assert any(
        "short" in n and "INCOMPLETE" in n and "2 of 3" in n and "fold 2 seed 0" in n for n in compared.notes
    )
    assert _row(compared, "short", "dili")["n_paired"] == 16
    assert _row(compared, "short", "dili")["difference"] == 0
    for text in (pages.to_text(compared), pages.to_markdown(compared), pages.to_html(compared)):
        assert "INCOMPLETE" in text


def test_a_missing_seed_is_said(make_table) -> None:
    runs = [
        *runs_of(make_table, "full"),
        Run("full", "study", 0, 1, 3, make_table(n_folds=3, seed=1), "full/s1"),
    ]
    compared = compare(runs, VIRTUAL, reference="full", draws=20)
    assert any("4 of 6" in n for n in compared.notes)


def test_too_good_on_a_real_study_is_a_suspected_leak(make_table) -> None:
    runs = runs_of(make_table, "full", strength=9.0)
    real = compare(runs, {"study": Cohort("study", virtual=False)}, reference="full", draws=20)
    assert any("SUSPECTED LEAK" in n for n in real.notes)
    assert not any("LEAK" in n for n in compare(runs, VIRTUAL, reference="full", draws=20).notes)


def test_seen_compounds_are_flagged_and_are_no_leak(make_table) -> None:
    runs = [replace(run, transductive=True) for run in runs_of(make_table, "full", strength=9.0)]
    compared = compare(runs, {"study": Cohort("study", virtual=False)}, reference="full", draws=20)
    assert _row(compared, "full", "dili")["flags"] == "transductive"
    assert not any("LEAK" in n for n in compared.notes)
    for text in (
        pages.to_text(compared),
        pages.to_markdown(compared),
        pages.to_html(compared),
        pages.to_latex(compared),
    ):
        assert "full: TRANSDUCTIVE, the split puts test compounds into training too" in text
        assert "transductive" in text


def test_nulls_and_the_oracle_of_each_view_stand_beside_the_models(make_table, tmp_path: Path) -> None:
    truth = make_table(strength=3.0, noise=5)[["task", "level", "unit_id", "label", "score"]]
    views = pd.concat([truth.assign(view="both"), truth.assign(view="slide", score=truth["score"] / 2)])
    null = [replace(run, null="shuffled pairs") for run in runs_of(make_table, "null", noise=3)]
    compared = compare(
        [*runs_of(make_table, "full"), *null],
        {"study": Cohort("study", True, views)},
        reference="full",
        draws=50,
    )
    details = compared.details("injury").set_index("experiment")
    assert details.at["null", "flags"] == "null: shuffled pairs"
    assert details.index.tolist() == ["full", "null", "oracle", "oracle, slides alone"]
    assert details.at["oracle", "AUROC [95 %]"] == details.at["oracle, slides alone", "AUROC [95 %]"] != ""
    assert compared.oracles.query("headline == 'dili' and view == 'both'")["n"].item() == 24
    best = compared.oracles.query("headline == 'injury' and view == 'both'")["value"].item()
    assert _row(compared, "full", "injury")["oracle"] == best
    assert compared.summary()["experiment"].tolist() == details.index.tolist()
    figures.comparison(compared, tmp_path / "comparison.png")


def test_a_method_of_one_modality_is_held_against_the_oracle_of_that_one(make_table) -> None:
    good, poor = make_table(strength=6.0), make_table(strength=0.5, noise=8)
    columns = ["task", "level", "unit_id", "label", "score"]
    oracles = pd.concat([good[columns].assign(view="both"), poor[columns].assign(view="slide")])
    runs = runs_of(make_table, "full", strength=6.0)
    cohorts = {"study": Cohort("study", True, oracles)}
    both = compare(runs, cohorts, reference="full", draws=100)
    assert not both.table["above_oracle"].any()
    slides = compare([replace(r, view="slide") for r in runs], cohorts, reference="full", draws=100)
    assert _row(slides, "full", "injury")["flags"] == "above the oracle"
    assert any("wholly above the oracle, slides alone" in n for n in slides.notes)


def test_latex_is_escaped_and_every_row_has_the_columns_of_its_head(make_table) -> None:
    name = r"a_b & 50% {of} $x^2$ ~ \n #1 <[*]>"
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, name)]
    text = pages.to_latex(compare(runs, VIRTUAL, reference="full", draws=20))
    written = (
        r"{a\_b \& 50\% \{of\} \$x\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}n \#1 "
        r"\textless{}[*]\textgreater{}}"
    )
    assert text.count(written) == 5
    tables = re.findall(
        r"\\begin{tabular}{(l+)}\n\\toprule\n(.*?)\\bottomrule\n\\end{tabular}", text, re.DOTALL
    )
    assert len(tables) == text.count(r"\begin{table}") == 5
    for columns, body in tables:
        for line in body.splitlines():
            if line != r"\midrule":
                assert line.endswith(r" \\")
                assert len(re.split(r"(?<!\\)&", line)) == len(columns)
    plain = re.sub(r"\\[{}%]", "", text)
    assert plain.count("{") == plain.count("}")
    assert re.findall(r"(?m)^.+%", plain) == []  # an unescaped % would swallow the end of its line


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(make_table, tmp_path: Path) -> None:
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "a_b & 50% <[*]>")]
    (tmp_path / "comparison.tex").write_text(
        pages.to_latex(compare(runs, VIRTUAL, reference="full", draws=20))
    )
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{comparison.tex}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0


def test_nulls_stand_beside_models_of_a_real_study_or_are_missed(make_table) -> None:
    real = {"study": Cohort("study", virtual=False)}
    alone = compare(runs_of(make_table, "full"), real, reference="full", draws=20)
    assert "NO NULL beside these rows of a real study (study)" in pages.to_text(alone)
    runs = [*runs_of(make_table, "full"), *runs_of(make_table, "metadata_logistic", strength=0.0)]
    beside = compare(runs, real, reference="full", draws=20)
    assert beside.summary()["experiment"].tolist() == ["full", "metadata_logistic"]
    assert not any("NO NULL" in n for n in beside.notes)
    assert not any("NO NULL" in n for n in compare(runs[:3], VIRTUAL, reference="full", draws=20).notes)


def test_permuted_labels_get_no_paired_difference(make_table) -> None:
    null = runs_of(make_table, "null")
    for run in null:
        dili = run.table["task"] == "dili"
        run.table.loc[dili, "label"] = 1 - run.table.loc[dili, "label"]
    compared = compare([*runs_of(make_table, "full"), *null], VIRTUAL, reference="full", draws=20)
    assert np.isnan(_row(compared, "null", "dili")["difference"])
    assert any("null, dili: labels" in n for n in compared.notes)
    assert _row(compared, "null", "injury")["difference"] == 0
    # Where a run says that its labels are permuted, its flag tells, and no note.
    declared = [replace(run, null="permuted labels") for run in null]
    compared = compare([*runs_of(make_table, "full"), *declared], VIRTUAL, reference="full", draws=20)
    assert np.isnan(_row(compared, "null", "dili")["difference"])
    assert compared.notes == []
    assert _row(compared, "null", "dili")["flags"] == "null: permuted labels"


def test_share_of_the_oracle_and_a_fault_above_it(make_table) -> None:
    runs = runs_of(make_table, "full", strength=6.0)
    truth = make_table(strength=6.0)[["task", "level", "unit_id", "label", "score"]].assign(view="both")
    same = compare(runs, {"study": Cohort("study", True, truth)}, reference="full", draws=50)
    assert _row(same, "full", "dili")["share"] == pytest.approx(1)
    assert not same.table["above_oracle"].any()
    poor = truth.assign(score=make_table(strength=1.0, noise=8)["score"])
    compared = compare(runs, {"study": Cohort("study", True, poor)}, reference="full", draws=200)
    assert _row(compared, "full", "injury")["above_oracle"]
    assert any("above the oracle" in n for n in compared.notes)


def test_studies_are_pooled_as_cohorts(make_table) -> None:
    runs = [*runs_of(make_table, "full", cohort="a"), *runs_of(make_table, "full", cohort="b", noise=2)]
    runs += runs_of(make_table, "other", cohort="a")
    cohorts = {name: Cohort(name, virtual=True) for name in "ab"}
    compared = compare(runs, cohorts, reference="full", draws=50)
    assert _row(compared, "full", "dili")["n_compounds"] == 48
    assert _row(compared, "other", "dili")["n_paired"] == 24
    assert any("other: no finished run on b" in n for n in compared.notes)


def test_what_cannot_be_compared_is_refused(make_table) -> None:
    runs = runs_of(make_table, "full")
    with pytest.raises(ComparisonError, match="fool"):
        compare(runs, VIRTUAL, reference="fool")
    with pytest.raises(ComparisonError, match="both fold 0, seed 0"):
        compare([*runs, runs[0]], VIRTUAL, reference="full")
    with pytest.raises(ComparisonError, match="no finished run"):
        compare([], VIRTUAL, reference="full")


def _write_run(
    folder: Path,
    name: str,
    fold: int,
    table: pd.DataFrame,
    *,
    done: bool = True,
    variant: str = "",
    transductive: bool = False,
    seed: int = 0,
) -> None:
    folder.mkdir(parents=True)
    config = {
        "name": name,
        "seed": seed,
        "method": "network",
        "modality": {"name": "wsi" if "wsi" in name else "both"},
        "permute_labels": name.startswith("null"),
        "data": {"root": str(folder.parents[2] / "made_up")},
        "split": {"fold": fold, "n_folds": 2},
        "paths": {"variant": variant},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    split = {"train": [], "valid": [], "test": [], "fold": 0, "manifest": {"transductive": transductive}}
    (folder / "split.json").write_text(json.dumps(split))
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "config.yaml").write_text("{}")
    predictions.write(table, folder / "predictions.parquet")
    (folder / "metrics.json").write_text("{}")
    if done:
        (folder / "done.json").write_text(json.dumps({"digest": "", "objective": 0.5, "name": name}))


@pytest.fixture
def outputs(make_table, tmp_path: Path) -> Path:
    for name, settings in {"full": {}, "ablation_wsi_only": {"noise": 1}}.items():
        for fold in range(2):
            table = make_table(fold=fold, n_folds=2, **settings)
            _write_run(tmp_path / "outputs" / name / f"fold{fold}_seed0", name, fold, table)
    table = make_table(fold=0, n_folds=2)
    _write_run(tmp_path / "outputs" / "unfinished" / "fold0_seed0", "unfinished", 0, table, done=False)
    return tmp_path / "outputs"


@pytest.mark.parametrize("pattern", ["", "*/fold*"])
def test_command_line_end_to_end(
    outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], pattern: str
) -> None:
    folder, rival = tmp_path / "table", outputs / "ablation_wsi_only"
    theirs = pd.concat([pd.read_parquet(rival / f"fold{k}_seed0" / "predictions.parquet") for k in range(2)])
    theirs = theirs[(theirs["task"] == "dili") & (theirs["part"] == "test")]
    columns = {"unit_id": "case", "fold": "fold", "task": "task", "score": "probability"}
    theirs = theirs.rename(columns=columns)[list(columns.values())]
    nobody = theirs.iloc[[0]].assign(case="nobody")
    pd.concat([theirs, nobody]).to_csv(tmp_path / "theirs.csv", index=False)
    main([f"runs='{outputs / pattern}'", f"output={folder}", "draws=100", f"external={tmp_path / 'theirs.csv'}",
          f"hydra.run.dir={tmp_path / 'log'}"])  # fmt: skip
    printed = capsys.readouterr().out
    assert "ablation_wsi_only" in printed
    assert "unfinished" in printed
    assert "not finished, left out" in printed
    wide = pd.read_csv(folder / "comparison.csv", index_col="experiment")
    assert wide.index.tolist() == ["full", "ablation_wsi_only", "theirs"]
    assert wide.at["theirs", "dili_difference"] == wide.at["ablation_wsi_only", "dili_difference"] != 0
    assert "theirs/dili/nobody" in (folder / "audit.json").read_text()
    assert {"dili_value", "dili_difference", "injury_p_holm", "lesions_strata", "dili_share"} <= set(
        wide.columns
    )
    assert wide.at["full", "dili_n"] == 24
    assert (folder / "comparison.md").read_text().count("| full |") == 5
    assert "<table" in (folder / "comparison.html").read_text()
    assert r"ablation\_wsi\_only" in (folder / "comparison.tex").read_text()
    for name in ("comparison.png", "differences.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("variants", "expected"),
    [(("_seed-1", "_seed-1"), {"full", "clip"}), (("", "_lr-1"), {"full", "clip_lr-1"})],
)
def test_only_what_tells_runs_apart_is_in_the_name(
    make_table, tmp_path: Path, variants, expected: set[str]
) -> None:
    for name, variant in zip(("full", "clip"), variants, strict=True):
        _write_run(tmp_path / "o" / name / "fold0", name, 0, make_table(n_folds=2), variant=variant)
    assert {run.experiment for run in read_runs(str(tmp_path / "o"))[0]} == expected


@pytest.mark.parametrize(
    ("variants", "reference", "first"),
    [
        ({"full": ["_lr-1"], "clip": ["_lr-2"]}, "full", "full_lr-1"),
        ({"full": ["", "_lr-1"], "clip": ["_lr-2"]}, "full", "full"),
        ({"full": ["_lr-1", "_lr-2"]}, "full_lr-2", "full_lr-2"),
    ],
)
def test_a_reference_is_a_row_or_the_experiment_of_one(
    make_table, tmp_path: Path, variants: dict[str, list[str]], reference: str, first: str
) -> None:
    for name, of_name in variants.items():
        for variant in of_name:
            place = tmp_path / "o" / f"{name}{variant}" / "fold0"
            _write_run(place, name, 0, make_table(n_folds=2), variant=variant)
    compare_runs(
        str(tmp_path / "o"), tmp_path / "t", reference=reference, draws=20, seed=0, interval="percentile"
    )
    wide = pd.read_csv(tmp_path / "t" / "comparison.csv", index_col="experiment")
    assert wide.index[0] == first
    assert np.isnan(wide.at[first, "dili_difference"])
    assert (wide["dili_difference"].drop(first) == 0).all()


def test_a_reference_of_several_rows_is_refused_with_their_names(make_table, tmp_path: Path) -> None:
    for variant in ("_lr-1", "_lr-2"):
        place = tmp_path / "o" / f"full{variant}" / "fold0"
        _write_run(place, "full", 0, make_table(n_folds=2), variant=variant)
    with pytest.raises(ComparisonError, match=r"^reference=full: 2 rows .*name one: full_lr-1, full_lr-2$"):
        compare_runs(
            str(tmp_path / "o"), tmp_path / "t", reference="full", draws=20, seed=0, interval="percentile"
        )


def test_what_a_run_is_comes_from_its_own_files(make_table, tmp_path: Path) -> None:
    for name, transductive in {"null_permuted": False, "ablation_wsi_only": True, "full": False}.items():
        _write_run(tmp_path / "o" / name / "fold0", name, 0, make_table(n_folds=2), transductive=transductive)
    by_experiment = {
        run.experiment: (run.transductive, run.null, run.view) for run in read_runs(str(tmp_path / "o"))[0]
    }
    assert by_experiment == {
        "full": (False, "", "both"),
        "ablation_wsi_only": (True, "", "slide"),
        "null_permuted": (False, "permuted labels", "both"),
    }
    (tmp_path / "o" / "full" / "fold0" / "split.json").unlink()
    with pytest.raises(RunError, match=r"full/fold0/split\.json: missing"):
        read_runs(str(tmp_path / "o"))


def test_each_permutation_of_labels_is_a_row_of_its_own(make_table, tmp_path: Path) -> None:
    """Seeds of other experiments are averaged; permutations have labels of their own, which would not agree."""
    for seed in range(2):
        for name in ("null_permuted", "full"):
            table = make_table(n_folds=2, seed=seed)
            if name == "null_permuted" and seed:
                table["label"] = table.groupby(["task", "part"])["label"].transform(
                    lambda y: y.to_numpy()[::-1]
                )
            _write_run(tmp_path / "o" / name / f"fold0_seed{seed}", name, 0, table, seed=seed)
    runs, cohorts, _ = read_runs(str(tmp_path / "o"))
    assert [run.experiment for run in runs] == ["full"] * 2 + [f"null_permuted (seed {s})" for s in range(2)]
    compared = compare(runs, cohorts, reference="full", draws=20)
    assert len(compared.wide()) == 3


def test_a_comparison_of_fewer_runs_leaves_no_figure_of_the_former(outputs: Path, tmp_path: Path) -> None:
    for pattern, expected in (("", True), ("full", False)):
        main([f"runs='{outputs / pattern}'", f"output={tmp_path / 'table'}", "draws=20",
              f"hydra.run.dir={tmp_path / 'log'}"])  # fmt: skip
        assert (tmp_path / "table" / "differences.png").exists() is expected


def test_command_line_names_a_pattern_that_matches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([f"runs={tmp_path / 'nowhere'}", f"output={tmp_path}", f"hydra.run.dir={tmp_path / 'log'}"])
    assert "nowhere" in capsys.readouterr().err


def test_figures_refuse_what_cannot_be_drawn(make_table, tmp_path: Path) -> None:
    alone = compare(runs_of(make_table, "full"), VIRTUAL, reference="full", draws=20)
    with pytest.raises(FigureError, match="beside"):
        figures.differences(alone, tmp_path / "a.png")
    obs = pd.DataFrame({"dose_level": ["low"] * 4, "injury": [0.0] * 4, "compound": list("abcd")})
    with pytest.raises(FigureError, match="finite"):
        figures.embedding_map(np.full((4, 2), np.nan), obs, tmp_path / "a.png")
    with pytest.raises(FigureError, match="as many"):
        figures.slide_attention(
            np.zeros((9, 9, 3), np.uint8),
            np.zeros((2, 2)),
            2,
            np.ones(3),
            tmp_path / "a.png",
            downsample=1,
            mpp0=1,
        )
    assert list(tmp_path.iterdir()) == []


def test_tiles_lie_where_their_coordinates_say() -> None:
    """Level-0 corners (0, 0) and (8, 4), tiles of 4 px, thumbnail at half size."""
    corners = np.array([[0, 0], [8, 4]]) / 2
    painted = figures.tile_map((4, 8), corners, 2.0, np.array([1.0, 3.0]))
    expected = np.zeros((4, 8))
    expected[0:2, 0:2] = 1.0
    expected[2:4, 4:6] = 3.0
    np.testing.assert_array_equal(painted.filled(0.0), expected)
    assert painted.mask.sum() == 32 - 8


def test_confusion_counts_the_units_that_were_called(make_table, tmp_path: Path) -> None:
    tested = out_of_fold([make_table(fold=f, n_folds=2) for f in range(2)])
    injury = tested[(tested["task"] == "injury") & tested["label"].notna()]
    counts, lacking = _confusions(tested)["injury"]
    assert lacking == 0
    np.testing.assert_array_equal(counts, confusion_matrix(injury["label"], injury["called"]))
    tested.loc[injury.index[injury["label"] == 1][:3], "called"] = np.nan
    fewer, lacking = _confusions(tested)["injury"]
    assert lacking == 3
    np.testing.assert_array_equal(fewer.sum(1), counts.sum(1) - [0, 3])
    with pytest.raises(FigureError, match="nothing to count"):
        figures.confusion(tested.assign(called=np.nan), tmp_path / "none.png")


def test_other_figures_are_written(make_table, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "dose_level": rng.choice(["control", "low", "high"], 30),
            "injury": rng.choice([0.0, 1.0, np.nan], 30),
            "compound": rng.choice(list("abcdef"), 30),
        }
    )
    figures.embedding_map(rng.normal(size=(30, 5)), obs, tmp_path / "map.png")
    figures.held_out([make_table(fold=f, n_folds=2) for f in range(2)], tmp_path)
    figures.slide_attention(
        np.full((60, 80, 3), 200, np.uint8), rng.integers(0, 300, (20, 2)), 40, rng.random(20),
        tmp_path / "slide.png", downsample=4, mpp0=0.5,
    )  # fmt: skip
    assert {p.name for p in tmp_path.iterdir()} == {"map.png", "curves.png", "confusion.png", "slide.png"}


def test_a_reference_that_was_not_run_is_refused_with_one_that_was(make_table) -> None:
    with pytest.raises(ComparisonError, match="take reference=pca_logistic, or another of pca_logistic, snn"):
        compare(
            [*runs_of(make_table, "snn"), *runs_of(make_table, "pca_logistic")],
            VIRTUAL,
            reference="full",
            draws=20,
        )
