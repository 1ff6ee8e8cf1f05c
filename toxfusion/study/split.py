"""A split: which samples train, choose and test, what must stay together, and its manifest on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from toxfusion.study.files import replace_file
from toxfusion.study.study import Study

UNIT_COLUMNS = ("compound", "control_group")
PARTS = ("train", "valid", "test")


class SplitError(ValueError):
    """A split cannot be made, or lets a unit straddle two parts."""


@dataclass(frozen=True)
class Split:
    """Sample ids of three disjoint parts; samples in none of them are left out of the run.

    Parts overlap in one case: a published split that was taken as it is; its manifest lists the samples.

    Attributes:
        train, valid, test: sample ids in the study's order.
        fold: which fold of its scheme this is.
        manifest: plain JSON: the scheme and its settings, ``transductive``, ``together`` (columns whose
            values never straddle parts), ``valid_together`` (the same between train and valid only, where it
            differs), ``overlap`` (samples that train and test), ``analogues`` (compound -> parent),
            ``unknown_analogues`` (what of their table is no compound of the study), and units, sizes and classes of
            each part.
    """

    train: list[str]
    valid: list[str]
    test: list[str]
    fold: int
    manifest: dict[str, Any] = field(default_factory=dict)

    def part_of(self) -> dict[str, str]:
        """sample_id -> its part; test for a sample that is trained on as well."""
        return {sample: part for part in PARTS for sample in getattr(self, part)}

    def units(self, obs: pd.DataFrame) -> pd.Series:
        """The unit of every sample that must not straddle training and test; see ``split_units``."""
        together = tuple(self.manifest.get("together", UNIT_COLUMNS))
        return split_units(obs, together, self.manifest.get("analogues", {}))

    def check(self, study: Study) -> None:
        """Check that the parts are disjoint (but for the overlap that the manifest lists), known to the study and
        straddled by no unit.

        Raises:
            SplitError: names the compounds that meet across two parts, and through what.
        """
        counts = Counter(s for part in PARTS for s in getattr(self, part))
        both = set(self.manifest.get("overlap", ())) & set(self.train) & set(self.test)
        twice = [s for s, n in counts.items() if n > 1 + (s in both)]
        if twice:
            raise SplitError(
                f"sample {twice[0]!r} is in the split {counts[twice[0]]} times; give it one part"
            )
        unknown = [s for s in counts if s not in study.obs.index]
        if unknown:
            raise SplitError(
                f"the split names sample {unknown[0]!r}, which study {study.name!r} lacks "
                f"({len(unknown)} such samples); split this study anew"
            )
        together = tuple(self.manifest.get("together", UNIT_COLUMNS))
        inner = tuple(self.manifest.get("valid_together", together))
        analogues = self.manifest.get("analogues", {})
        fitted = dict.fromkeys((*self.train, *self.valid), "train or valid") | dict.fromkeys(
            self.test, "test"
        )
        chosen = dict.fromkeys(self.train, "train") | dict.fromkeys(self.valid, "valid")
        _refuse_straddling(study.obs, self.units(study.obs), fitted, together)
        _refuse_straddling(study.obs, split_units(study.obs, inner, analogues), chosen, inner)


def split_units(
    obs: pd.DataFrame,
    together: Sequence[str] = UNIT_COLUMNS,
    analogues: Mapping[str, str] | None = None,
) -> pd.Series:
    """The unit of every sample: samples that share a value of any column of ``together`` are of one unit.

    Args:
        obs: of a study.
        together: columns; an empty string in one of them joins nothing.
        analogues: compound -> parent; both become one unit (salts, prodrugs, close relatives).

    Returns:
        str Series indexed by sample_id; a unit is called after its first value of ``together[0]``.

    Raises:
        SplitError: a column is missing, or empty where it must not be.
    """
    nodes: dict[tuple[str, str], int] = {}
    edges: list[tuple[int, int]] = []
    n = len(obs)
    for column in together:
        for sample, value in enumerate(column_values(obs, column, required=column == together[0])):
            if value:
                edges.append((sample, nodes.setdefault((column, value), n + len(nodes))))
    for compound, parent in (analogues or {}).items():
        if "compound" in together:
            a = nodes.setdefault(("compound", compound), n + len(nodes))
            b = nodes.setdefault(("compound", parent), n + len(nodes))
            edges.append((a, b))
    size = n + len(nodes)
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(size, size))
    component = connected_components(graph, directed=False)[1][:n]
    first = obs[together[0]].astype(str)
    names = first.groupby(component).min()
    return pd.Series([names[c] for c in component], index=obs.index, name="unit", dtype=object)


def column_values(obs: pd.DataFrame, column: str, required: bool) -> list[str]:
    """A column as text, missing values as the empty string."""
    if column not in obs.columns:
        raise SplitError(f"obs has no column {column!r} to split by; there are {list(obs.columns)}")
    values = [str(v) if pd.notna(v) else "" for v in obs[column]]
    if required and "" in values:
        sample = obs.index[values.index("")]
        raise SplitError(f"obs column {column!r} is empty at sample {sample!r}; fill it in to split by it")
    return values


def write_manifest(split: Split, path: Path | str) -> None:
    """Write a split, samples and manifest, as JSON."""
    content = {
        "fold": split.fold,
        "manifest": split.manifest,
        **{part: getattr(split, part) for part in PARTS},
    }
    replace_file(Path(path), json.dumps(content, indent=1).encode())


def read_manifest(path: Path | str) -> Split:
    """Read what ``write_manifest`` wrote.

    Raises:
        SplitError: the file is no split.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        return Split(**content)
    except (json.JSONDecodeError, TypeError) as error:
        raise SplitError(f"{path}: not a split manifest ({error}); split the study anew") from error


