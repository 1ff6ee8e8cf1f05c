"""``python -m toxfusion.dashboard``: the workspace of a W&B project, written as JSON and saved with an account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point
from toxfusion.config.faults import ConfigError


@entry_point("dashboard")
def main(config: dict[str, Any]) -> None:
    """Build the Weights & Biases workspace of a project, write it as JSON, and save it where asked.

    Examples:
      toxfusion dashboard entity=mylab
      toxfusion dashboard entity=mylab project=liver save=true
    """
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "the package wandb-workspaces is not installed; pip install 'toxfusion[dashboard]'"
        ) from error
    from toxfusion.training.workspace import build_workspace, save_workspace, write_workspace

    output = Path(config["paths"]["output"]) / "workspace.json"
    workspace = build_workspace(
        config["entity"], config["project"], config["name"], terms=list(config["pretrain"]["terms"])
    )
    write_workspace(workspace, output)
    print(f"{sum(len(section.panels) for section in workspace.sections)} panels written to {output}")
    if config["save"]:
        print(save_workspace(workspace))


if __name__ == "__main__":
    main()
