"""``python -m toxfusion.doctor``: what is installed and works here, and whether a study is sound."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point
from toxfusion.config.faults import ConfigError


@entry_point("doctor")
def main(config: dict[str, Any]) -> None:
    """What is installed and works here; with study=FOLDER whether it and its stores are sound (else exit status 1).

    Examples:
      toxfusion doctor
      toxfusion doctor study=studies/mine
      toxfusion doctor study=studies/mine batch_audit=true
    """
    from toxfusion.checkup import installation as here
    from toxfusion.checkup import study_checks
    from toxfusion.study.study import Study

    if config["study"] is None:
        for key in ("repair", "batch_audit"):
            if config[key]:
                raise ConfigError(f"{key}=true needs study=FOLDER")
        lines = chain(here.versions(), here.devices(), here.readers(), here.encoders(), here.launchers())
        for line in lines:
            print(line, flush=True)
        print(here.disk(Path(config["paths"]["outputs"])))
        return
    study, output = Study.open(Path(config["study"])), Path(config["paths"]["output"])
    print("\n".join([*study_checks.describe(study), here.disk(study.root)]))
    if config["repair"]:
        print("\n".join(study_checks.repaired(study)))
    if config["batch_audit"]:
        of = {key: config[f"batch_{key}"] for key in ("columns", "features", "permutations")}
        print("\n".join(study_checks.batches(study, output / "batch_audit.csv", **of)))
    problems = study_checks.study_problems(study, checksums=config["checksums"])
    print("\n".join(study_checks.report(problems, output / "problems.csv")))
    if problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
