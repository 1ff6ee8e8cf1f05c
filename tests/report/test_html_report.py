"""The report: safe with any name, whole without a network, in a browser at both widths; pyramids, names, statements."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from tests.report.browser import CHROMIUM, DRIVER, at_width, browser, requested
from tests.report.explained_folder import COMPOUNDS, SCRIPT, SLIDES, add_cohort, write_folder
from toxfusion.explanation.deep_zoom import TILE_PX, write_overlay, write_pyramid
from toxfusion.explanation.folder import file_stem, file_stems
from toxfusion.report.cells import number
from toxfusion.report.explained import Explained
from toxfusion.report.pages import write_report
from toxfusion.report.statements import statements
from toxfusion.slides.readers import open_slide
from toxfusion.training.folder import RunError

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Elements of a page, its text outside of scripts, and its headings; fails on a tag that is not closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text())
        assert not self.open, f"{path}: {self.open} not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_folder(tmp_path_factory.mktemp("report") / "a folder #1")
    add_cohort(root)
    write_report(root)
    return root


def pages_of(root: Path) -> list[Path]:
    return [root / "index.html", *sorted((root / "report").rglob("*.html"))]


def test_names_from_data_are_text_and_files_are_safe(folder: Path) -> None:
    pages = pages_of(folder)
    assert len(pages) == 1 + len(COMPOUNDS) + len(SLIDES)
    for path in pages:
        assert set(path.stem) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
        page = Page(path)
        for attributes in page.all("script"):
            assert attributes.get("src") or attributes.get("type") == "application/json"
        assert not {"em", "b", "i", "u"} & {tag for tag, _ in page.elements}
    index = Page(folder / "index.html")
    assert all(c in index.text for c in COMPOUNDS)
    assert "no <u>tiles</u>" in index.text
    assert SCRIPT in Page(folder / "report" / "compounds" / f"{file_stem(SCRIPT)}.html").text


def test_every_link_is_a_file_of_the_folder_and_nothing_is_loaded_from_elsewhere(folder: Path) -> None:
    linked = set()
    for path in pages_of(folder):
        page = Page(path)
        ids = {a["id"] for _, a in page.elements if "id" in a}
        for _, attributes in page.elements:
            for target in filter(None, (attributes.get("href"), attributes.get("src"))):
                if target.startswith("#"):
                    assert target[1:] in ids, f"{path}: {target}"
                elif target != "data:,":
                    file = (path.parent / unquote(target)).resolve()
                    assert file.is_file(), f"{path}: {target}"
                    assert file.is_relative_to(folder.resolve())
                    linked.add(file)
    assert {p.resolve() for p in pages_of(folder)} <= linked
    ours = [*pages_of(folder), folder / "report/static/viewer.js", folder / "report/static/report.css"]
    assert not [p for p in ours if "http:" in p.read_text() or "https:" in p.read_text()]
    assert "Redistribution" in (folder / "report/static/openseadragon.LICENSE.txt").read_text()


def test_pages_can_be_read_without_seeing_them(folder: Path) -> None:
    for path in pages_of(folder):
        page = Page(path)
        assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in page.elements}
        assert page.all("a")[0]["href"] == "#main"
        levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b <= a + 1 for a, b in pairwise(levels)), f"{path}: {levels}"
        for image in page.all("img"):
            assert image["alt"]
            assert image["loading"] == "lazy"
            assert int(image["width"] or 0) > 0
        assert all(h.get("scope") in ("col", "row") for h in page.all("th"))
        assert len(page.all("caption")) == len(page.all("table"))
        names = Counter(a["id"] for _, a in page.elements if "id" in a)
        assert max(names.values()) == 1


def test_sections_stand_where_their_tables_lie(tmp_path: Path, folder: Path) -> None:
    bare = write_folder(tmp_path / "bare", slide_px=100)
    write_report(bare)
    sections = {a["id"] for a in Page(bare / "index.html").all("section")}
    assert sections == {a["id"] for a in Page(folder / "index.html").all("section")} - {"pathways", "cohort"}
    assert "Nearest" not in Page(bare / "report" / "compounds" / f"{file_stem(SCRIPT)}.html").text
    shown = Page(folder / "index.html").text
    assert "contribution of clinical columns" in shown
    assert all(
        text in shown for text in ("sex: <b>", "0.75", "1.25")
    )  # the mean of two runs, and the higher one
    assert "Nearest" in Page(folder / "report" / "compounds" / f"{file_stem(SCRIPT)}.html").text
    (bare / "report" / "compounds" / "old.html").write_text("of an earlier report")
    for run in ("fold0_seed0", "fold0_seed1"):
        (bare / "runs" / run / "fusion" / "gates_by.csv").unlink()
        (bare / "runs" / run / "fusion" / "without.csv").unlink()
        (bare / "runs" / run / "clinical" / "summary.csv").unlink()
    (bare / "genes" / "ranking.csv").unlink()
    write_report(bare, compound_pages=2)
    again = Page(bare / "index.html")
    assert not {"genes", "modalities"} & {a["id"] for a in again.all("section")}
    assert "2 of 6 have a page" in again.text
    kept = {p.stem for p in (bare / "report" / "compounds").iterdir()}
    assert kept == {file_stem(COMPOUNDS[0]), file_stem(COMPOUNDS[1])}, "compounds of drawn slides come first"


def test_a_folder_without_an_explanation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no explanation lies here"):
        write_report(tmp_path)


def test_numbers_say_nothing_that_is_not_there() -> None:
    assert number(float("nan")) == number(None) == "–"
    assert number(0.5) == "0.50"
    assert number(0.001) == "1.0e-03"
    assert number(1.5, 1, sign=True) == "+1.5"
    assert number(0.0) == "0.00"


def test_the_summary_follows_the_numbers(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "folder", slide_px=100)

    def said(limit: bool) -> str:
        return " ".join(s.text for s in statements(Explained(root)) if s.limit is limit)

    assert "on 6 compounds: too few to show" in said(True)
    assert "too few to tell from chance" in said(True), "two compounds were drawn"
    assert "tiles keep their order to a rank correlation of 0.90" in said(True)
    assert "genes keep their order to a rank correlation of 0.20: part of the ranking is the change" in said(
        True
    )
    assert "agree on tiles to a rank correlation of 0.10: another seed" in said(True)
    assert "No null run was named" in said(True)
    table = pd.read_csv(root / "agreement.csv")
    table.loc[table["subject"] == "tiles", "spearman"] = [0.1, 0.9]
    table.to_csv(root / "agreement.csv", index=False)
    null = {"run": "fold0_seed0", "null": "permuted labels", "folder": "x", "task": "dili", "metric": "auroc",
            "value": 0.5, "low": 0.2, "high": 0.8, "n": 6, "n_compounds": 6, "reason": "", "chance": 0.5}  # fmt: skip
    pd.DataFrame([null]).to_csv(root / "nulls.csv", index=False)
    for run in ("fold0_seed0", "fold0_seed1"):
        about = json.loads((root / "runs" / run / "run.json").read_text())
        about["scores"][0]["n_compounds"] = 30
        about["split"]["study"] = "another"
        (root / "runs" / run / "run.json").write_text(json.dumps(about))
    assert "in no run told apart from chance" in said(True)
    assert "Metrics are of the test parts of another" in said(True)
    assert "tiles keep their order to a rank correlation of 0.10" in said(False)
    assert "agree on tiles to a rank correlation of 0.90" in said(False)
    assert "No null run" not in said(True)
    assert "permuted labels" in Page(write_report(root)).text
    assert "cause" not in said(False)


def test_a_study_named_study_is_named_once(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "folder", slide_px=100)
    provenance = json.loads((root / "provenance.json").read_text())
    provenance["study"]["name"] = "study"
    (root / "provenance.json").write_text(json.dumps(provenance))
    text = " ".join(Page(write_report(root)).text.split())
    assert "of the study:" in text
    assert "Data of the study (" in text
    assert "study study" not in text


def test_file_names_are_plain_and_never_two_of_one() -> None:
    names = [
        "S1",
        "s1",
        "a/b",
        "a:b",
        "../x",
        "",
        "CON é",
        "x" * 300,
        "a b",
        "a  b",
        ".",
        "..",
        "a.html",
        ".a",
    ]
    stems = file_stems(names)
    assert len({s.casefold() for s in stems.values()}) == len(names)
    assert all(
        s and not s.startswith(".") and len(s) <= 80 and set(s) <= set(file_stem("_") + s)
        for s in stems.values()
    )
    assert all("/" not in s and "\\" not in s for s in stems.values())
    assert file_stems(["S1", "b"]) == {"S1": "S1", "b": "b"}


@pytest.fixture(scope="module")
def slide_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """700 x 520 px: red rises with x, green with y."""
    pixels = np.full((520, 700, 3), 128, np.uint8)
    pixels[..., 0] = np.linspace(0, 255, 700)[None].round()
    pixels[..., 1] = np.linspace(0, 255, 520)[:, None].round()
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb")
    return path


def test_a_pyramid_holds_the_slide_at_every_level(slide_file: Path, tmp_path: Path) -> None:
    source = tifffile.imread(slide_file).astype(float)
    with open_slide(slide_file, mpp_override=0.5) as slide:
        made = write_pyramid(slide, tmp_path, 10_000)
    assert (made.width, made.height, made.max_level, made.min_level, made.mpp) == (700, 520, 10, 8, 0.5)
    for level in range(made.min_level, made.max_level + 1):
        shrunk = 2 ** (made.max_level - level)
        width, height = -(-700 // shrunk), -(-520 // shrunk)
        whole = np.zeros((height, width, 3))
        files = list((tmp_path / str(level)).iterdir())
        assert len(files) == -(-width // TILE_PX) * -(-height // TILE_PX)
        for file in files:
            column, row = map(int, file.stem.split("_"))
            tile = np.asarray(Image.open(file))
            whole[row * TILE_PX : row * TILE_PX + tile.shape[0], column * TILE_PX :][:, : tile.shape[1]] = (
                tile
            )
        middle = source[shrunk // 2 :: shrunk, shrunk // 2 :: shrunk][: height - 1, : width - 1]
        assert np.abs(whole[: middle.shape[0], : middle.shape[1]] - middle).max() < 6, f"level {level}"


def test_a_slide_larger_than_wished_is_scaled_down(slide_file: Path, tmp_path: Path) -> None:
    with open_slide(slide_file, mpp_override=0.5) as slide:
        made = write_pyramid(slide, tmp_path, 200)
    assert (made.width, made.height, made.downsample, made.mpp) == (200, 149, 3.5, 1.75)
    assert [p.name for p in tmp_path.iterdir()] == [str(made.max_level)]
    tile = np.asarray(Image.open(tmp_path / str(made.max_level) / "0_0.jpg"))
    assert tile.shape == (149, 200, 3)
    assert abs(int(tile[70, 100, 0]) - 128) < 6


def test_an_overlay_is_clear_without_tiles_and_strong_at_the_ends(tmp_path: Path) -> None:
    places = pd.DataFrame({"x": [0.0, 64.0, 256.0], "y": 0.0, "side": 64.0, "s": [-1.0, 0.0, 1.0]})
    made = write_overlay(places, "s", (640, 320), tmp_path / "s.png")
    pixels = np.asarray(Image.open(tmp_path / "s.png"))
    assert pixels.shape == (80, 160, 4)
    assert (made.width, made.height) == (640, 320)
    assert made.colours.signed
    assert pixels[40, 80, 3] == 0, "no tile lies there"
    assert pixels[8, 72, 3] > 200
    assert pixels[8, 72, 0] > pixels[8, 72, 2], "red raises"
    assert pixels[8, 4, 2] > pixels[8, 4, 0], "blue lowers"
    assert pixels[8, 24, 3] < 100, "near 0"


def test_a_score_with_a_sign_keeps_its_colours_on_a_slide_without_values_below_0(tmp_path: Path) -> None:
    places = pd.DataFrame(
        {"x": [0.0, 64.0], "y": 0.0, "side": 64.0, "likeness:dili": [0.1, 0.4], "attention": [0.1, 0.4]}
    )
    likeness, attention = (
        write_overlay(places, column, (640, 320), tmp_path / f"{column[:4]}.png").colours
        for column in ("likeness:dili", "attention")
    )
    assert likeness.signed
    assert likeness.low == -likeness.high
    assert not attention.signed
    pixels = np.asarray(Image.open(tmp_path / "like.png"))
    assert pixels[8, 28, 0] > pixels[8, 28, 2], "red: above 0"


needs_browser = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None or importlib.util.find_spec("selenium") is None,
    reason="needs Debian's chromium and chromium-driver, and selenium",
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def settled(driver: Any, script: str) -> Any:
    """The value of a script as soon as it is true."""
    for _ in range(300):
        value = driver.execute_script(script)
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError(f"never true: {script}")


def open_page(driver: Any, path: Path) -> None:
    """Open a page and wait for its stylesheet: the driver has been seen to return before one was applied."""
    driver.get(path.as_uri())
    settled(
        driver,
        "return document.readyState === 'complete' && getComputedStyle(document.body).marginLeft === '0px'",
    )


@needs_browser
@pytest.mark.parametrize("width", [1440, 390])
def test_pages_fit_the_screen_and_every_image_loads(folder: Path, driver: Any, width: int) -> None:
    at_width(driver, width)
    for path in (folder / "index.html", folder / "report/compounds" / f"{file_stem(SCRIPT)}.html"):
        open_page(driver, path)
        inner, whole = driver.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert inner == width
        assert whole <= width, f"{path.name} scrolls sideways at {width} px"
        driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        for image in driver.find_elements("tag name", "img"):
            driver.execute_script("arguments[0].scrollIntoView()", image)
        settled(driver, "return [...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert not driver.get_log("browser")


@needs_browser
@pytest.mark.parametrize("width", [1440, 390])
def test_the_viewer_opens_and_zooms_by_key_and_button(folder: Path, driver: Any, width: int) -> None:
    at_width(driver, width)
    requested(driver)
    open_page(driver, folder / "report" / "slides" / f"{file_stem(next(iter(SLIDES)))}.html")
    settled(driver, "return document.getElementById('stage').dataset.state === 'open'")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width

    def mpp() -> float:
        settled(driver, "return document.getElementById('where').textContent")
        return float(driver.find_element("id", "where").text.split()[0])

    def after(action: Any, before: float) -> float:
        action()
        settled(driver, f"return !document.getElementById('where').textContent.startsWith('{before:.2f} ')")
        time.sleep(0.7)
        return mpp()

    canvas = driver.find_element("css selector", ".openseadragon-canvas")
    assert "zoomable" in (canvas.get_attribute("aria-label") or "")
    whole = mpp()
    nearer = after(driver.find_element("id", "zoom-in").click, whole)
    assert nearer < whole
    driver.execute_script("arguments[0].focus()", canvas)
    nearest = after(lambda: driver.switch_to.active_element.send_keys("+"), nearer)
    assert nearest < nearer
    assert after(driver.find_element("id", "home").click, nearest) == whole
    loaded = requested(driver)
    assert any(name.endswith("/0_0.jpg") for name in loaded)
    assert any(name.endswith("/score0.png") for name in loaded), "the heatmap lies over it"
    assert not [name for name in loaded if name.startswith("http")]
    driver.find_element("css selector", "#score option[value='']").click()
    assert not driver.find_element("id", "legend").is_displayed()
    driver.execute_script("document.querySelector('button.show').click()")
    assert driver.execute_script("return document.activeElement") == canvas
    assert not driver.get_log("browser")


@needs_browser
def test_tiles_of_the_viewer_are_not_loaded_by_other_pages(folder: Path, driver: Any) -> None:
    requested(driver)
    open_page(driver, folder / "index.html")
    loaded = requested(driver)
    assert any(name.endswith("report.css") for name in loaded)
    assert not [name for name in loaded if name.endswith("_0.jpg") or "openseadragon" in name]


def test_what_was_left_out_is_named_and_what_was_kept_is_not(folder: Path) -> None:
    text = (folder / "index.html").read_text()
    assert '<th scope="row">sample: x</th><td>1</td><td class="text">no &lt;u&gt;tiles&lt;/u&gt;</td>' in text
    assert "gene_set" not in text
