"""The feature store: seconds of a batch against files a slide and copied memory, and what 50,000 slides cost.

    python benchmarks/store.py layouts [--slides 24] [--tiles 10000] [--dim 1024] [--draw 2048] [--bags 16]
    python benchmarks/store.py scale [--slides 500 50000] [--tiles 2000] [--dim 1024]

layouts: each row draws `--draw` of `--tiles` tiles of `--bags` slides, the same ones, and leaves them in memory.
Features lie as their tool writes them: CLAM's .h5 float32 in chunks of one row, its .pt float32, a contiguous .h5
float16, ours float16. Of each .h5 both ways of reading are timed, indices, or the whole file and then indices. Files
are in the page cache. "training batch" is what training takes: FoldData.batch, float32, standardised, with
coordinates. Slides and tiles are drawn anew each round; a round goes through all rows in turn, so that other work on
the machine slows all alike. Medians. It writes 150 MB a slide below `--folder` (default: where temporary files go),
and removes them.

scale: a study and a store of each number of slides, the rows of its tiles sparse files that take no room. A process of
its own measures each, so that its memory is its own. "index lines" opens without the columns that a writer leaves; cold
batches read pages that the system was asked to forget.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch

from toxfusion.checkup.study_checks import study_problems
from toxfusion.data.datamodule import FoldData
from toxfusion.data.sampling import choose_tiles
from toxfusion.data.tile_reading import READ_THREADS
from toxfusion.data.tile_scaling import TileScaler, fit_tile_scaler
from toxfusion.slides.pipeline import shard_of, tasks_of_study
from toxfusion.study.audit import Audit
from toxfusion.study.bag_store import BagStore
from toxfusion.study.splits import CompoundKFold
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study, write_study

Draw = list[tuple[str, np.ndarray]]
WRITERS = 8
COMPOUNDS = 160


def write_layouts(folder: Path, slides: int, tiles: int, dim: int) -> None:
    """The same features in each layout, and a study around the store."""
    rng = np.random.default_rng(0)
    study = one_slide_a_sample(folder / "study", slides)
    store = BagStore.create(study.root / "features" / "store", StoreSpec("features", "float16", (dim,)))
    with store.writer() as writer:
        for slide in study.slides.index:
            half = rng.standard_normal((tiles, dim), dtype=np.float32).astype(np.float16)
            places = rng.integers(0, 50_000, (tiles, 2))
            writer.append(slide, half, places, tile_size=448.0, mpp0=0.25)
            wide = half.astype(np.float32)
            torch.save(torch.from_numpy(wide), folder / f"{slide}.pt")
            with h5py.File(folder / f"{slide}.clam.h5", "w") as file:
                kept = file.create_dataset(
                    "features", wide.shape, wide.dtype, maxshape=(None, dim), chunks=(1, dim)
                )
                kept[:] = wide
            with h5py.File(folder / f"{slide}.flat.h5", "w") as file:
                file.create_dataset("features", data=half)


def one_slide_a_sample(root: Path, n: int) -> Study:
    """A study of `n` treated animals with a slide each and no expression; the slides are small files."""
    ids = [f"animal_{i:06d}" for i in range(n)]
    compound = [f"compound_{i % COMPOUNDS:03d}" for i in range(n)]
    obs = pd.DataFrame(
        {
            "animal_id": ids,
            "compound": compound,
            "dose": 1.0,
            "dose_level": "high",
            "time_h": 24.0,
            "study": "simulated",
            "batch": "",
            "is_control": False,
            "control_group": "",
            "group_id": compound,
            "dili": [float(i % COMPOUNDS % 2) for i in range(n)],
            "injury": np.nan,
        },
        index=pd.Index(ids, name="sample_id"),
    )
    (root / "slides").mkdir(parents=True)
    for name in ids:
        (root / "slides" / f"{name}.svs").write_text(name)
    empty = dict.fromkeys(("mpp_override", "x", "y", "width", "height"), np.nan)
    slides = pd.DataFrame(
        {"sample_id": ids, "path": [f"slides/{name}.svs" for name in ids], **empty},
        index=pd.Index([f"slide_{name}" for name in ids], name="slide_id"),
    )
    return write_study(
        root,
        obs=obs,
        var=pd.DataFrame({"symbol": []}, index=pd.Index([], name="gene_id")),
        expression=np.zeros((n, 0), np.float32),
        findings=pd.DataFrame(index=obs.index),
        slides=slides,
        provenance={},
        name="simulated",
        species="",
        virtual=True,
        audit=Audit(),
    )


def fold_of(study: Study, store: BagStore) -> FoldData:
    """The data of a fold, its tiles standardised by a scaler that is not fitted (values cost the same)."""
    dim = store.spec.row_shape[0]
    scaler = TileScaler(
        np.zeros(dim, np.float32), np.ones(dim, np.float32), "none", np.zeros(dim, np.float32)
    )
    split = CompoundKFold(n_folds=5, fold=0, valid_fraction=0.2, seed=0)(study)
    labels = {"dili": study.obs["dili"].to_numpy(np.float32)}
    return FoldData(study, split, labels, store=store, expression=None, scaler=scaler, seed=0)


def by_h5(folder: Path, kind: str, whole: bool) -> Callable[[Draw], object]:
    def read(drawn: Draw) -> object:
        batch = []
        for slide, tiles in drawn:
            with h5py.File(folder / f"{slide}.{kind}.h5", "r") as file:
                features = file["features"]
                batch.append(torch.from_numpy(features[:][tiles] if whole else features[tiles]))
        return torch.cat(batch)

    return read


def by_pt(folder: Path, mmap: bool) -> Callable[[Draw], object]:
    def read(drawn: Draw) -> object:
        bags = (torch.load(folder / f"{slide}.pt", weights_only=True, mmap=mmap) for slide, _ in drawn)
        return torch.cat([bag[torch.from_numpy(tiles)] for bag, (_, tiles) in zip(bags, drawn, strict=True)])

    return read


def by_store(store: BagStore, pool: ThreadPoolExecutor) -> Callable[[Draw], object]:
    """The drawn rows as they are stored, one block of memory a bag."""

    def read(drawn: Draw) -> object:
        return list(pool.map(lambda part: store.rows(*part), drawn))

    return read


def layouts(folder: Path, slides: int, tiles: int, dim: int, draw: int, bags: int, rounds: int) -> None:
    write_layouts(folder, slides, tiles, dim)
    study = Study.open(folder / "study")
    store = study.features("store")
    fold = fold_of(study, store)
    half, whole = np.zeros((bags * draw, dim), np.float16), np.zeros((bags * draw, dim), np.float32)
    half_too, whole_too = np.ones_like(half), np.ones_like(whole)
    pool = ThreadPoolExecutor(READ_THREADS)
    ways: dict[str, Callable[[Draw], object]] = {
        "copy as many float32 in memory": lambda drawn: np.copyto(whole_too, whole),
        "copy as many float16 in memory": lambda drawn: np.copyto(half_too, half),
        "training batch": lambda drawn: fold.batch(
            [str(study.slides.at[s, "sample_id"]) for s, _ in drawn], stage="train", tiles_per_bag=draw
        ),
        "store, rows as stored": by_store(store, pool),
        "CLAM .h5, indices": by_h5(folder, "clam", whole=False),
        "CLAM .h5, whole": by_h5(folder, "clam", whole=True),
        ".pt": by_pt(folder, mmap=False),
        ".pt, mmap": by_pt(folder, mmap=True),
        "contiguous float16 .h5, indices": by_h5(folder, "flat", whole=False),
        "contiguous float16 .h5, whole": by_h5(folder, "flat", whole=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        chosen = np.random.default_rng(round_).choice(slides, bags, replace=bags > slides)
        drawn = [
            (str(study.slides.index[i]), choose_tiles(tiles, draw, 0, "benchmark", round_, str(i)))
            for i in chosen
        ]
        for name, read in ways.items():
            start = time.perf_counter()
            read(drawn)
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    batch = medians["training batch"]
    print(
        f"{bags} bags, {draw} of {tiles} tiles of {dim} each; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    for name, median in medians.items():
        print(f"  {name:<34}{1e3 * median:>10.1f} ms{median / batch:>9.2f} x the training batch")


def write_sparse(root: Path, ids: list[str], tiles: int, dim: int) -> BagStore:
    """A store as `WRITERS` killed writers leave it, all its rows zero and none of them on disk."""
    store = BagStore.create(root, StoreSpec("features", "float16", (dim,)))
    crc, place_crc = zlib.crc32(bytes(2 * tiles * dim)), zlib.crc32(bytes(8 * tiles))
    for w in range(WRITERS):
        mine = ids[w::WRITERS]
        base = root / "segments" / f"{w:020d}-1-simulated"
        with open(base.with_suffix(".index"), "wb") as file:
            for i, name in enumerate(mine):
                entry = {"slide_id": name, "start": i * tiles, "n": tiles, "tile_size": 448.0, "mpp0": 0.25}
                payload = json.dumps({**entry, "rows_crc": crc, "coordinates_crc": place_crc}).encode()
                file.write(b"%08x %s\n" % (zlib.crc32(payload), payload))
        for kind, row_bytes in (("rows", 2 * dim), ("coordinates", 8)):
            with open(base.with_suffix(f".{kind}"), "wb") as file:
                file.truncate(len(mine) * tiles * row_bytes)
    return store


def memory() -> dict[str, float]:
    """Resident memory of this process in MB: its own, and pages of files (shared, given back under pressure)."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {key: int(status[key].split()[0]) / 1e3 for key in ("RssAnon", "RssFile")}


