"""Cells of the benchmark on pairs, and where their files lie."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.cells import Cell
from benchmarks.pairs_methods import METHODS, Method


class PairsCell(Cell[Method]):
    """A cell that leaves several tables of readings beside each other."""

    last = "readings/labels.parquet"
    seeded = True


def truth_of(output: Path, fold: int) -> Path:
    """Where the standardised expression of a fold lies, patients x genes."""
    return output / "truth" / f"fold{fold}.parquet"


def cells_of(arguments: argparse.Namespace) -> Iterator[PairsCell]:
    """Fold by fold and seed by seed, so that a partial run has whole columns of fewer folds."""
    for seed in arguments.seeds:
        for fold in arguments.folds:
            for name in arguments.methods:
                method = METHODS[name]
                if method.takes_sets and arguments.gene_sets is not None:
                    gmt = f"expression.gene_sets.gmt={arguments.gene_sets.resolve()}"
                    sets = ("expression=pathways", gmt)
                    method = replace(method, overrides=(*(method.overrides or ()), *sets))
                if method.overrides is not None or seed == arguments.seeds[0]:
                    yield PairsCell(method, fold, arguments.output, seed)
