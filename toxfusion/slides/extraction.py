"""One extraction from its settings: which slides, which grid, which encoder, into which store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from toxfusion.console.progress import Progress
from toxfusion.data.encoding import BagEncoder, encode_tile_store
from toxfusion.models.published import LoadedEncoder, load_encoder
from toxfusion.slides.grid import TileGrid
from toxfusion.slides.ledger import Ledger, summary, write_audit
from toxfusion.slides.pipeline import (
    TileSink,
    default_jobs,
    extract_slides,
    shard_of,
    tasks_of_files,
    tasks_of_study,
    write_contact_sheet,
)
from toxfusion.slides.planning import SlideTask, file_name, stain_target
from toxfusion.slides.stain import TARGET_FILE, StainNormaliser, read_target
from toxfusion.study.bag_store import BagStore
from toxfusion.study.feature_files import write_clam_h5
from toxfusion.study.store_spec import StoreSpec
from toxfusion.study.study import Study


class ExtractionError(ValueError):
    """Settings of an extraction that do not go together, or a device that is not there."""


@dataclass(frozen=True)
class Place:
    """Where slides come from and stores go: a study folder, or an output folder.

    Attributes:
        root: holds tiles/ and features/. audit: the audit file that gets the slides left out.
        tasks: the slides of this shard. all_tasks: those of every shard.
    """

    root: Path
    audit: Path
    tasks: list[SlideTask]
    all_tasks: list[SlideTask]


def extract(config: dict[str, Any]) -> None:
    """Tiles, features, or features as files, as the settings of ``conf/extract.yaml`` say.

    Raises:
        ExtractionError: settings that do not go together.
        StoreError, SlideError, EncoderError: as the parts that are called.
    """
    _check(config)
    if config["output"] == "h5":
        _export_features(config)
    elif config["output"] == "tiles":
        _extract_tiles(config)
    elif config["input"] == "tiles":
        _encode_tiles(config)
    else:
        _extract_features(config)


def _check(config: dict[str, Any]) -> None:
    """Raise ExtractionError for choices that do not go together."""
    for key, options in (("output", ("tiles", "features", "h5")), ("input", ("slides", "tiles"))):
        if config[key] not in options:
            raise ExtractionError(f"{key}={config[key]}: choose {' or '.join(options)}")
    if (config["study"] is None) == (config["slides"] is None):
        raise ExtractionError("give either study=FOLDER or slides=FOLDER_OR_FILES")
    if config["output"] != "features" and config["input"] == "tiles":
        raise ExtractionError("input=tiles makes features: add output=features")
    stains = ("none", "macenko", "vahadane", "reinhard")
    if config["stain"] not in stains:
        raise ExtractionError(f"stain={config['stain']}: choose {', '.join(stains)}")
    if config["stain"] == "none" and config["stain_target"] is not None:
        raise ExtractionError("stain_target goes with stain=macenko, vahadane or reinhard")
    if config["stain"] != "none" and (config["output"] == "h5" or config["input"] == "tiles"):
        raise ExtractionError(
            f"stain={config['stain']} is of tiles as they are read from slides: give it with output=tiles, or with "
            "output=features input=slides"
        )


def _extract_tiles(config: dict[str, Any]) -> None:
    grid, place = _grid(config), _place(config)
    root = place.root / "tiles" / (config["name"] or "default")
    stain = _stain(config, place, grid, root)
    spec = StoreSpec("tiles", "uint8", (grid.tile_px, grid.tile_px, 3), _about_tiles(grid, stain))
    store = BagStore.create(root, spec)
    _run(config, place, store, grid, TileSink, stain)


def _extract_features(config: dict[str, Any]) -> None:
    grid, place = _grid(config), _place(config)
    device = _device(config["device"])
    loaded = _encoder(config, grid.mpp, grid.tile_px, device)
    root = place.root / "features" / (config["name"] or loaded.name)
    stain = _stain(config, place, grid, root)
    store = BagStore.create(root, _feature_spec(loaded, _about_tiles(grid, stain)))
    make_sink = partial(
        BagEncoder,
        _half(loaded, device, config["half"]),
        batch_size=config["batch_size"],
        device=device,
        across_bags=device != "cpu",
    )
    _run(config, place, store, grid, lambda writer, ended: make_sink(writer, ended=ended), stain)


def _encode_tiles(config: dict[str, Any]) -> None:
    place = _place(config)
    tiles = BagStore.open(place.root / "tiles" / config["tiles"]).whole()
    about = tiles.spec.provenance
    device = _device(config["device"])
    loaded = _encoder(config, about["mpp"], tiles.spec.row_shape[0], device)
    spec = _feature_spec(loaded, {**about, "grid": config["tiles"]})
    store = BagStore.create(place.root / "features" / (config["name"] or loaded.name), spec)
    wanted = [task.slide_id for task in place.tasks if task.slide_id in tiles]
    before = sum(slide_id in store for slide_id in wanted)
    with Progress("encode", len(wanted), unit="slides", done=before) as shown:
        done = encode_tile_store(
            tiles,
            store,
            _half(loaded, device, config["half"]),
            batch_size=config["batch_size"],
            device=device,
            across_bags=device != "cpu",
            slide_ids=wanted,
            progress=shown.advance,
        )
    without = len(place.tasks) - len(wanted)
    print(f"{len(done)} slides encoded now, {len(wanted) - len(done)} before; {without} have no tiles")
    print(f"store: {store.root}")


def _export_features(config: dict[str, Any]) -> None:
    place = _place(config)
    store = BagStore.open(place.root / "features" / (config["name"] or config["encoder"])).whole()
    folder = Path(config["paths"]["output"]) / "h5_files"
    wanted = [task.slide_id for task in place.tasks if task.slide_id in store]
    for slide_id in wanted:
        write_clam_h5(store, slide_id, folder / f"{file_name(slide_id)}.h5")
    print(f"{len(wanted)} files in {folder}; {len(place.tasks) - len(wanted)} slides have no features")


def _stain(config: dict[str, Any], place: Place, grid: TileGrid, store: Path) -> StainNormaliser | None:
    """The normaliser of a run, the same in every shard of it, and when slides are added to its store later."""
    if config["stain"] == "none":
        return None
    kept = store / TARGET_FILE
    target = config["stain_target"] or (kept if kept.is_file() else None)
    if target is not None:
        return StainNormaliser.fit(config["stain"], read_target(target))
    slide_id, picture = stain_target(place.all_tasks, grid)
    print(f"stain: {config['stain']}, to that of slide {slide_id}")
    return StainNormaliser.fit(config["stain"], picture)


def _about_tiles(grid: TileGrid, stain: StainNormaliser | None) -> dict[str, Any]:
    """What a store of these tiles, or of their features, must not mix."""
    return grid.provenance() | ({} if stain is None else {"stain": stain.provenance()})


def _run(
    config: dict[str, Any],
    place: Place,
    store: BagStore,
    grid: TileGrid,
    make_sink: Callable[..., Any],
    stain: StainNormaliser | None,
) -> None:
    _refuse_former_regions(place, store)
    part = "" if config["shard"] is None else f".{config['shard'].replace('/', '-of-')}"
    previews = store.root / "previews" if config["previews"] else None
    if stain is not None:
        stain.write_target(store.root)
    records = extract_slides(
        place.tasks,
        store,
        grid,
        make_sink,
        jobs=config["jobs"] or default_jobs(),
        ledger=Ledger(store.root / f"extraction{part}.csv"),
        previews=previews,
        stain=stain,
    )
    if previews is not None:
        write_contact_sheet(store.root / f"contact_sheet{part}.png", previews, list(records))
    write_audit(place.audit if not part else store.root / f"audit{part}.json", records.values())
    print(summary(records.values()))
    print(f"store: {store.root}")


def _refuse_former_regions(place: Place, store: BagStore) -> None:
    """A bag that was cut before its region was written in the slide table is not taken for the region's."""
    former = [
        task.slide_id
        for task in place.tasks
        if task.region is not None
        and task.slide_id in store
        and store.reaches_out(
            task.slide_id, task.region.x, task.region.y, task.region.width, task.region.height
        )
    ]
    if former:
        more = ", ..." if len(former) > 3 else ""
        raise ExtractionError(
            f"{store.root}: tiles of {len(former)} slides ({', '.join(former[:3])}{more}) lie outside of their region "
            "in the slide table, which has changed since: remove the store, or give another name="
        )


