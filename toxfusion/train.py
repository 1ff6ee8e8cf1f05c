"""``python -m toxfusion.train``: pretrain, fine-tune, test; every ablation is an override."""

from __future__ import annotations

from typing import Any

from toxfusion.config.entry import entry_point


@entry_point("train")
def main(config: dict[str, Any]) -> float:
    """Pretrain on slides and expression, fine-tune for liver injury, test on held-out compounds."""
    from toxfusion.runs.after import report
    from toxfusion.training.run import run

    objective = run(config)
    report(config)
    return objective


if __name__ == "__main__":
    main()
