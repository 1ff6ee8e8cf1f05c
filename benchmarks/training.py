"""Seconds and peak memory of one training step: bag encoders by bag length, pretraining presets at the published size.

    python benchmarks/training.py bags       # one slide of 1,000 to 100,000 tiles, forward and backward, width 768
    python benchmarks/training.py exact      # the same without gradient: evaluation on all tiles
    python benchmarks/training.py presets    # 4 and 16 samples of 2,048 tiles and 10,234 genes, a whole optimiser step

Every cell is a process of its own, so that its peak memory is its own: the median over steps after one to warm up, and
the peak of the process above what it took before the model and the data were made (of the card, with --device cuda).
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from toxfusion.config.entry import compose
from toxfusion.config.nodes import part
from toxfusion.data.batch import Batch, RaggedTiles
from toxfusion.training.assemble import build_network, build_terms
from toxfusion.training.optimization import Optimization
from toxfusion.training.pretraining import PretrainingModule
from toxfusion.training.settings import RunSettings

TILE_DIM, N_GENES, BAG = 768, 10_234, 2_048
LENGTHS = (1_000, 4_000, 16_000, 100_000)
ENCODERS = ("mean", "max", "abmil", "latent", "transmil")
PRESETS = (
    "experiment=full",
    "experiment=mirror",
    "experiment=tangle",
    "pretrain=tangle_rec",
    "pretrain=clip",
    "pretrain=siglip",
)
BATCHES = (4, 16)
LIMIT_S = 900
GIB = 2**30


def resident() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(step: Callable[[], None], before: int, steps: int, device: str) -> str:
    """Median seconds of a step and its peak memory, as a line of output."""
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident() - before
    return f"{statistics.median(seconds[1:]):.3f} {peak / GIB:.2f}"


def bag_cell(encoder: str, length: int, steps: int, device: str, gradient: bool) -> str:
    config = compose("train", ["data.root=none", "size=published", f"bag={encoder}"])
    before = resident()
    torch.manual_seed(0)
    features = torch.randn(length, TILE_DIM, device=device)
    side = int(length**0.5) + 1
    place = torch.arange(length, device=device)
    coordinates = torch.stack([place % side, place // side], 1).float() * 112
    tiles = RaggedTiles(features, coordinates, torch.tensor([0, length], device=device))
    model = part(config["bag"])(in_dim=TILE_DIM).to(device)
    if not gradient:
        before = resident()  # what is asked for is the memory above the features
        model.eval()

    def step() -> None:
        with torch.set_grad_enabled(gradient):
            out = model(tiles)
        if gradient:
            model.zero_grad()
            out.vector.square().mean().backward()

    return measure(step, before, steps, device)


def preset_cell(preset: str, size: int, steps: int, device: str) -> str:
    settings = RunSettings.read(compose("train", ["data.root=none", "size=published", preset]))
    before = resident()
    torch.manual_seed(0)
    network = build_network(settings.network, n_genes=N_GENES, tile_dim=TILE_DIM)
    terms = build_terms(
        settings.pretrain.terms, settings.network, network, n_genes=N_GENES, tile_dim=TILE_DIM
    )
    plan = Optimization(1e-4, 0.0, 0.0, 100)
    module = PretrainingModule(network, terms, optimization=plan, seed=0).to(device)
    optimizer = plan.configure(module)["optimizer"]
    yes, each = torch.ones(size, dtype=torch.bool), torch.arange(size)
    batch = Batch(
        sample_ids=[str(i) for i in range(size)],
        tiles=RaggedTiles(
            torch.randn(size * BAG, TILE_DIM), torch.rand(size * BAG, 2) * 5000, torch.arange(size + 1) * BAG
        ),
        expression=torch.randn(size, N_GENES),
        has_slide=yes,
        has_expression=yes,
        compound=each,
        group=each,
        animal=each,
        is_control=~yes,
        labels={},
        step=0,
    ).to(device)
    kind = torch.bfloat16 if device == "cuda" else None

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, kind, enabled=kind is not None):
            losses, _ = module.losses(batch, torch.Generator().manual_seed(0))
        total = torch.stack([terms.weights[name] * loss for name, loss in losses.items()]).sum()
        total.backward()
        optimizer.step()

    return measure(step, before, steps, device)


def in_own_process(cell: tuple[str, ...]) -> tuple[str, str]:
    """Seconds and GiB of a cell; what went wrong where it did not finish."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, *cell], capture_output=True, text=True, timeout=LIMIT_S, check=True
        )
    except subprocess.TimeoutExpired:
        return f"> {LIMIT_S} s", ""
    except subprocess.CalledProcessError as error:
        return "failed", (error.stderr.strip().splitlines() or ["killed"])[-1][:60]
    seconds, memory = done.stdout.split()
    return f"{float(seconds):.3f} s", f"{memory} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("bags", "exact", "presets"))
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", nargs="*", help="encoders or presets; all without")
    parser.add_argument("--cell", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    common = ("--steps", str(arguments.steps), "--device", arguments.device)
    if arguments.cell:
        name, size = arguments.cell[0], int(arguments.cell[1])
        if arguments.part == "presets":
            print(preset_cell(name, size, arguments.steps, arguments.device))
        else:
            print(bag_cell(name, size, arguments.steps, arguments.device, arguments.part == "bags"))
        return
    names, sizes = (PRESETS, BATCHES) if arguments.part == "presets" else (ENCODERS, LENGTHS)
    print(
        f"{'':<20}{'samples' if arguments.part == 'presets' else 'tiles':>10}{'step':>12}{'peak memory':>14}"
    )
    for name in arguments.only or names:
        for size in sizes:
            seconds, memory = in_own_process((arguments.part, *common, "--cell", name, str(size)))
            print(f"{name:<20}{size:>10,}{seconds:>12}{memory:>14}", flush=True)


if __name__ == "__main__":
    main()