def _grid(config: dict[str, Any]) -> TileGrid:
    return TileGrid(**config["grid"])


def _place(config: dict[str, Any]) -> Place:
    if config["study"] is not None:
        study = Study.open(Path(config["study"]))
        root, tasks = study.root, tasks_of_study(study)
    else:
        places = config["slides"] if isinstance(config["slides"], list) else [config["slides"]]
        root = Path(config["paths"]["output"])
        tasks = tasks_of_files([Path(str(place)) for place in places], config["mpp_override"])
    return Place(root, root / "audit.json", shard_of(tasks, config["shard"]), tasks)


def _device(wanted: str) -> str:
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ExtractionError(f"device={wanted}: torch sees no GPU here; use device=cpu")
    return wanted


def _encoder(config: dict[str, Any], mpp: float, tile_px: int, device: str) -> LoadedEncoder:
    loaded, remarks = load_encoder(
        config["encoder"],
        weights=config["weights"],
        random=config["random"],
        seed=config["seed"],
        mpp=mpp,
        tile_px=tile_px,
        device=device,
    )
    for remark in remarks:
        print(f"note: {remark}")
    return loaded


def _half(loaded: LoadedEncoder, device: str, half: bool) -> Callable[[Any], Any]:
    """The encoder under half precision where the device is a GPU."""
    if device == "cpu" or not half:
        return loaded.module

    def encode(tiles: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.partition(":")[0], torch.float16):
            features: torch.Tensor = loaded.module(tiles)
        return features

    return encode


def _feature_spec(loaded: LoadedEncoder, about_tiles: dict[str, Any]) -> StoreSpec:
    return StoreSpec("features", "float16", (loaded.dim,), {**about_tiles, **loaded.provenance()})
