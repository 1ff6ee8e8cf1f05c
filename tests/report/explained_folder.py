"""A small folder of an explanation, written by hand: two runs, hostile names, every table that a report may show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from toxfusion.explanation.deep_zoom import write_overlay, write_preview, write_pyramid
from toxfusion.explanation.folder import FINDING, VIEWER, file_name, file_stem, file_stems
from toxfusion.slides.readers import open_slide

SCRIPT = "<script>alert(1)</script>"
COMPOUNDS = [SCRIPT, 'acid "A" & co', "../up/and away", "Βήτα-βενζόλη", "NA", "na"]
TASKS = ["dili", "lesion:Necrosis <b>", "severity"]
SLIDES = {'slide "1" <i>': f"{COMPOUNDS[0]}_high", "../S2": f"{COMPOUNDS[1]}_high"}
RUNS = ("fold0_seed0", "fold0_seed1")
SIDE = 64.0


def write_folder(root: Path, slide_px: int = 700) -> Path:
    """The folder at ``root``, with pictures and viewer tiles of two slides of ``slide_px``."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    samples = pd.DataFrame(
        [
            {
                "sample_id": f"{c}_{level}",
                "compound": c,
                "dose_level": level,
                "dose": dose,
                "time_h": 24.0,
                "is_control": level == "control",
                "batch": "B1",
                "dili": float(i % 2),
                FINDING + "Necrosis <b>": grade,
            }
            for i, c in enumerate(COMPOUNDS)
            for level, dose, grade in (("control", 0.0, 0.0), ("high", 100.0, 3.0))
        ]
    )
    samples.to_csv(root / "samples.csv", index=False)
    genes = [f"G{i}" for i in range(30)]
    for k, run in enumerate(RUNS):
        _write_run(root / "runs" / run, samples, genes, rng, seed=k)
    manifest = [
        {"run": r, "fold": 0, "seed": k, "tasks": TASKS, "slides": list(SLIDES)} for k, r in enumerate(RUNS)
    ]
    _write_json(root / "manifest.json", {"layout": 2, "experiment": "full <em>", "runs": manifest})
    study = {
        "name": "tiny & small",
        "species": "Rattus norvegicus",
        "virtual": True,
        "n_samples": len(samples),
        "provenance": {"note": "</script><script>alert(2)</script>"},
        "sha256": {"expression.h5ad": "0" * 64},
    }
    _write_json(root / "provenance.json", {"versions": {"toxfusion": "0", "torch": "2"}, "study": study})
    _write_json(
        root / "audit.json",
        [
            {
                "stage": "explain",
                "kind": "sample",
                "id": "x",
                "reason": "no <u>tiles</u>",
                "outcome": "dropped",
            },
            {
                "stage": "explain",
                "kind": "gene_set",
                "id": "kept",
                "reason": "fewer genes than in the file",
                "outcome": "changed",
            },
        ],
    )
    ranking = pd.DataFrame({"gene_id": genes, "symbol": [f"<b>{g}</b>" for g in genes]})
    ranking = ranking.assign(mean_rank=1.0, rank_sd=0.5, integrated=0.1, same_sign=1.0, in_top=0.5)
    stability = {"n_runs": 2, "n_genes": 30, "left_out": 0, "kendall_w": 0.7, "top_k": 10,
                 "top_overlap": 0.3, "top_overlap_chance": 0.33}  # fmt: skip
    (root / "genes").mkdir()
    pd.concat([ranking.assign(task=t) for t in TASKS]).to_csv(root / "genes" / "ranking.csv", index=False)
    pd.DataFrame([{"task": t, **stability} for t in TASKS]).to_csv(
        root / "genes" / "stability.csv", index=False
    )
    agreement = {
        "other": "",
        "task": "dili",
        "n": 2,
        "n_compounds": 2,
        "low": 0.1,
        "high": 0.3,
        "signed": 0.0,
    }
    pd.DataFrame(
        [
            {"run": RUNS[0], "against": a, "subject": s, "score": c, "spearman": v, **agreement}
            for a, s, c, v in (
                ("random weights", "tiles", "contribution", 0.9),
                ("random weights", "genes", "integrated", 0.2),
                ("another seed", "tiles", "contribution", 0.1),
            )
        ]
    ).to_csv(root / "agreement.csv", index=False)
    _write_slides(root, slide_px)
    return root


