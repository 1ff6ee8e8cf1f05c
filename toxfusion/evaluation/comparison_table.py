"""The table of a comparison in numbers and in words: a row for each experiment and headline, oracles beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from toxfusion.evaluation.families import METRIC_NAMES
from toxfusion.study.vocabulary import in_order, members_of, title_of

ORACLE_NAMES = {"both": "oracle", "slide": "oracle, slides alone", "expression": "oracle, expression alone"}
_NAN = float("nan")


@dataclass(frozen=True)
class Comparison:
    """The table and what must be said beside it.

    Attributes:
        reference: the experiment that differences are taken from.
        table: one row per experiment and headline: experiment, headline, family, metric, pairs ("folds" or "pooled",
            see ``Pairing``), pairs_reason, n_tasks (in the average), averaged, n, n_compounds, n_imputed, prevalence,
            undefined_draws, value, low, high, folds, pooled, strata (the same metric within folds, pooled over them,
            and inside dose x time, each with _low and _high), difference, difference_low, difference_high, p, p_draws,
            p_at_floor (no draw on the other side of zero: p is a bound), p_holm (over the experiments of the headline),
            n_paired, strata_difference (and _low, _high), oracle, share, share_low, share_high, above_oracle
            (of both views, or of the one that the method reads), transductive, null, flags (in words).
        oracles: one row per headline and view (``oracles.VIEWS``), on the units of the reference: headline, view,
            value, low, high, n; empty for real studies.
        notes: incomplete folds, suspected leaks, runs left out, pairs that could not be made.
    """

    reference: str
    table: pd.DataFrame
    oracles: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def headlines(self) -> list[str]:
        return in_order(self.table["headline"])

    def metric_of(self, headline: str) -> str:
        """The metric that a headline is compared by."""
        return str(self.table.loc[self.table["headline"] == headline, "metric"].iloc[0])

    def wide(self) -> pd.DataFrame:
        """One row per experiment, columns ``<headline>_<column>``."""
        columns = [c for c in self.table.columns if c not in ("experiment", "headline", "metric")]
        wide = self.table.pivot(index="experiment", columns="headline", values=columns)
        ordered = pd.DataFrame({f"{h}_{c}": wide[(c, h)] for h in self.headlines for c in columns})
        return (
            ordered.reindex(self.table["experiment"].drop_duplicates())
            .infer_objects()
            .rename_axis("experiment")
        )

    def summary(self) -> pd.DataFrame:
        """One row per experiment, text: each headline's value with its interval; * = differs from the
        reference.
        """
        spans = _spans(self.table)
        stars = np.where(self.table["p_holm"] < 0.05, "*", "")
        cells = {
            (experiment, headline): span + star
            for experiment, headline, span, star in zip(
                self.table["experiment"], self.table["headline"], spans, stars, strict=True
            )
        }
        known = zip(self.oracles["view"], self.oracles["headline"], _spans(self.oracles), strict=True)
        cells |= {(ORACLE_NAMES[view], headline): span for view, headline, span in known}
        views = [ORACLE_NAMES[v] for v in self.oracles["view"].drop_duplicates()]
        experiments = [*self.table["experiment"].drop_duplicates(), *views]
        columns = {f"{h} {METRIC_NAMES[self.metric_of(h)]}": [cells.get((e, h), "") for e in experiments]
                   for h in self.headlines}  # fmt: skip
        return pd.DataFrame({"experiment": experiments, **columns})

    def details(self, headline: str) -> pd.DataFrame:
        """One row per experiment, text, for one headline."""
        of_headline = self.table[self.table["headline"] == headline]
        shown = pd.DataFrame({"experiment": of_headline["experiment"]})
        metric = METRIC_NAMES[self.metric_of(headline)]
        shown[f"{metric} [95 %]"] = _spans(of_headline)
        difference = _spans(of_headline, "difference", "difference_low", "difference_high", signed=True)
        shown[f"minus {self.reference} [95 %]"] = [
            "reference" if e == self.reference else d
            for e, d in zip(of_headline["experiment"], difference, strict=True)
        ]
        for name, column in (("p", "p"), ("p (Holm)", "p_holm")):
            shown[name] = [
                _p(p, low) for p, low in zip(of_headline[column], of_headline["p_at_floor"], strict=True)
            ]
        if of_headline["share"].notna().any():
            shown["share of oracle [95 %]"] = _spans(of_headline, "share", "share_low", "share_high")
        if of_headline["strata"].notna().any():
            shown["within dose x time"] = [span(v, _NAN, _NAN) for v in of_headline["strata"]]
        other = {"folds": "pooled", "pooled": "folds"}[of_headline["pairs"].iloc[0]]
        if of_headline[other].notna().any():
            name = {"folds": "within folds", "pooled": "pooled over folds"}[other]
            shown[name] = [span(v, _NAN, _NAN) for v in of_headline[other]]
        shown["n"] = of_headline["n"].astype(str)
        if (of_headline["flags"] != "").any():
            shown["flags"] = of_headline["flags"]
        known = self.oracles[self.oracles["headline"] == headline]
        best = pd.DataFrame({"experiment": known["view"].map(ORACLE_NAMES), f"{metric} [95 %]": _spans(known),
                             "n": known["n"].astype(str)})  # fmt: skip
        return pd.concat([shown, best], ignore_index=True).fillna("")

    def heading(self, headline: str) -> str:
        """Title of a headline's block: what is counted, how many, how common."""
        of_headline = self.table[self.table["headline"] == headline]
        first = of_headline.iloc[0]
        parts = [f"{first['n_tasks']} {members_of(headline)}"] if first["averaged"] else []
        parts.append(units_of(first["n"], first["n_compounds"]))
        if not math.isnan(first["prevalence"]):
            parts.append(f"{100 * first['prevalence']:.0f} % positive")
        if not math.isnan(first["oracle"]):
            parts.append(f"oracle {first['oracle']:.2f}")
        if first["pairs_reason"]:
            parts.append(first["pairs_reason"])
        return f"{title_of(headline)}: {METRIC_NAMES[self.metric_of(headline)]} ({', '.join(parts)})"


def units_of(n: int, n_compounds: int) -> str:
    """Say "240 units of 80 compounds", or "359 units" where each compound, or patient, is one unit."""
    return f"{n} units" if n == n_compounds else f"{n} units of {n_compounds} compounds"


def span(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A value with its interval, two decimals; "" for NaN, and no interval where its ends are NaN."""
    if math.isnan(value):
        return ""
    spec = "+.2f" if signed else ".2f"
    if math.isnan(low):
        return f"{value:{spec}}"
    return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"


def _spans(
    table: pd.DataFrame, value: str = "value", low: str = "low", high: str = "high", *, signed: bool = False
) -> list[str]:
    return [
        span(v, a, b, signed=signed) for v, a, b in zip(table[value], table[low], table[high], strict=True)
    ]


def _p(p: float, at_floor: bool) -> str:
    """Three decimals, or one digit where it is smaller; "< bound" where no draw lies on the other side of zero."""
    if math.isnan(p):
        return ""
    if at_floor and p < 1:
        scale = 10.0 ** math.floor(math.log10(p))
        bound = math.ceil(round(p / scale, 3)) * scale
        return f"< {bound:.{max(3, 1 - math.floor(math.log10(p)) - 1)}f}".rstrip("0")
    return f"{p:.3f}" if p >= 0.001 else f"{p:.{-math.floor(math.log10(p))}f}"
