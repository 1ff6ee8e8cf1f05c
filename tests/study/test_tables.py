"""Tables as people have them: one value under one name, or a refusal that says where."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toxfusion.study.number_columns import MISSING_MARKS, typed
from toxfusion.study.tables import TableError, read_table, read_values

TABLE = "gene,A,B,C\nAlb,10.1,11.2,12.3\nMt1,1,2,3\n"


def file(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def expected() -> pd.DataFrame:
    return pd.DataFrame(
        {"A": [10.1, 1.0], "B": [11.2, 2.0], "C": [12.3, 3.0]}, index=pd.Index(["Alb", "Mt1"], name="gene")
    )


@pytest.mark.parametrize(
    "text",
    [
        "gene,A,B,C\nAlb,10.1,11.2,12.3,\nMt1,1,2,3,\n",
        "gene,A,B,C,\nAlb,10.1,11.2,12.3,\nMt1,1,2,3,\n",
        "gene,A,B,C,,\nAlb,10.1,11.2,12.3,,\nMt1,1,2,3,,\n",
        "gene,A,B,C\nAlb,10.1,11.2,12.3,\nMt1,1,2,3\n",
        "gene,A,B,C\nAlb,10.1,11.2,12.3\nMt1,1,2,3,,,\n",
        "gene,A,B,C\n,,,\nAlb,10.1,11.2,12.3\n\nMt1,1,2,3\n,,,\n,,,\n",
        "gene\tA\tB\tC\nAlb\t10.1\t11.2\t12.3\t\nMt1\t1\t2\t3\t\t\n",
        'gene;A;B;C\n"Alb";"10.1";11.2;12.3;\nMt1;1;2;3;\n',
        " gene , A,B ,C\n Alb,10.1 , 11.2,12.3\nMt1\u00a0,1,2,3\n",
        "sep=;\ngene;A;B;C\nAlb;10.1;11.2;12.3\nMt1;1;2;3\n",
    ],
)
def test_delimiters_at_the_end_blanks_and_empty_rows_move_no_value(tmp_path: Path, text: str) -> None:
    pd.testing.assert_frame_equal(read_values(file(tmp_path, text)), expected())
    cells = read_table(file(tmp_path, text))
    assert cells.to_dict("list") == {
        "gene": ["Alb", "Mt1"],
        "A": ["10.1", "1"],
        "B": ["11.2", "2"],
        "C": ["12.3", "3"],
    }


def test_a_header_of_r_is_one_name_shorter(tmp_path: Path) -> None:
    path = file(tmp_path, '"A" "B"\n'.replace(" ", ",") + '"Alb",1,2\n"Mt1",3,NA\n')
    assert read_values(path).to_dict("index")["Alb"] == {"A": 1.0, "B": 2.0}
    assert np.isnan(read_values(path).loc["Mt1", "B"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "gene,A,B\nAlb,1,2\nMt1,1,2,3\n",
            r"table\.csv, row 3, column 4, value '3': the header has 3 columns",
        ),
        (
            "gene,A,B\nAlb,1,2\nMt1,1\n",
            r"table\.csv, row 3, column 'B': the row ends before it, with 2 of 3 cells",
        ),
        ("gene,A,B,\nAlb,1,2,9\n", r"row 1, column 4: has no name and holds '9'"),
        ("A,B,\nAlb,1,2,\nMt1,1,2,\n", r"row 1, column 3: has no name and holds '2'"),
        ("gene,A,,C\nAlb,1,2,3\n", r"row 1, column 3: has no name and holds '2'"),
        ("gene,A,B\nAlb,1,high\n", r"column 'B', row 'Alb', value 'high': holds text in row 2"),
        ("gene;A;B\nAlb;1;2,5\n", r"column 'B', row 'Alb', value '2,5'.*decimals with a point"),
        ("", "is empty"),
        ("<html><table><tr><td>gene</td></tr></table></html>", "is a web page"),
    ],
)
def test_rows_of_another_width_and_words_are_refused_where_they_stand(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        read_values(file(tmp_path, text))


def test_a_column_may_not_be_there_twice(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"row 1, column 'Necrosis': the column is there twice"):
        read_table(file(tmp_path, "sample_id,Necrosis, Necrosis\ns1,1,2\n"))


def test_ids_are_text_and_only_the_named_marks_are_missing(tmp_path: Path) -> None:
    path = file(tmp_path, "id,word\n010,None\n10,none\n1E02,-\n1.0,NA\nNA,\n")
    table = read_table(path)
    assert table["id"].tolist() == ["010", "10", "1E02", "1.0", None]
    assert table["word"].tolist() == ["None", "none", "-", None, None]
    values = read_values(file(tmp_path, "id,v\n010,1\n10,2\n1E02,3\nNA,4\n"))
    assert values.index.tolist() == ["010", "10", "1E02", "NA"]
    docs = (Path(__file__).parents[2] / "docs" / "reference" / "tables.md").read_text()
    assert all(f"`{mark}`" in docs for mark in MISSING_MARKS if mark), (
        "docs/reference/tables.md names every mark"
    )


def test_what_is_unknown_is_a_number_only_where_it_is_written_as_one() -> None:
    assert typed(pd.Series(["1", "2"])).tolist() == [1, 2]
    assert typed(pd.Series(["1.5", None])).tolist() == pytest.approx([1.5, np.nan], nan_ok=True)
    for words in (["010", "10"], ["1E02", "2"], ["1", "two"], ["2020-01-01", "3"]):
        assert typed(pd.Series(words)).tolist() == words


@pytest.mark.parametrize("wrap", ["gzip", "bzip2", "xz", "zip", "utf-16"])
@pytest.mark.parametrize("name", ["table.csv", "table.gz", "table.txt", "table.xlsx"])
def test_the_content_says_how_a_table_is_wrapped(tmp_path: Path, wrap: str, name: str) -> None:
    content = TABLE.encode("utf-16" if wrap == "utf-16" else "utf-8")
    if wrap == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("inner.csv", content)
            archive.writestr("__MACOSX/._inner.csv", b"\x00litter")
        content = packed.getvalue()
    else:
        pack = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}.get(wrap, bytes)
        content = pack(content)
    pd.testing.assert_frame_equal(read_values(file(tmp_path, content, name)), expected())


def test_a_workbook_under_another_name_is_read_as_one(tmp_path: Path) -> None:
    expected().reset_index().to_excel(tmp_path / "table.xlsx", index=False)
    (tmp_path / "table.xlsx").rename(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(read_values(tmp_path / "table.csv"), expected())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), r"old spreadsheet \(\.xls\).*save it as \.xlsx"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "compressed by zstd; unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5 file"),
        (b"PAR1" + bytes(50), "parquet"),
        (b"gene,A\nAlb,\x00\x01\n", "is binary"),
        (gzip.compress(TABLE.encode() * 99, mtime=0)[:70], "damaged or cut off"),
        (b"PK\x03\x04" + bytes(50), "zip archive"),
        ("name\ncaf\u00e9\n".encode("latin-1"), r"line 2: byte 0xe9 is not utf-8 text"),
    ],
)
def test_files_of_another_kind_are_called_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        read_table(file(tmp_path, content))


def test_a_folder_a_missing_file_and_a_path_of_windows(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "gone.csv", r"gone\.csv: no such file"),
        (tmp_path / ("x" * 300), "cannot be read"),
    ):
        with pytest.raises(TableError, match=message):
            read_table(path)


@pytest.mark.parametrize("name", ["table.tsv", "table.tsv.gz", "table.txt"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_commas_within_the_names_of_a_tsv_are_no_delimiters(tmp_path: Path, name: str, quote: str) -> None:
    names = [f"{quote}{n}{quote}" for n in ("gene", "A, left, caudal", "B, right, caudal")]
    text = "\t".join(names) + "\nAlb\t1\t2\nMt1\t3\t4\n"
    path = file(tmp_path, gzip.compress(text.encode()) if name.endswith("gz") else text, name)
    assert read_values(path).columns.tolist() == ["A, left, caudal", "B, right, caudal"]


def test_the_wanted_columns_decide_between_delimiters(tmp_path: Path) -> None:
    text = "sample_id;compound, salt;dose\ns1;a, b, c;0\ns2;d, e, f;0\n"
    assert read_table(file(tmp_path, text), required=("sample_id", "dose"))["dose"].tolist() == ["0", "0"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "# exported 2024\nsample_id,dose\ns1,0\n",
            "line 1 begins with '#': remove the lines above the header",
        ),
        ('# x:a; b:"c"\nsample_id\tdose\ns1\t0\n', "line 1 begins with '#'"),
        ("#1.2\n2\t1\nName\tDescription\ts1\nAlb\tna\t1\n", "line 1 begins with '#'"),
        ('!Series\t"x"\n"ID_REF"\t"s1"\t"s2"\n"1_at"\t1\t2\n', "line 1 begins with '!'"),
        (
            "Table 1\nsample_id,dose\ns1,0\n",
            "line 1, 'Table 1', stands alone: remove the lines above the header",
        ),
        (
            "Table 1,\nsample_id,dose\ns1,0\n",
            "row 1, value 'Table 1': stands alone; remove the rows above the header",
        ),
        (
            '"sample_id" "dose"\n"1" "s1" 0\n',
            r"separate columns by tab, comma or semicolon \(in R, write.csv",
        ),
        ('"s1" "s2"\n"Alb" 1,5 2,5\n', "separate columns by tab, comma or semicolon"),
        ("sample_id|dose\ns1|0\n", "separate columns by tab, comma or semicolon"),
    ],
)
def test_lines_above_a_header_and_other_delimiters_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.txt").write_text(text)
    with pytest.raises(TableError, match=message):
        read_table(tmp_path / "t.txt", required=("sample_id", "dose"))
    with pytest.raises(TableError, match=message):
        read_values(tmp_path / "t.txt")


@pytest.mark.parametrize("name", ["Sample_ID", "sample id", "SampleID", "SAMPLE-ID (rat)"])
def test_a_column_that_is_meant_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text(f"{name},dose\ns1,0\n")
    with pytest.raises(TableError) as refused:
        read_table(tmp_path / "t.csv", required=("sample_id",))
    assert str(refused.value).endswith(f"; rename {name!r}")
