"""``toxfusion <command>``, the same as ``python -m toxfusion.<command>``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from toxfusion.config.ending import say

COMMANDS = {
    "doctor": "what is installed and works here, and whether a study is sound",
    "demo": "the whole way on a virtual study, in minutes",
    "synthesize": "write a virtual rat-liver study with known truth",
    "prepare": "write a study from tables and images, with an audit of what was dropped",
    "extract": "slides to tiles and features, resumable",
    "train": "pretrain, fine-tune, test; every ablation is an override",
    "evaluate": "score a finished run again, with intervals and probes",
    "compare": "many runs in one table, with paired differences",
    "predict": "score a study without labels",
    "export": "finished runs as one bundle, for use without their study",
    "explain": "regions, genes and modalities behind a prediction, in one report",
    "dashboard": "build the Weights & Biases workspace of a project",
}


def usage() -> str:
    """The commands, in the order in which a first study takes them."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {purpose}" for name, purpose in COMMANDS.items()]
    return "\n".join(["usage: toxfusion COMMAND [key=value ...]", "", *lines, "", "toxfusion COMMAND --help"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Hand the rest of the line to a command. An unknown command ends with status 2 and the nearest names."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    if not line or line[0] in ("-h", "--help"):
        say(usage())
    elif line[0] in ("-V", "--version"):
        print(importlib.import_module("toxfusion").__version__)
    elif line[0] in COMMANDS:
        importlib.import_module(f"toxfusion.{line[0]}").main(line[1:])
    else:
        near = get_close_matches(line[0], COMMANDS, n=2) or list(COMMANDS)
        print(f"error: no command {line[0]!r}; did you mean {' or '.join(near)}?", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
