"""What extraction and training of a large study take: bytes, GPU hours by encoder, store, jobs. An estimate, not a run.

    python benchmarks/plan.py [--slides 53000] [--terabytes 25] [--tiles 2000] [--teraflops 125]

Operations of each encoder's forward pass are counted on its architecture (two for a multiplication with its addition).
All else is arithmetic on what is given: `--teraflops` a GPU sustains (125: 40 % of an A100's 312 in bf16, an
assumption), `--decode` tiles a second that a core reads (`benchmarks/extraction.py readers`), `--read` megabytes a
second that a job gets from the disk of slides, `--hours` a SLURM job may run.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from toxfusion.models.published import ENCODERS, PublishedEncoder

ROW_BYTES = 8  # coordinates of a tile
HALF_BYTES = 2
CPUS = 8  # of a job


def operations(name: str, batch: int = 2) -> float:
    """Floating-point operations of one tile's forward pass; nothing is computed."""
    with torch.device("meta"):
        encoder = PublishedEncoder(ENCODERS[name]).eval()
        side = encoder.spec.input_px
        tiles = torch.empty(batch, side, side, 3, dtype=torch.uint8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder(tiles)
    return counter.get_total_flops() / batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=int, default=53_000)
    parser.add_argument("--terabytes", type=float, default=25.0)
    parser.add_argument("--tiles", type=int, default=2_000, help="of a slide (grid.max_tiles)")
    parser.add_argument("--teraflops", type=float, default=125.0)
    parser.add_argument("--decode", type=float, default=1_000.0)
    parser.add_argument("--read", type=float, default=200.0)
    parser.add_argument("--hours", type=float, default=8.0)
    arguments = parser.parse_args()
    tiles = arguments.slides * arguments.tiles
    print(
        f"{arguments.slides:,} slides, {arguments.terabytes:g} TB, {tiles / 1e6:,.0f} million tiles of 224 px"
    )
    read = arguments.terabytes * 1e6 / arguments.read / 3600
    decode = tiles / arguments.decode / CPUS / 3600
    print(f"reading every byte once: {read:,.1f} h of one job at {arguments.read:g} MB/s")
    print(f"decoding: {decode:,.1f} h of one job of {CPUS} cores at {arguments.decode:g} tiles/s a core")
    print(f"{'encoder':<15}{'GFLOP/tile':>11}{'tiles/s':>9}{'GPU h':>8}{'jobs':>6}{'store GB':>10}")
    for name, encoder in ENCODERS.items():
        flops = operations(name)
        rate = arguments.teraflops * 1e12 / flops
        gpu = tiles / rate / 3600
        jobs = math.ceil(max(gpu, decode, read) / arguments.hours)
        size = tiles * (encoder.dim * HALF_BYTES + ROW_BYTES) / 1e9
        print(f"{name:<15}{flops / 1e9:>11.1f}{rate:>9,.0f}{gpu:>8.1f}{jobs:>6}{size:>10,.0f}")


if __name__ == "__main__":
    main()