def add_cohort(root: Path) -> None:
    """What views of the cohort and enrichment add to the folder."""
    sets = {"task": "dili", "set": "h", "name": SCRIPT, "source": "ours", "p": 0.01, "fdr": 0.04}
    (root / "pathways").mkdir()
    (root / "cohort" / "dose_response").mkdir(parents=True)
    pd.DataFrame([{**sets, "size": 9, "es": 0.5, "nes": 1.7, "leading_genes": "Atf3;Ddit3"}]).to_csv(
        root / "pathways" / "gsea.csv", index=False
    )
    over = {"overlap": 3, "size": 9, "background": 30, "odds_ratio": 4.0, "genes": "Atf3;Ddit3"}
    pd.DataFrame([{**sets, **over}]).to_csv(root / "pathways" / "over_representation.csv", index=False)
    for name in (
        "pathways/enrichment",
        "cohort/embedding_dose",
        "cohort/dose_response/0",
        "cohort/prototypes",
    ):
        Image.new("RGB", (600, 300), "#cde").save(root / f"{name}.png")
    pd.DataFrame({"compound": [SCRIPT], "file": ["0.png"]}).to_csv(
        root / "cohort" / "dose_response" / "index.csv", index=False
    )
    near = {"neighbour": COMPOUNDS[1], "rank": 1, "similarity": 0.9, "dili_known": 1}
    pd.DataFrame([{"compound": SCRIPT, **near}]).to_csv(
        root / "cohort" / "nearest_compounds.csv", index=False
    )
    pd.DataFrame([{"prototype": 0, "share": 0.2}]).to_csv(root / "cohort" / "prototypes.csv", index=False)


