"""``python -m toxfusion.explain``: which tiles, genes and modalities the predictions of a run go with."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


@entry_point("explain")
def main(config: dict[str, Any]) -> None:
    """Explain finished runs: regions, genes, pathways, fusion and cohort as tables, pictures, GeoJSON and one HTML
    report, from their test samples.

    Examples:
      toxfusion explain run=outputs/mine/full
      toxfusion explain run=outputs/mine/full/fold0_seed0 tasks=[dili] n_slides=8
    """
    import pandas as pd

    from toxfusion.explanation.explaining import ExplainSettings, explain_runs, finished_runs
    from toxfusion.explanation.pathways import GeneSetSettings
    from toxfusion.report.pages import write_report
    from toxfusion.study.audit import Audit

    output = Path(config["paths"]["output"])
    options = {field.name: config[field.name] for field in fields(ExplainSettings)}
    settings = ExplainSettings(**{**options, "gene_sets": GeneSetSettings(**config["gene_sets"])})
    if not config["report"]:
        settings = replace(settings, viewer_px=0)
    manifest = explain_runs(finished_runs(Path(config["run"])), output, settings)
    if config["report"]:
        print(f"report: {write_report(output, compound_pages=config['compound_pages'])}")
    stability = output / "genes" / "stability.csv"
    n = len(manifest["runs"])
    print(f"{n} run{'s' if n > 1 else ''} explained in {output}")
    if stability.is_file():
        print(pd.read_csv(stability).to_string(index=False, float_format="%.3f"))
    if left_out := Audit.read(output / "audit.json").dropped.summary():
        print(f"left out:\n{left_out}")


if __name__ == "__main__":
    main()
