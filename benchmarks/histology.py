"""Virtual slides against photographs of rat liver, and how fast they render.

    python benchmarks/histology.py measure --photographs DIR
    python benchmarks/histology.py sheet --photographs DIR --out sheet.png
    python benchmarks/histology.py speed --side 1536 --count 3

DIR holds the photographs and a captions.csv with columns file, finding, grade, objective. The same colour
deconvolution and nucleus detector run on photographs and renderings, at the photographs' resolution. Photographs
are cut to what lies above their printed scale bar.
"""

from __future__ import annotations

import argparse
import cProfile
import csv
import resource
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from toxfusion.synthetic.histology import Lesion, SlideSpec, render_region, render_slide

UM_PER_PIXEL = {"10": 3.6, "20": 1.8, "25": 1.78, "32": 1.16, "40": 0.885}
"""Of each objective, by the length of the bars printed in the photographs; those at 25 are as long as those at 20."""
BAR_SAYS = {"E14863": "20"}
"""Objective by the printed bar where it contradicts the caption (10): 100 um are as long as at 20."""
PRINTED_SHAPE = (400, 500)
FRAME = (slice(8, 326), slice(14, 486))
"""Rows and columns without frame (to column 11 in E14883, from 490 on), printed scale (from row 330 on) and caption."""
LEAST_AFFECTED = {
    "40": ("E14903", "E14870", "E14907", "E14884", "E14873"),
    "20": ("E14930", "E14933", "E14957", "E14978", "E14985", "E14976", "E14968", "E14973"),
}
COUNTERPARTS: tuple[tuple[str, tuple[Lesion, ...]], ...] = (
    ("E14907", ()),
    ("E14930", ()),
    ("E14934", (Lesion("hypertrophy", 2.0, "diffuse"),)),
    ("E14932", (Lesion("eosinophilic_change", 3.0, "diffuse"),)),
    ("E14957", (Lesion("vacuolization", 0.8, "periportal"),)),
    ("E14960", (Lesion("vacuolization", 3.0, "periportal"),)),
    ("E14961", (Lesion("vacuolization", 4.0, "diffuse"),)),
    ("E14928", (Lesion("necrosis", 2.4, "centrilobular"),)),
    ("E14927", (Lesion("single_cell_necrosis", 3.5, "centrilobular"),)),
    ("E14982", (Lesion("infiltration", 2.0, "portal"),)),
    ("E14971", (Lesion("infiltration", 1.0, "random"),)),
    ("E14973", (Lesion("microgranuloma", 1.5, "random"), Lesion("glycogen_gain", 2.0, "diffuse"))),
    ("E14975", (Lesion("bile_duct_proliferation", 2.5, "portal"),)),
    ("E14977", (Lesion("fibrosis", 3.0, "portal"), Lesion("bile_duct_proliferation", 1.0, "portal"))),
    ("E14953", (Lesion("glycogen_gain", 3.0, "periportal"),)),
    ("E14873", (Lesion("mitosis", 3.5, "diffuse"),)),
    ("E14976", (Lesion("edema", 2.0, "portal"),)),
    ("E14978", (Lesion("glycogen_gain", 4.0, "diffuse"), Lesion("infiltration", 0.6, "portal"))),
)

REPEATS = 3
STAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "lobules, cells and objects": (("painting", "SlidePainter.__init__"),),
    "coarse fields of a block": (("painting", "SlidePainter._patch"),),
    "territories of cells": (("painting", "SlidePainter._territories"),),
    "parenchyma": (("painting", "SlidePainter._parenchyma"),),
    "connective tissue": (("pixels", "paint_connective"),),
    "stamps": (("painting", "SlidePainter._stamp"), ("pixels", "trim")),
    "artefacts": (("artefacts", "Artefacts.on_tissue"), ("artefacts", "Artefacts.on_glass")),
    "colour and optics": (("painting", "SlidePainter._develop"),),
    "mask": (("painting", "SlidePainter._mask"),),
}
"""Module and qualified name of the functions that make up each stage of rendering; none calls another."""

CAPTION_COLUMNS = ("file", "finding", "grade", "objective")
PICTURES = (".jpg", ".jpeg", ".png", ".tif")

Image = NDArray[np.uint8]


class PhotographError(ValueError):
    """A folder of photographs that is not what it must be."""


