"""The atomic write: whole or not at all, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from toxfusion.study.files import replace_file, replacing, write_parquet


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    place = tmp_path / "metrics.json"
    replace_file(place, b"first")
    with pytest.raises(TypeError), replacing(place) as draft:
        draft.write_bytes("no bytes")  # type: ignore[arg-type]
    assert place.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [place]


def test_the_draft_is_not_seen_before_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "table.parquet"
    with replacing(place) as draft:
        assert draft.suffix == ".parquet"
        assert draft.parent == place.parent
        draft.write_bytes(b"x")
        assert not place.exists()
    assert list(place.parent.iterdir()) == [place]


def test_a_table_comes_back_without_its_index(tmp_path: Path) -> None:
    table = pd.DataFrame({"sample_id": ["a", "b"], "grade": [0.0, 2.5]}, index=[7, 9])
    write_parquet(table, tmp_path / "grades.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "grades.parquet"), table.reset_index(drop=True))
