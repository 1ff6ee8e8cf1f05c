"""``python -m toxfusion.doctor``: what is installed and works here, and whether a study is sound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from toxfusion.config import ConfigError, entry_point

if TYPE_CHECKING:
    from toxfusion.data.bag_store import BagStore
    from toxfusion.data.study import Study

LIBRARIES = (
    "torch", "lightning", "hydra-core", "timm", "torchvision", "numpy", "anndata", "scanpy", "scikit-learn",
    "openslide-python", "openslide-bin", "tifffile", "imagecodecs", "opencv-python", "tiatoolbox",
)  # fmt: skip


@entry_point("doctor")
def main(config: dict[str, Any]) -> None:
    """What is installed and works here; with study=FOLDER whether it and its stores are sound (else exit status 1)."""
    if config["study"] is None:
        for key in ("repair", "batch_audit"):
            if config[key]:
                raise ConfigError(f"{key}=true needs study=FOLDER")
        print("\n".join([*versions(), *devices(), *readers(), *encoders()]))
        return
    from pathlib import Path

    from toxfusion.data.study import Study

    study = Study.open(Path(config["study"]))
    print(describe(study))
    if config["repair"]:
        print("\n".join(repaired(study)))
    if config["batch_audit"]:
        print("\n".join(batches(study, config)))
    problems = study_problems(study)
    print("\n".join([*problems, f"{len(problems)} problems"] if problems else ["no problems"]))
    if problems:
        raise SystemExit(1)


def versions() -> Iterator[str]:
    """A line for Python and each library; nothing is imported for it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    yield f"{'python':<18}{platform.python_version()}"
    for name in ("toxfusion", *LIBRARIES):
        try:
            yield f"{name:<18}{version(name)}"
        except PackageNotFoundError:
            yield f"{name:<18}missing: pip install {name}"


def devices() -> Iterator[str]:
    """A line for the CPU and for each GPU."""
    import torch

    yield f"{'cpu':<18}{torch.get_num_threads()} threads"
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        yield f"{f'cuda:{i}':<18}{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.cuda.device_count() == 0:
        yield f"{'cuda':<18}none"