def _refuse_straddling(
    obs: pd.DataFrame, units: pd.Series, part_of: Mapping[str, str], together: Sequence[str]
) -> None:
    placed = obs.assign(unit=units, part=obs.index.map(part_of)).dropna(subset="part")
    parts = placed.groupby("unit")["part"].nunique()
    for unit in parts.index[parts > 1]:
        members = placed[placed["unit"] == unit]
        for column in together:
            shared = members[members[column].astype(str) != ""].groupby(column)["part"].unique()
            for value, where in shared.items():
                if len(where) > 1:
                    compounds = sorted(set(members.loc[members[column] == value, "compound"]))
                    raise SplitError(
                        f"{column} {value!r} is in {' and '.join(sorted(where))} (compounds {compounds}); "
                        "keep a compound, its vehicle controls and those it shares them with in one part"
                    )
        a, b = _apart(members)
        raise SplitError(
            f"compounds {a!r} and {b!r} are analogues or share controls (unit {unit!r}), "
            "but lie in different parts; keep them together"
        )


def _apart(members: pd.DataFrame) -> tuple[str, str]:
    """Two compounds of one unit in different parts."""
    part = members.groupby("compound")["part"].first()
    return next((str(a), str(b)) for a, b in combinations(part.index, 2) if part[a] != part[b])


def describe_parts(obs: pd.DataFrame, units: pd.Series) -> dict[str, Any]:
    """Units, sizes and class counts of one part."""
    treated = obs[~obs["is_control"]]
    labels = treated.groupby("compound")["dili"].first()
    members = obs.groupby(units.loc[obs.index])["compound"].unique()
    return {
        "units": {str(unit): sorted(map(str, compounds)) for unit, compounds in members.items()},
        "n_units": len(members),
        "n_compounds": int(obs["compound"].nunique()),
        "n_samples": len(obs),
        "n_controls": int(obs["is_control"].sum()),
        "dili": {
            "positive": int((labels == 1).sum()),
            "negative": int((labels == 0).sum()),
            "unlabelled": int(labels.isna().sum()),
        },
    }