@dataclass(frozen=True)
class Photograph:
    """A cropped photograph: name, uint8 RGB, um per pixel, finding and grade of its caption, objective."""

    name: str
    rgb: Image
    mpp: float
    finding: str
    grade: str
    objective: str

    @property
    def caption(self) -> str:
        """What is printed under it."""
        return f"{self.finding} grade {self.grade} {self.objective}x"


@dataclass(frozen=True)
class Measures:
    """Nuclei per mm2 of tissue, median nuclear diameter (um), and quantiles of stain density in tissue."""

    nuclei_per_mm2: float
    diameter_um: float
    haematoxylin: NDArray[np.float64]
    eosin: NDArray[np.float64]


def read_photographs(folder: Path) -> tuple[dict[str, Photograph], dict[str, str]]:
    """The photographs of a folder, cropped, by their file names up to the first dot; files left out, with the reason.

    Raises:
        PhotographError: no captions.csv, a column is missing, a file is named twice, missing, no picture, or of
            another size than `PRINTED_SHAPE`.
    """
    captions = folder / "captions.csv"
    if not captions.is_file():
        raise PhotographError(
            f"{captions}: no such file; it names each photograph, its finding and objective"
        )
    with captions.open(newline="") as lines:
        reader = csv.DictReader(lines)
        if absent := [c for c in CAPTION_COLUMNS if c not in (reader.fieldnames or ())]:
            raise PhotographError(f"{captions}: no column {', '.join(absent)}; there are {reader.fieldnames}")
        table = list(reader)
    photographs: dict[str, Photograph] = {}
    named = {caption["file"] for caption in table}
    pictures = (path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES)
    left_out = {file: "no row in captions.csv" for file in pictures if file not in named}
    for caption in table:
        file, finding = caption["file"], caption["finding"].strip()
        name = file.partition(".")[0]
        if name in photographs or file in left_out:
            raise PhotographError(f"{captions}, column file: {file!r} is there twice, or another {name}")
        rgb = _read_printed(folder / file, captions)
        objective = BAR_SAYS.get(name, caption["objective"].strip())
        if not finding:
            left_out[file] = "no finding"
        elif objective not in UM_PER_PIXEL:
            left_out[file] = f"objective {objective!r} is none of {', '.join(UM_PER_PIXEL)}"
        else:
            mpp = UM_PER_PIXEL[objective]
            photographs[name] = Photograph(name, rgb, mpp, finding, caption["grade"].strip(), objective)
    return photographs, left_out


def _read_printed(path: Path, captions: Path) -> Image:
    """What lies within `FRAME`, uint8 RGB."""
    if not path.is_file():
        raise PhotographError(f"{captions}, column file: {path.name!r} is not in {path.parent}")
    bgr = cv2.imread(str(path))
    if bgr is None:
        raise PhotographError(f"{path}: no picture that can be read; put the photograph there again")
    if bgr.shape[:2] != PRINTED_SHAPE:
        height, width = PRINTED_SHAPE
        raise PhotographError(
            f"{path}: {bgr.shape[1]} x {bgr.shape[0]} px; frame, scale and caption are cut off by their place in "
            f"{width} x {height} px"
        )
    return np.ascontiguousarray(bgr[FRAME][..., ::-1])


