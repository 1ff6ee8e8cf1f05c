"""``python -m toxfusion.compare``: many runs into one table with paired differences and corrected p-values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


@entry_point("compare")
def main(config: dict[str, Any]) -> None:
    """Set finished runs, and other models' predictions, beside a reference: intervals, paired differences, corrected
    p-values, shares of the oracle.

    Examples:
      toxfusion compare runs=outputs/mine
      toxfusion compare "runs=outputs/mine/*" reference=supervised_concat output=tables
    """
    from toxfusion.runs.compared import compare_runs

    settings = {key: config[key] for key in ("reference", "draws", "seed", "interval")}
    external = config["external"]
    compare_runs(
        str(config["runs"]),
        Path(config["paths"]["output"]),
        external=[external] if isinstance(external, str) else external or (),
        **settings,
    )


if __name__ == "__main__":
    main()
