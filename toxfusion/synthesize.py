"""Write a virtual rat-liver study (slides, expression, labels, planted truth), or audit the generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


@entry_point("synthesize")
def main(config: dict[str, Any]) -> float | None:
    """Write a virtual rat-liver study with known truth into `output`.

    With slides=false expression and labels only; with audit=true the generator is checked, and the slides of a study.

    Examples:
      toxfusion synthesize output=studies/demo size=demo seed=1
      toxfusion synthesize output=studies/demo size=demo slides=false
      toxfusion synthesize output=studies/demo audit=true
    """
    from toxfusion.synthetic.audit import audit_study
    from toxfusion.synthetic.study import study_config, synthesize_study

    study = study_config(config)
    if config["audit"]:
        print(audit_study(Path(config["output"]), study))
        return None
    written = synthesize_study(Path(config["output"]), study, progress=True)
    print(
        f"{written.root}: study {written.name!r}, {len(written.obs)} samples of "
        f"{written.obs['compound'].nunique()} compounds, {len(written.slides)} slides, {len(written.var)} genes"
    )
    return None


if __name__ == "__main__":
    main()
