"""What stands among the genes of a table and is none: totals, row numbers, columns of samples, samples themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from toxfusion.prepare import near_names
from toxfusion.study.audit import Audit
from toxfusion.study.importers.matrix import import_matrix
from toxfusion.study.study import Study
from toxfusion.study.tables import TableError

SAMPLES = "sample_id,compound,dose,age\ns1,a,0,7.5\ns2,a,10,8\ns3,a,30,9\n"
LOG2 = "gene,s1,s2,s3\nAlb,1.5,2,3\nMt1,3,4.5,5\nCyp1a1,2,2,6\n"
COUNTS = "gene,s1,s2,s3\nAlb,100,200,300\nMt1,30,40,50\nCyp1a1,5,1,2\n"


def imported(folder: Path, expression: str, kind: str = "log2", **more: str) -> Study:
    (folder / "e.csv").write_text(expression)
    (folder / "s.csv").write_text(SAMPLES)
    return import_matrix(
        folder / "study",
        expression=str(folder / "e.csv"),
        samples=str(folder / "s.csv"),
        kind=kind,  # type: ignore[arg-type]
        **more,  # type: ignore[arg-type]
    )


def dropped(study: Study) -> dict[str, str]:
    records = Audit.read(study.root / "audit.json").records
    return {r.id: r.reason for r in records if r.kind == "gene" and r.outcome == "dropped"}


@pytest.mark.parametrize("name", ["Total", "SUM", "Grand Total", "Summe", "Mittelwert", "Average"])
def test_totals_and_means_by_their_names_are_dropped(tmp_path: Path, name: str) -> None:
    plain = imported(tmp_path, COUNTS, "counts").expression
    study = imported(tmp_path, f"{COUNTS}{name},135,241,352\n", "counts")
    assert study.var.index.tolist() == ["Alb", "Mt1", "Cyp1a1"]
    assert study.expression.tolist() == plain.tolist()
    assert dropped(study)[name] == "a total or a mean by its name, no gene"


def test_totals_under_another_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"e\.csv, gene 'all': is the sum of all other genes in every"):
        imported(tmp_path, COUNTS + "all,135,241,352\n", "counts")
    assert len(imported(tmp_path, COUNTS + "all,135,241,351\n", "counts").var) == 4


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Unnamed: 0", "012"),
        ("dose", "013"),
        ("time_h", "111"),
        ("2.31E+19", "123"),
        ("age", ("7.5", "8", "9")),
    ],
)
def test_columns_beside_the_genes_are_no_genes(tmp_path: Path, name: str, values: str) -> None:
    rows = [line.split(",") for line in LOG2.splitlines()]
    turned = [
        [cells[0], extra, *cells[1:]]
        for cells, extra in zip(zip(*rows, strict=True), [name, *values], strict=True)
    ]
    study = imported(tmp_path, "\n".join(map(",".join, turned)) + "\n")
    assert study.var.index.tolist() == ["Alb", "Mt1", "Cyp1a1"]
    assert list(dropped(study)) == [name]


def test_a_gene_called_as_a_column_of_samples_with_other_values_stays(tmp_path: Path) -> None:
    assert "age" in imported(tmp_path, LOG2 + "age,1,2,3\n").var.index


def test_genes_that_differ_in_letter_case_alone_are_asked_about(tmp_path: Path) -> None:
    study = imported(tmp_path, LOG2 + "ALB,1,2,3\n")
    assert [line for line in near_names(Audit.read(study.root / "audit.json")) if "ALB and Alb" in line]
    assert near_names(Audit.read(imported(tmp_path, LOG2).root / "audit.json")) == []


class TestSquare:
    SQUARE = "id,s1,s2,s3\ns1,1,0.2,0.3\ns2,0.2,1,0.4\ns3,0.3,0.4,1\n"

    @pytest.mark.parametrize("more", ["", "s4,0.1,0.2,0.3\n"])
    def test_samples_by_samples_are_no_expression(self, tmp_path: Path, more: str) -> None:
        with pytest.raises(
            TableError,
            match=r"e\.csv: 3 of its \d rows and 3 of its 3 columns bear .*source\.orientation=genes",
        ):
            imported(tmp_path, self.SQUARE + more)

    def test_the_orientation_decides(self, tmp_path: Path) -> None:
        study = imported(tmp_path, self.SQUARE, orientation="genes_by_samples")
        assert study.expression[0].tolist() == pytest.approx([1, 0.2, 0.3])

    def test_numbers_of_genes_that_are_names_of_samples_too(self, tmp_path: Path) -> None:
        """Entrez ids 1 to 3 among more genes, and samples 1 to 3: the side that is samples throughout is theirs."""
        (tmp_path / "e.csv").write_text(
            "g,1,2,3\n" + "".join(f"{i},{i},0,0\n" for i in range(1, 20, 1) if i != 7)
        )
        (tmp_path / "s.csv").write_text(SAMPLES.replace("\ns", "\n"))
        study = import_matrix(
            tmp_path / "study", expression=str(tmp_path / "e.csv"), samples=str(tmp_path / "s.csv")
        )
        assert study.expression[0, :3].tolist() == [1, 2, 3]
