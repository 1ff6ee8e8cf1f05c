"""What one rank of a job runs: ``python -m toxfusion.distributed.worker FILE`` under torchrun, FILE a resolved config.

Hydra is not here: the job that wrote the file did the composing and the checking.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from toxfusion.config.faults import is_message
from toxfusion.config.nodes import located
from toxfusion.distributed.launch import RUN, die_with_parent, message_file, result_file
from toxfusion.study.files import replace_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the target on the configuration of a file; rank zero writes the metric beside that file.

    A failure with a message for the user is written beside it too, and ends this rank with status 2.
    """
    parser = argparse.ArgumentParser(prog="python -m toxfusion.distributed.worker", description=__doc__)
    parser.add_argument("file", type=Path, help="YAML file of the resolved configuration")
    parser.add_argument("--target", default=RUN, help="function of the configuration that returns the metric")
    parsed = parser.parse_args(arguments)
    if "LOCAL_RANK" in os.environ:
        die_with_parent()
    rank = int(os.environ.get("RANK", "0"))
    _log(rank)
    try:
        metric = float(located(parsed.target)(yaml.safe_load(parsed.file.read_text())))
    except Exception as error:
        if not is_message(error):
            raise
        _write(message_file(parsed.file), {"message": str(error)})
        print(f"rank {rank}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    if rank == 0:
        _write(result_file(parsed.file), {"metric": metric})


def _log(rank: int) -> None:
    """Rank zero speaks, the others warn."""
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(
        level=level, format=f"[%(asctime)s][rank {rank}][%(name)s][%(levelname)s] %(message)s"
    )


def _write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON whole or not at all; of two ranks that write, one wins."""
    replace_file(file, json.dumps(content).encode())


if __name__ == "__main__":
    main()
