"""Writing a virtual study: samples of the cohort, their slides, and the truth, kept apart from the inputs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from toxfusion.study.audit import Audit
from toxfusion.study.files import replace_file, write_parquet
from toxfusion.study.study import Study, write_study
from toxfusion.study.vocabulary import DOSE_LEVELS
from toxfusion.synthetic.axes import AXES, AXIS_NAMES
from toxfusion.synthetic.cohort import GENERATOR_VERSION, CohortConfig, CohortError
from toxfusion.synthetic.drawn import Cohort, draw_cohort
from toxfusion.synthetic.expression import measure_expression
from toxfusion.synthetic.genes import gene_catalogue
from toxfusion.synthetic.labels import ANALYTES, TERMS, measure_chemistry
from toxfusion.synthetic.oracle import write_oracles
from toxfusion.synthetic.randomness import stream
from toxfusion.synthetic.rendering import render_slides
from toxfusion.synthetic.settings import SETTINGS
from toxfusion.synthetic.slide_plan import plan_slide
from toxfusion.synthetic.slide_spec import PHENOTYPES, SlideSpec

STAGE = "synthesize"
COMPOUNDS_PER_STUDY = 20


@dataclass(frozen=True)
class StudyConfig:
    """A cohort and how it is written.

    Args:
        cohort: who is in it.
        slides: render slides; without them the study has expression and labels only.
        slide_px: largest side of a slide in level-0 px; mpp: um per px.
        jobs: processes that render.
        slide_cache: folder where rendered slides are kept by specification, for other studies that hold the same.
    """

    cohort: CohortConfig = field(default_factory=CohortConfig)
    slides: bool = True
    slide_px: int = 1536
    mpp: float = 0.5
    jobs: int = 2
    slide_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise CohortError(f"jobs: {self.jobs!r} is under 1")
        if self.slide_px < 128:
            raise CohortError(f"slide_px: {self.slide_px!r} is under 128 px")


def study_config(settings: dict[str, Any]) -> StudyConfig:
    """Settings of the command line (conf/synthesize.yaml) as a configuration.

    Raises:
        CohortError: a value out of range.
    """
    names = [f.name for f in fields(CohortConfig)]
    cohort = {name: settings[name] for name in names} | {
        "times_h": tuple(map(float, settings["times_h"])),
        "leave_out": tuple(map(str, settings["leave_out"])),
    }
    own = {name: settings[name] for name in ("slides", "slide_px", "mpp", "jobs")}
    cache = None if settings["slide_cache"] is None else Path(settings["slide_cache"])
    return StudyConfig(cohort=CohortConfig(**cohort), slide_cache=cache, **own)


def synthesize_study(root: Path | str, config: StudyConfig, progress: bool = False) -> Study:
    """Write a virtual study into ``root``; slides that are there already with their truth are kept.

    Raises:
        CohortError: the folder holds a virtual study of another configuration or generator version.
    """
    root = Path(root)
    _claim(root, config)
    cohort = draw_cohort(config.cohort)
    audit = Audit()
    for rat in cohort.died:
        name = f"{cohort.group_id(rat)}-{int(rat[3]) + 1}"
        audit.drop(
            STAGE,
            "sample",
            name,
            "died before sacrifice; the next rat of the group was taken if there was one",
        )
    has_expression, n_slides = _completeness(cohort)
    obs = observations(cohort)
    write_truth(root / "truth", cohort)
    specs = slide_specs(cohort, config, n_slides) if config.slides else {}
    if specs:
        render_slides(root, specs, config.jobs, config.slide_cache, progress)
    write_oracles(root / "truth", cohort)
    expression = measure_expression(
        config.cohort.seed,
        cohort.compounds,
        cohort.latents,
        config.cohort.times_h,
        cohort.batches,
        cohort.rats,
    )
    expression[~has_expression] = np.nan
    index = obs.index
    return write_study(
        root,
        obs=obs,
        var=pd.DataFrame(
            {"symbol": gene_catalogue().symbols}, index=pd.Index(gene_catalogue().symbols, name="gene_id")
        ),
        expression=expression,
        findings=pd.DataFrame(cohort.of_samples(cohort.reading.grade).astype(float), index, list(TERMS)),
        spontaneous=pd.DataFrame(cohort.of_samples(cohort.reading.spontaneous), index, list(TERMS)),
        chemistry=pd.DataFrame(
            cohort.of_samples(
                measure_chemistry(config.cohort.seed, cohort.compounds, cohort.latents, config.cohort.times_h)
            ).round(4),
            index,
            list(ANALYTES),
        ),
        slides=slide_table(specs),
        provenance=provenance(config),
        name=study_name(config.cohort),
        species="Rattus norvegicus",
        virtual=True,
        audit=audit,
    )


def study_name(config: CohortConfig) -> str:
    """virtual-liver-<setting>-s<seed>: whoever shows a number of a study shows how hard it is."""
    return f"virtual-liver-{config.setting}-s{config.seed}"


def provenance(config: StudyConfig) -> dict[str, Any]:
    """Generator, version and settings of a study; jobs and cache of rendering make no difference and are left out."""
    settings = asdict(replace(config, slide_cache=None))
    del settings["jobs"], settings["slide_cache"]
    if not config.cohort.leave_out:  # studies from before there was this setting are of the same settings
        del settings["cohort"]["leave_out"]
    return {
        "generator": "toxfusion.synthetic",
        "generator_version": GENERATOR_VERSION,
        "setting": config.cohort.setting,
        "settings": json.loads(json.dumps(settings)),
    }


def _claim(root: Path, config: StudyConfig) -> None:
    path = root / "truth" / "provenance.json"
    wanted = provenance(config)
    if path.is_file():
        claim = json.loads(path.read_text())
        if claim != wanted:
            raise CohortError(
                f"{path}: the folder holds a virtual study of other settings ({_difference(claim, wanted)}); "
                "give another output folder, or delete this one"
            )
    replace_file(path, json.dumps(wanted, indent=1).encode())


def _difference(written: dict[str, Any], wanted: dict[str, Any], at: str = "") -> str:
    for key in sorted(written.keys() | wanted.keys()):
        a, b = written.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict) and a != b:
            return _difference(a, b, f"{at}{key}.")
        if a != b:
            return f"{at}{key} is {a!r} there and {b!r} here"
    return "no difference"


# ------------------------------------------------------------------------------------------- tables


def observations(cohort: Cohort) -> pd.DataFrame:
    """The table obs of the study contract, one row per sample."""
    config, compounds = cohort.config, cohort.compounds
    c, t, level, _ = cohort.rats.T
    dose = compounds.high_dose[c] * cohort.latents.dose_fraction[c, level]
    control = level == 0
    return pd.DataFrame(
        {
            "animal_id": cohort.sample_ids,
            "compound": np.array(compounds.names, object)[c],
            "dose": dose.round(3),
            "dose_level": np.array(DOSE_LEVELS, object)[level],
            "time_h": np.array(config.times_h, float)[t],
            "study": [f"S{int(i) // COMPOUNDS_PER_STUDY + 1}" for i in compounds.index[c]],
            "batch": [f"B{int(b) + 1:03d}" for b in cohort.batches[c, t]],
            "is_control": control,
            "control_group": [cohort.control_group(int(a), int(b)) for a, b in zip(c, t, strict=True)],
            "group_id": [cohort.group_id(rat) for rat in cohort.rats],
            "dili": np.where(control, np.nan, cohort.dili[c].astype(float)),
            "injury": np.where(control, np.nan, cohort.injury[c, t, level].astype(float)),
            "mechanism": [AXIS_NAMES[m] if m >= 0 else "none" for m in compounds.main[c]],
        },
        index=pd.Index(cohort.sample_ids, name="sample_id"),
    )


def _completeness(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """bool [n] has an array, int [n] number of slides; no sample is without both."""
    config = cohort.config
    has_expression = np.ones(len(cohort.rats), bool)
    n_slides = np.ones(len(cohort.rats), int)
    for sample, (c, t, level, rat) in enumerate(cohort.rats):
        rng = stream(
            config.seed,
            "missing",
            int(cohort.compounds.index[c]),
            round(config.times_h[t] * 60),
            int(level),
            int(rat),
        )
        u = rng.random(2)
        n_slides[sample] = 0 if u[0] < config.no_slide else 2 if u[0] > 1 - config.two_slides else 1
        has_expression[sample] = n_slides[sample] == 0 or u[1] >= config.no_expression
    return has_expression, n_slides


def slide_specs(
    cohort: Cohort, config: StudyConfig, n_slides: np.ndarray
) -> dict[str, tuple[str, SlideSpec]]:
    """slide_id -> (sample_id, specification)."""
    specs = {}
    for rat, sample_id, n in zip(cohort.rats, cohort.sample_ids, n_slides, strict=True):
        for number in range(int(n)):
            slide_id = f"{sample_id}-{'ab'[number]}"
            spec = plan_slide(
                config.cohort.seed,
                cohort.compounds,
                cohort.latents,
                rat,
                slide_id=slide_id,
                number=number,
                batch=int(cohort.batches[rat[0], rat[1]]),
                time_h=config.cohort.times_h[int(rat[1])],
                size_px=config.slide_px,
                mpp=config.mpp,
                setting=SETTINGS[config.cohort.setting],
            )
            specs[slide_id] = (sample_id, spec)
    return specs


def slide_table(specs: dict[str, tuple[str, SlideSpec]]) -> pd.DataFrame:
    """slides.parquet of the study contract; whole images, mpp from the file."""
    nothing = np.full(len(specs), np.nan)
    return pd.DataFrame(
        {
            "sample_id": [sample for sample, _ in specs.values()],
            "path": [f"slides/{slide_id}.tif" for slide_id in specs],
            **dict.fromkeys(("mpp_override", "x", "y", "width", "height"), nothing),
        },
        index=pd.Index(list(specs), name="slide_id", dtype=object),
    )


# -------------------------------------------------------------------------------------------- truth


def write_truth(folder: Path, cohort: Cohort) -> None:
    """Write compounds.parquet, animals.parquet and genes.parquet: what no loader of training may read."""
    write_parquet(gene_truth(), folder / "genes.parquet")
    write_parquet(compound_truth(cohort), folder / "compounds.parquet")
    write_parquet(animal_truth(cohort), folder / "animals.parquet")


def gene_truth() -> pd.DataFrame:
    """axis, title, symbol, log2fc (at a high dose, before the array's compression)."""
    changes = [(axis.name, axis.title, s, change) for axis in AXES for s, change in axis.programme.items()]
    return pd.DataFrame(changes, columns=["axis", "title", "symbol", "log2fc"])


def compound_truth(cohort: Cohort) -> pd.DataFrame:
    """One row per compound and loaded axis or none: compound, axis, severities, potency, zone, DILI and its causes."""
    loadings = []
    for c, name in enumerate(cohort.compounds.names):
        of = cohort.compounds
        common = {
            "compound": name,
            "dili": bool(cohort.dili[c]),
            "exposure": of.exposure[c],
            "idiosyncrasy": of.idiosyncrasy[c],
            "visible": bool(of.visible[c]),
        }
        loaded = np.flatnonzero(of.loaded[c])
        for a in loaded:
            own = {
                "axis": AXIS_NAMES[a],
                "main": a == of.main[c],
                "slide_max": of.slide_max[c, a],
                "expression_max": of.expression_max[c, a],
                "ed50": of.ed50[c, a],
                "hill": of.hill[c, a],
                "zone": AXES[a].zones[int(of.zone[c, a])][0],
            }
            loadings.append(common | own)
        if not len(loaded):
            loadings.append(common | {"axis": "none", "main": False})
    return pd.DataFrame(loadings)


def animal_truth(cohort: Cohort) -> pd.DataFrame:
    """One row per sample: severity of each phenotype in animal, reading and slide, activity of each programme."""
    latents = cohort.latents
    columns: dict[str, Any] = {
        "sample_id": cohort.sample_ids,
        "group_id": [cohort.group_id(r) for r in cohort.rats],
    }
    for what, values in (
        ("animal", np.clip(latents.animal, 0, None)),
        ("reading", np.clip(latents.reading, 0, None)),
        ("slide", latents.slide_severity),
        ("spontaneous", latents.spontaneous),
    ):
        chosen = cohort.of_samples(values)
        columns |= {f"{what}:{p}": chosen[:, k] for k, p in enumerate(PHENOTYPES)}
    activity, rna = cohort.of_samples(latents.activity), cohort.of_samples(np.clip(latents.rna, 0, None))
    columns |= {f"activity:{a}": activity[:, k] for k, a in enumerate(AXIS_NAMES)}
    columns |= {f"rna_piece:{a}": rna[:, k] for k, a in enumerate(AXIS_NAMES)}
    return pd.DataFrame(columns)
