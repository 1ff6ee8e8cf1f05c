"""The report of an explanation: how long it takes, and its pictures.

    python -m benchmarks.report time --slides 10 --slide-px 4096
    python -m benchmarks.report screenshot <folder> --slide 0 --height 1100 --picture docs/images/report_slide.jpg
    python -m benchmarks.report screenshot <folder> --page index.html --width 390 --picture index.png

Run it in the checkout: folder and browser are those of the tests. ``time`` draws noisy synthetic slides; tile scores
and genes are timed by ``toxfusion.explain`` itself.
"""

from __future__ import annotations

import argparse
import base64
import io
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from tests.report.browser import at_width, browser
from tests.report.explained_folder import write_folder
from toxfusion.explanation.deep_zoom import write_overlay, write_pyramid
from toxfusion.report.pages import write_report
from toxfusion.slides.readers import open_slide

OVERLAYS = 5


def measure(n_slides: int, slide_px: int) -> None:
    """Print seconds and CPU seconds a slide for its pyramid and overlays, and of the pages of a small folder."""
    rng = np.random.default_rng(0)
    side = 112
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        blocks = rng.integers(120, 255, (slide_px // 8, slide_px // 8, 3), dtype=np.uint8)
        pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)
        pixels ^= rng.integers(0, 16, pixels.shape, dtype=np.uint8)
        path = root / "slide.tif"
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
        corners = np.arange(0, slide_px - side, side)
        tiles = pd.DataFrame([(x, y) for x in corners for y in corners], columns=["x", "y"]).assign(
            side=float(side)
        )
        tiles["score"] = rng.normal(size=len(tiles))
        begun, cpu = time.perf_counter(), time.process_time()
        for k in range(n_slides):
            with open_slide(path, mpp_override=0.5) as slide:
                write_pyramid(slide, root / str(k), 16_384)
                for j in range(OVERLAYS):
                    write_overlay(tiles, "score", slide.dimensions, root / str(k) / f"{j}.png")
        spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
        bytes_of = sum(f.stat().st_size for f in (root / "0").rglob("*") if f.is_file())
        print(
            f"{n_slides} slides of {slide_px} px, {OVERLAYS} scores each: {spent / n_slides:.1f} s "
            f"({cpu / n_slides:.1f} s of CPU) and {bytes_of / 1e6:.1f} MB a slide"
        )
        folder = write_folder(root / "folder", slide_px=256)
        begun, cpu = time.perf_counter(), time.process_time()
        write_report(folder)
        spent, cpu = time.perf_counter() - begun, time.process_time() - cpu
        print(f"9 pages: {spent:.1f} s ({cpu:.1f} s of CPU)")
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


def screenshot(
    root: Path, page: str, slide: int | None, width: int, height: int, zoom: int, picture: Path
) -> None:
    """A page as a browser shows it; the viewer of a slide with its score, zoomed in so many times."""
    path = root / page if slide is None else sorted((root / "report" / "slides").glob("*.html"))[slide]
    with tempfile.TemporaryDirectory() as profile, browser(Path(profile)) as driver:
        at_width(driver, width, height)
        driver.get(path.resolve().as_uri())
        if slide is not None:
            while driver.execute_script("return document.getElementById('stage').dataset.state") != "open":
                time.sleep(0.1)
            for _ in range(zoom):
                driver.find_element("id", "zoom-in").click()
                time.sleep(1)
            time.sleep(3)
        shot = driver.execute_cdp_cmd("Page.captureScreenshot", {})
    Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB").save(picture, quality=80)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    timed = commands.add_parser("time")
    timed.add_argument("--slides", type=int, default=10)
    timed.add_argument("--slide-px", type=int, default=4096)
    shown = commands.add_parser("screenshot")
    shown.add_argument("folder", type=Path)
    shown.add_argument("--page", default="index.html", help="page of the folder")
    shown.add_argument(
        "--slide", type=int, help="the viewer of this slide, counted from 0, in place of a page"
    )
    shown.add_argument("--width", type=int, default=1440)
    shown.add_argument("--height", type=int, default=900)
    shown.add_argument("--zoom", type=int, default=0, help="times the viewer zooms in")
    shown.add_argument("--picture", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "time":
        measure(arguments.slides, arguments.slide_px)
    else:
        screenshot(
            arguments.folder,
            arguments.page,
            arguments.slide,
            arguments.width,
            arguments.height,
            arguments.zoom,
            arguments.picture,
        )


if __name__ == "__main__":
    main()
