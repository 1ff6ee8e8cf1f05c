"""``python -m toxfusion.train``: pretrain, fine-tune, test; every ablation is an override."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


def after_sweep(outputs: Path) -> None:
    """Say what to run on the cells of a sweep."""
    print(f"next:\n  toxfusion compare runs={outputs}")


@entry_point("train", after_sweep)
def main(config: dict[str, Any]) -> float:
    """Pretrain on slides and expression, fine-tune for liver injury, test on held-out compounds.

    Examples:
      toxfusion train data.root=studies/mine
      toxfusion train experiment=ablation_noxattn data.root=studies/mine split.fold=1
      toxfusion train -m experiment=full,supervised_concat split.fold=0,1,2,3,4 data.root=studies/mine
      toxfusion train data.root=studies/mine trainer=gpu size=demo pretrain.weights.align=0.5
    """
    from toxfusion.config.entry import is_sweep
    from toxfusion.runs.after import next_steps, report
    from toxfusion.training.run import run

    objective = run(config)
    report(config)
    print(next_steps(config, brief=is_sweep()), end="")
    return objective


if __name__ == "__main__":
    main()