def measure_scale(root: Path, rounds: int) -> dict[str, Any]:
    """Seconds and memory of one simulated study, in this process."""
    measured: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        out = work()
        measured[name] = time.perf_counter() - start
        return out

    folder = root / "features" / "store"
    before = memory()["RssAnon"]
    store = timed("open the store, index lines (s)", lambda: BagStore.open(folder))
    for path in sorted((folder / "segments").glob("*.index")):
        store.write_columns(path.stem)
    del store
    store = timed("open the store (s)", lambda: BagStore.open(folder))
    measured["memory of its index (MB)"] = memory()["RssAnon"] - before
    study = timed("open the study (s)", lambda: Study.open(root))
    fold = timed("split and fold (s)", lambda: fold_of(study, store))
    timed("shard 3/8 (s)", lambda: shard_of(tasks_of_study(study), "3/8"))
    problems = timed("doctor, without checksums (s)", lambda: study_problems(study, checksums=False))
    measured["problems found"] = len(problems)
    few = fold.split.train[:20]
    timed("scale fitted on 20 slides (s)", lambda: fit_tile_scaler(study, store, few, "none"))
    start_memory = memory()["RssAnon"]
    for path in (folder / "segments").glob("*.rows"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    for name in ("batch of 16 bags of 1,024 tiles, cold (ms)", "the same batches again (ms)"):
        rng, times = np.random.default_rng(0), []
        for step in range(rounds + 1):
            chosen = [str(s) for s in rng.choice(fold.split.train, 16, replace=False)]
            start = time.perf_counter()
            fold.batch(chosen, stage="train", step=step, tiles_per_bag=1024)
            times.append(time.perf_counter() - start)
        measured[name] = 1e3 * statistics.median(times[1:])
    measured["memory after the batches, grown by (MB)"] = memory()["RssAnon"] - start_memory
    measured["pages of files mapped (MB)"] = memory()["RssFile"]
    return measured


def scale(folder: Path, sizes: list[int], tiles: int, dim: int, rounds: int) -> None:
    columns = {}
    for n in sizes:
        study = one_slide_a_sample(folder / f"study{n}", n)
        write_sparse(study.root / "features" / "store", list(study.slides.index), tiles, dim)
        cell = subprocess.run(
            [sys.executable, __file__, "cell", "--folder", str(study.root), "--rounds", str(rounds)],
            check=True,
            capture_output=True,
            text=True,
        )
        columns[n] = json.loads(cell.stdout.splitlines()[-1])
    print(f"slides of {tiles} tiles of {dim}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"  {'':<42}" + "".join(f"{n:>12,}" for n in sizes))
    for name in columns[sizes[0]]:
        print(f"  {name:<42}" + "".join(f"{columns[n][name]:>12.3f}" for n in sizes))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("layouts", "scale", "cell"))
    parser.add_argument("--slides", type=int, nargs="+")
    parser.add_argument("--tiles", type=int)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--draw", type=int, default=2048)
    parser.add_argument("--bags", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "cell":
        print(json.dumps(measure_scale(arguments.folder, arguments.rounds)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.what == "layouts":
            slides = (arguments.slides or [24])[0]
            layouts(
                Path(folder),
                slides,
                arguments.tiles or 10_000,
                arguments.dim,
                arguments.draw,
                arguments.bags,
                arguments.rounds,
            )
        else:
            scale(
                Path(folder),
                arguments.slides or [500, 50_000],
                arguments.tiles or 2000,
                arguments.dim,
                arguments.rounds,
            )


if __name__ == "__main__":
    main()
