"""``python -m toxfusion.predict``: score a study without labels with finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


@entry_point("predict")
def main(config: dict[str, Any]) -> None:
    """Score a study without labels: calibrated risk, spread over runs, distance from training, and abstention.

    Examples:
      toxfusion predict "run=outputs/mine/full/*" study=studies/new
      toxfusion predict run=bundles/full study=studies/new error=0.2
      toxfusion predict run=hf://owner/name study=studies/new
    """
    from toxfusion.evaluation import figures
    from toxfusion.runs.named import named_runs
    from toxfusion.runs.new_study import score_study
    from toxfusion.study.audit import Audit
    from toxfusion.study.study import Study

    audit = Audit()
    runs = named_runs(str(config["run"]), audit, config["trust"])
    output = Path(config["paths"]["output"])
    study = Study.open(config["study"])
    scores = score_study(runs, study, audit, alpha=config["alpha"], error=config["error"])
    output.mkdir(parents=True, exist_ok=True)
    scores.units.to_csv(output / "scores.csv", index=False)
    scores.compounds.to_csv(output / "compounds.csv", index=False)
    scores.samples.to_csv(output / "samples.csv", index=False)
    (output / "notes.txt").write_text("".join(f"{note}\n" for note in scores.notes))
    if scores.curves is not None:
        scores.curves.to_csv(output / "survival_curves.csv", index=False)
    audit.write(output / "audit.json")
    top = scores.units[scores.units["task"] == "dili"].sort_values("risk", ascending=False)
    columns = ["compound", "risk", "spread", "calibrated", "distance_percentile", "abstain", "reason"]
    print(f"{len(runs)} runs; scores of {scores.units['unit_id'].nunique()} units in {output / 'scores.csv'}")
    if len(top):
        figures.risks(top, output / "risk.png", title=study.name)
        print(top[columns].to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    print(*scores.notes, sep="\n")


if __name__ == "__main__":
    main()