def readers() -> Iterator[str]:
    """The back ends of slides, each tried on a slide written for it."""
    import tempfile
    from pathlib import Path

    import numpy as np
    import tifffile
    from PIL import Image

    from toxfusion.slides.readers import SlideError, open_slide

    picture = np.full((256, 256, 3), (226, 150, 190), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        tiled, ome, plain = (Path(folder) / name for name in ("a.tif", "b.ome.tif", "c.png"))
        tifffile.imwrite(
            tiled, picture, photometric="rgb", tile=(128, 128), compression="jpeg", metadata=None
        )
        tifffile.imwrite(ome, picture, photometric="rgb", ome=True)
        Image.fromarray(picture).save(plain)
        for path, kind in ((tiled, "tiled JPEG TIFF"), (ome, "OME-TIFF"), (plain, "PNG")):
            try:
                with open_slide(path, mpp_override=0.5) as slide:
                    slide.read_region(10, 10, 64, 64, 1.0)
                    yield f"{'reader':<18}{kind}: {slide.backend}"
            except SlideError as error:
                yield f"{'reader':<18}{kind}: does not work: {error}"


def encoders() -> Iterator[str]:
    """A line for each published encoder."""
    from toxfusion.slides.encoders import ENCODERS

    for row in ENCODERS.values():
        scale = "natural images" if row.mpp is None else f"{row.mpp:g} um/px"
        yield f"{'encoder':<18}{row.name:<15}{row.dim:>5} features, {row.input_px} px, {scale}; {row.licence}"


def describe(study: Study) -> str:
    """What a study holds, in one line."""
    both = int((study.has_expression & study.has_slide).sum())
    return (
        f"{study.name}: {len(study.obs)} samples of {study.obs['compound'].nunique()} compounds; "
        f"{int(study.has_expression.sum())} with expression, {int(study.has_slide.sum())} with slides, {both} with "
        f"both; {len(study.slides)} slides"
    )


def stores_of(study: Study) -> tuple[list[BagStore], list[str]]:
    """The tile and feature stores of a study that can be opened, and a line for each that cannot."""
    from toxfusion.data.bag_store import BagStore, StoreError

    stores, unreadable = [], []
    inside = [p for name in ("store.json", "segments") for p in study.root.glob(f"*/*/{name}")]
    for folder in sorted(
        {path.parent for path in inside if path.parent.parent.name in ("tiles", "features")}
    ):
        try:
            stores.append(BagStore.open(folder))
        except StoreError as error:
            unreadable.append(str(error))
    return stores, unreadable


def batches(study: Study, config: dict[str, Any]) -> Iterator[str]:
    """The batch audit as lines; also written as batch_audit.csv."""
    from pathlib import Path

    from toxfusion.data.audit import replace_file
    from toxfusion.evaluation.batch_audit import batch_audit

    name = config["batch_features"]
    table = batch_audit(
        study,
        config["batch_columns"],
        store=None if name is None else study.features(name),
        permutations=config["batch_permutations"],
        seed=0,
    )
    file = Path(config["paths"]["output"]) / "batch_audit.csv"
    replace_file(file, table.to_csv(index=False).encode())
    yield "batches read off vehicle controls (balanced accuracy; p over permutations within sacrifice times):"
    yield table.to_string(index=False, float_format="%.3f", na_rep="")
    yield f"written to {file}"


def study_problems(study: Study) -> list[str]:
    """One line a problem: missing and unlisted files, slides that are one file, and what stores hold amiss."""
    stores, unreadable = stores_of(study)
    return [
        *_file_problems(study),
        *unreadable,
        *(line for store in stores for line in _store_problems(study, store)),
    ]


def repaired(study: Study) -> Iterator[str]:
    """Repair each store that can be opened; a line for each that lost something."""
    from toxfusion.data.importers.features import SOURCE

    for store in stores_of(study)[0]:
        if dropped := store.repair():
            imported = store.spec.provenance.get("source") == SOURCE
            again = "prepare source=features" if imported else "extract"
            yield f"{store.root}: dropped {', '.join(dropped)}; run {again} again"


def _file_problems(study: Study) -> Iterator[str]:
    paths = {str(slide_id): study.slide_path(str(slide_id)).resolve() for slide_id in study.slides.index}
    for slide_id, path in paths.items():
        if not path.exists():
            yield f"slides.parquet: slide {slide_id}: {path} is missing"
    for folder in sorted({path.parent for path in paths.values() if study.root.resolve() in path.parents}):
        listed = {path for path in paths.values() if path.parent == folder}
        unlisted = sorted(p.name for p in folder.glob("*") if p.is_file() and p not in listed)
        if unlisted:
            more = ", ..." if len(unlisted) > 3 else ""
            yield f"{folder}: {len(unlisted)} files are no slides of the study ({', '.join(unlisted[:3])}{more})"
    whole = study.slides[study.slides["x"].isna()]
    for image, rows in whole.groupby("path"):
        if len(rows) > 1:
            yield f"slides.parquet: {image} is the whole of {len(rows)} slides: {', '.join(map(str, rows.index))}"


def _store_problems(study: Study, store: BagStore) -> Iterator[str]:
    yield from (f"{store.root}: {line}" for line in store.verify())
    stored, listed = set(store.slide_ids), set(map(str, study.slides.index))
    for names, meaning in ((stored - listed, "not in slides.parquet"), (listed - stored, "have no bag")):
        if names:
            more = ", ..." if len(names) > 3 else ""
            yield f"{store.root}: {len(names)} slides {meaning} ({', '.join(sorted(names)[:3])}{more})"
    for slide_id, override in study.slides["mpp_override"].dropna().items():
        if slide_id in store and not math.isclose(mpp0 := store.mpp0(str(slide_id)), override, rel_tol=1e-3):
            yield (
                f"{store.root}: slide {slide_id} was stored at {mpp0:g} um per level-0 px, slides.parquet says "
                f"{override:g}: correct mpp_override, or remove the store and make it again"
            )


if __name__ == "__main__":
    main()
