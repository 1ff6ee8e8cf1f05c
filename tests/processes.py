"""Processes that a test starts: forked from one server that has imported what a run imports, once for all tests."""

from __future__ import annotations

import multiprocessing

#: Start method for ``multiprocessing`` and ``torch.multiprocessing``.
METHOD = "forkserver"

multiprocessing.set_forkserver_preload(["lightning.pytorch", "toxfusion.training.run"])
