"""``python -m toxfusion.predict``: score a study without labels with finished runs."""

from __future__ import annotations

from typing import Any

from toxfusion.config import entry_point


@entry_point("predict")
def main(config: dict[str, Any]) -> None:
    """Score a study without labels: risk per compound, dose group and animal, with the spread over runs."""
    from glob import glob
    from pathlib import Path

    from toxfusion.data.audit import Audit
    from toxfusion.data.study import Study
    from toxfusion.runs import RunError, RunFolder
    from toxfusion.scoring import score_study

    begun = sorted(Path(p) for p in glob(str(config["run"])) if (Path(p) / "config.yaml").is_file())
    runs = [folder for folder in begun if RunFolder(folder).finished() is not None]
    if not runs:
        raise RunError(f"run={config['run']}: no finished run; give a run folder, or a pattern in quotes")
    audit = Audit()
    for folder in begun:
        if folder not in runs:
            audit.drop("predict", "run", str(folder), "not finished: no done.json")
            print(f"left out, not finished: {folder}")
    output = Path(config["paths"]["output"])
    scores = score_study(runs, Study.open(config["study"]), audit)
    output.mkdir(parents=True, exist_ok=True)
    scores.units.to_csv(output / "scores.csv", index=False)
    scores.samples.to_csv(output / "samples.csv", index=False)
    if scores.curves is not None:
        scores.curves.to_csv(output / "survival_curves.csv", index=False)
    audit.write(output / "audit.json")
    top = scores.units[scores.units["task"] == "dili"].sort_values("risk", ascending=False)
    columns = ["compound", "risk", "spread", "low", "high", "n_runs"]
    print(f"{len(runs)} runs; scores of {scores.units['unit_id'].nunique()} units in {output / 'scores.csv'}")
    if len(top):
        print(top[columns].to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    main()
