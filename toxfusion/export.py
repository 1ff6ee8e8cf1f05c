"""``python -m toxfusion.export``: finished runs into a bundle that is used without their study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toxfusion.config.command import entry_point


@entry_point("export")
def main(config: dict[str, Any]) -> None:
    """Write finished runs of one experiment as a bundle: safetensors, contract, card and hashes, and no pickle.

    Examples:
      toxfusion export "run=outputs/mine/full/*" output=bundles/full
      toxfusion export run=outputs/mine/full/fold0_seed0 output=bundles/fold0 license=cc-by-nc-4.0
    """
    from toxfusion.runs.exporting import export_runs
    from toxfusion.runs.named import named_runs
    from toxfusion.study.audit import Audit

    output = Path(config["output"])
    runs = named_runs(str(config["run"]), Audit())
    bundle = export_runs(runs, output, licence=config["license"], draws=config["draws"])
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{len(bundle.runs)} runs of {runs[0].read_config()['name']} in {output}, {size / 1e6:.1f} MB")
    print(f"SHA-256 of the whole: {bundle.digest}")
    print(f"next:\n  read {output / 'README.md'}, and say there what you know beyond it")
    print(f"  toxfusion predict run={output} study=STUDY")
    print(f"  hf upload OWNER/NAME {output}")


if __name__ == "__main__":
    main()