def stain_amounts(rgb: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Haematoxylin and eosin by least squares onto the mean Macenko vectors of the photographs, [h, w] each."""
    density = -np.log10(np.clip(rgb.astype(float), 1, 255) / np.percentile(rgb, 99.5, axis=(0, 1)))
    vectors = np.array([[0.49, 0.74, 0.45], [0.34, 0.87, 0.34]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    red, green = density[..., 0], density[..., 1]
    a, b = vectors[0], vectors[1]
    det = a[0] * b[1] - a[1] * b[0]
    return (red * b[1] - green * b[0]) / det, (green * a[0] - red * a[1]) / det


def measure(rgb: Image, mpp: float) -> Measures:
    """Detect nuclei as dark red-channel blobs of 4 to 16 um and take quantiles of both stains in tissue."""
    h, e = stain_amounts(rgb)
    red = -np.log10(np.clip(rgb[..., 0].astype(float), 1, 255) / 255).astype(np.float32)
    green = -np.log10(np.clip(rgb[..., 1].astype(float), 1, 255) / 255)
    tissue = cv2.morphologyEx((green > 0.1).astype(np.uint8), cv2.MORPH_CLOSE, _disc(6 / mpp)) > 0
    smooth = cv2.GaussianBlur(red, (0, 0), 0.9 / mpp)
    level = np.median(smooth[tissue])
    threshold = level + 0.35 * (np.quantile(smooth[tissue], 0.985) - level)
    blobs = cv2.morphologyEx((smooth > threshold).astype(np.uint8), cv2.MORPH_CLOSE, _disc(1.8 / mpp))
    blobs = cv2.morphologyEx(blobs, cv2.MORPH_OPEN, _disc(2.7 / mpp))
    _, _, stats, _ = cv2.connectedComponentsWithStats(blobs)
    area = stats[1:, cv2.CC_STAT_AREA] * mpp**2
    box = stats[1:, cv2.CC_STAT_WIDTH] * stats[1:, cv2.CC_STAT_HEIGHT] * mpp**2
    diameter = np.sqrt(4 * area / np.pi)
    shape = np.divide(stats[1:, cv2.CC_STAT_WIDTH], stats[1:, cv2.CC_STAT_HEIGHT])
    good = (diameter > 4) & (diameter < 16)
    rounded = good & (area / box > 0.68) & (shape > 0.7) & (shape < 1.4) & (diameter > 6)
    levels = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    return Measures(
        nuclei_per_mm2=float(good.sum() / (tissue.sum() * mpp**2 * 1e-6)),
        diameter_um=float(np.median(diameter[rounded])),
        haematoxylin=np.quantile(h[tissue], levels),
        eosin=np.quantile(e[tissue], levels),
    )


def _disc(diameter: float) -> NDArray[np.uint8]:
    side = max(1, round(diameter))
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def rendering(spec: SlideSpec, photograph: Photograph, x: int, y: int) -> Image:
    """A window of a virtual slide with the photograph's field of view and resolution."""
    height, width = (round(side * photograph.mpp / spec.mpp) for side in photograph.rgb.shape[:2])
    rgb = render_region(spec, x, y, width, height)
    size = photograph.rgb.shape[1::-1]
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def spec_for(photograph: Photograph, seed: int, lesions: tuple[Lesion, ...]) -> SlideSpec:
    """A slide just larger than a photograph's field of view."""
    height, width = (round(side * photograph.mpp / 0.5) + 480 for side in photograph.rgb.shape[:2])
    return SlideSpec(photograph.name, seed, width, height, lesions=lesions)


def run_measure(folder: Path, seeds: range) -> None:
    """Print the figures of photographs and renderings, and whether each rendering mean lies in the range."""
    photographs, _ = read_photographs(folder)
    for objective, names in LEAST_AFFECTED.items():
        real = [measure(photographs[name].rgb, photographs[name].mpp) for name in names]
        model = photographs[names[0]]
        drawn = [measure(rendering(spec_for(model, seed, ()), model, 240, 240), model.mpp) for seed in seeds]
        print(f"\n{objective}x: {len(real)} photographs, {len(drawn)} renderings of control tissue")
        figures = [
            ("nuclei per mm2", [m.nuclei_per_mm2 for m in real], [m.nuclei_per_mm2 for m in drawn]),
            ("nuclear diameter um", [m.diameter_um for m in real], [m.diameter_um for m in drawn]),
        ]
        for stain in ("haematoxylin", "eosin"):
            for k, level in enumerate(("q05", "q25", "q50", "q75", "q95", "q99")):
                figures.append(
                    (
                        f"{stain} {level}",
                        [getattr(m, stain)[k] for m in real],
                        [getattr(m, stain)[k] for m in drawn],
                    )
                )
        for name, a, b in figures:
            mark = "in range" if min(a) <= np.mean(b) <= max(a) else "OUTSIDE"
            print(
                f"{name:22s} photographs {min(a):8.3f} to {max(a):8.3f}   renderings {np.mean(b):8.3f}  {mark}"
            )


def run_sheet(folder: Path, out: Path, seed: int, zoom: float) -> None:
    """Write pairs photograph | rendering at the same scale."""
    photographs, _ = read_photographs(folder)
    pairs = []
    for k, (name, lesions) in enumerate(COUNTERPARTS):
        photograph = photographs[name]
        drawn = rendering(spec_for(photograph, seed + k, lesions), photograph, 240, 240)
        label = ", ".join(f"{item.zone} {item.phenotype} {item.severity:g}" for item in lesions) or "control"
        pair = []
        for image, text in ((photograph.rgb, f"{name} {photograph.caption}"), (drawn, f"rendered: {label}")):
            big = cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
            big = cv2.copyMakeBorder(big, 22, 4, 2, 2, cv2.BORDER_CONSTANT, value=(255, 255, 255))
            cv2.putText(big, text[: int(58 * zoom)], (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1)
            pair.append(big)
        pairs.append(np.hstack(pair))
    if len(pairs) % 2:
        pairs.append(np.full_like(pairs[0], 255))
    strips = [np.hstack(pairs[k : k + 2]) for k in range(0, len(pairs), 2)]
    cv2.imwrite(str(out), np.vstack(strips)[..., ::-1])
    print(f"wrote {out}")


def run_speed(side: int, count: int) -> None:
    """Time whole slides, with pyramid, JPEG and mask, in seconds of one processor; then the share of each stage.

    The first slide of the process is named apart: it compiles the loops over pixels, or loads them where they were
    compiled before. Of each other slide the best of `REPEATS` counts, so that other work on the machine matters less.
    """
    cv2.setNumThreads(1)
    lesions = (Lesion("vacuolization", 2.0, "centrilobular"), Lesion("infiltration", 1.5, "portal"))
    specs = [SlideSpec(f"s{seed}", seed, side, side, lesions=lesions) for seed in range(count)]
    megapixels = side * side / 1e6
    with tempfile.TemporaryDirectory() as folder:
        slide, mask = Path(folder) / "s.tif", Path(folder) / "s.png"
        print(f"first slide of the process: {_processor_seconds(specs[0], slide, mask):.2f} s of processor")
        best = []
        for spec in specs:
            best.append(min(_processor_seconds(spec, slide, mask) for _ in range(REPEATS)))
            print(
                f"{side} x {side} px, seed {spec.seed}: {best[-1]:.3f} s, {slide.stat().st_size / 1e6:.2f} MB"
            )
        print(f"mean: {np.mean(best):.3f} s a slide, {np.mean(best) / megapixels:.4f} s a megapixel")
        profile = cProfile.Profile(time.process_time)
        for spec in specs:
            profile.runcall(render_slide, spec, slide, mask)
    for stage, share in stage_shares(profile).items():
        print(f"{share:6.1%}  {stage}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def _processor_seconds(spec: SlideSpec, slide: Path, mask: Path) -> float:
    worked = time.process_time()
    render_slide(spec, slide, mask)
    return time.process_time() - worked


def stage_shares(profile: cProfile.Profile) -> dict[str, float]:
    """Share of `render_slide` by stage, out of a profile of it; what no stage of `STAGES` holds is writing files.

    Raises:
        KeyError: a function of `STAGES` was not called.
    """
    spent: dict[tuple[str, str], float] = {}
    for entry in profile.getstats():
        if not isinstance(entry.code, str):
            spent[Path(entry.code.co_filename).stem, entry.code.co_qualname] = entry.totaltime
    total = spent["histology", "render_slide"]
    shares = {stage: sum(spent[name] for name in names) / total for stage, names in STAGES.items()}
    return {**shares, "pyramid, JPEG and files": 1 - sum(shares.values())}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("measure", "sheet"):
        command = commands.add_parser(name)
        command.add_argument("--photographs", type=Path, required=True)
        command.add_argument("--seed", type=int, default=1)
    commands.choices["measure"].add_argument("--count", type=int, default=8)
    commands.choices["sheet"].add_argument("--out", type=Path, required=True)
    commands.choices["sheet"].add_argument("--zoom", type=float, default=1.0)
    speed = commands.add_parser("speed")
    speed.add_argument("--side", type=int, default=1536)
    speed.add_argument("--count", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.command == "measure":
        run_measure(arguments.photographs, range(arguments.seed, arguments.seed + arguments.count))
    elif arguments.command == "sheet":
        run_sheet(arguments.photographs, arguments.out, arguments.seed, arguments.zoom)
    else:
        run_speed(arguments.side, arguments.count)


if __name__ == "__main__":
    main()