def _write_run(
    place: Path, samples: pd.DataFrame, genes: list[str], rng: np.random.Generator, seed: int
) -> None:
    for name in ("genes", "fusion", "regions"):
        (place / name).mkdir(parents=True)
    score = {"task": "dili", "metric": "auroc", "value": 0.6, "low": 0.4, "high": 0.8, "n": 6, "n_compounds": 6,
             "reason": "", "chance": 0.5}  # fmt: skip
    about = {"digest": "ab" * 8, "config": {"name": SCRIPT}, "scores": [score], "tile_encoder": None,
             "sha256": {"best.ckpt": "1" * 64}, "split": {"transductive": False}}  # fmt: skip
    _write_json(place / "run.json", about)
    unit = {"study": "S", "batch": "B1", "part": "test", "fold": 0, "seed": seed, "label": np.nan}
    predictions = [
        {**unit, "task": "dili", "level": "compound", "unit_id": c, "compound": c, "dose_level": "", "time_h": np.nan,
         "is_control": False, "score": rng.random()}
        for c in COMPOUNDS
    ]  # fmt: skip
    predictions += [
        {**unit, "task": t, "level": "sample", "unit_id": r["sample_id"], "compound": r["compound"],
         "dose_level": r["dose_level"], "time_h": 24.0, "is_control": r["is_control"], "score": rng.random()}
        for t in TASKS[1:]
        for r in samples.to_dict("records")
    ]  # fmt: skip
    pd.DataFrame(predictions).to_csv(place / "predictions.csv", index=False)
    treated = samples.loc[~samples["is_control"], "sample_id"]
    for task in TASKS:
        table = pd.DataFrame(rng.normal(size=(len(treated), len(genes))), index=treated, columns=genes)
        table.to_parquet(place / "genes" / f"{file_name(task)}.parquet")
    described = samples[["sample_id", "compound", "dose_level", "dose", "time_h", "is_control"]]
    gates = described.assign(has_slide=True, has_expression=True, gate_slide=0.3, gate_expression=0.7)
    gates.to_csv(place / "fusion" / "gates.csv", index=False)
    by = {"value": "high", "n": 6, "mean": 0.3, "sd": 0.0, "low": 0.3, "high": 0.3}
    pd.DataFrame([{"by": "dose_level", **by}]).to_csv(place / "fusion" / "gates_by.csv", index=False)
    parts = [described[["sample_id", "compound"]].assign(task=t, value=1.0) for t in TASKS]
    pd.concat(parts).assign(without_slide=0.5, without_expression=0.0).to_csv(
        place / "fusion" / "without.csv", index=False
    )
    (place / "clinical").mkdir()
    sex = {"task": TASKS[0], "entry": "sex: <b>", "n": 6, "mean_absolute": 0.2}
    pd.DataFrame([{**sex, "slope": 0.25 + seed}]).to_csv(place / "clinical" / "summary.csv", index=False)
    pd.DataFrame(
        [
            {"slide_id": s, "sample_id": m, "task": t, "deletion": 0.1, "insertion": -0.1}
            for s, m in SLIDES.items()
            for t in TASKS[:2]
        ]
    ).to_csv(place / "regions" / "areas.csv", index=False)
    extremes = []
    for slide, sample in SLIDES.items():
        folder = place / "regions" / file_stem(slide)
        (folder / "tiles").mkdir(parents=True)
        (folder / "tiles.geojson").write_text("{}")
        for task in TASKS[:2]:
            for end in ("whole", "1um", "tiles", "deletion"):
                Image.new("RGB", (1200, 420), "#eee").save(folder / f"{file_name(task)}_{end}.png")
            file = f"{folder.name}/tiles/{file_name(task)}_top1.png"
            Image.new("RGB", (64, 64), "#d9c").save(place / "regions" / file)
            tile = {
                "sample_id": sample,
                "slide_id": slide,
                "tile": 0,
                "x": 64,
                "y": 128,
                "side": SIDE,
                "mpp0": 0.5,
            }
            extremes.append({**tile, "task": task, "end": "top", "rank": 1, "score": 0.5, "file": file})
    pd.DataFrame(extremes).to_csv(place / "regions" / "extreme_tiles.csv", index=False)


def _write_slides(root: Path, slide_px: int) -> None:
    entries, stems = [], file_stems(SLIDES)
    rows, columns = np.mgrid[0:slide_px, 0:slide_px]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=-1).astype(np.uint8)
    path = root / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
    corners = np.arange(0, slide_px - SIDE, SIDE)
    places = pd.DataFrame([(x, y) for x in corners for y in corners], columns=["x", "y"]).assign(side=SIDE)
    scores = {"integrated:dili": places["x"] - places["y"], "attention": places["x"]}
    with open_slide(path, mpp_override=0.5) as slide:
        for slide_id, sample in SLIDES.items():
            made = write_pyramid(slide, root / VIEWER / stems[slide_id], slide_px)
            overlays = []
            for k, (column, values) in enumerate(scores.items()):
                file, (score, _, task) = f"score{k}.png", column.partition(":")
                over = write_overlay(
                    places.assign(**{column: values}), column, slide.dimensions,
                    root / VIEWER / stems[slide_id] / file,
                )  # fmt: skip
                about = {"width": over.width, "height": over.height, **vars(over.colours)}
                overlays.append({"run": RUNS[0], "score": score, "task": task, "file": file, **about})
            folder = root / VIEWER / stems[slide_id]
            write_preview(slide, folder / "score0.png", folder / "preview.jpg")
            entries.append(
                {"slide_id": slide_id, "sample_id": sample, "folder": stems[slide_id], "mpp0": 0.5,
                 "dimensions": list(slide.dimensions), **vars(made), "overlays": overlays}
            )  # fmt: skip
    _write_json(root / VIEWER / "slides.json", entries)


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
