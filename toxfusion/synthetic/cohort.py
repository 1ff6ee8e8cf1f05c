"""The virtual cohort: compounds with a mechanism, dose groups, and the latent severity of every axis in every rat.

What a reader calls is in `labels`, what the array measures in `expression`, what a slide shows in `slide_plan`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from toxfusion.study.vocabulary import DOSE_LEVELS
from toxfusion.synthetic.axes import AXES, INDEX, Course, affinity, at_time
from toxfusion.synthetic.randomness import stream
from toxfusion.synthetic.settings import REALISTIC, SETTINGS, Setting
from toxfusion.synthetic.slide_spec import MAX_SEVERITY, PHENOTYPES

GENERATOR_VERSION = 3
"""Raised whenever a latent, an expression value, a label or a slide of a seed changes; results of versions differ."""

RATS_PER_GROUP = 5
N_AXES, N_PHENOTYPES = len(AXES), len(PHENOTYPES)
PHENOTYPE_INDEX: dict[str, int] = {name: k for k, name in enumerate(PHENOTYPES)}

INERT_SHARE = 0.12
SEVERITY_LOG_SD = 0.45
ACCUMULATION, SPEED_LOG_SD = 0.25, 1.0
EXPRESSION_POTENCY = 0.4
DECOUPLING_SD = 0.45
UNAFFECTED = -1.0
GROUP_SD, ANIMAL_SD = 0.20, 0.25
DIFFUSE_PIECE_SD, FOCAL_PIECE_SD = 0.35, 0.54
COMPOUNDS_PER_BATCH = 5
SECOND_BATCH_SHARE = 0.4

FOCAL_PHENOTYPES = frozenset(
    ("necrosis", "single_cell_necrosis", "infiltration", "fibrosis", "hemorrhage", "mitosis", "edema")
)
BACKGROUND_MEAN: dict[str, float] = {
    "hypertrophy": 0.40, "vacuolization": 0.34, "eosinophilic_change": 0.34, "glycogen_gain": 0.32,
    "glycogen_loss": 0.32, "anisonucleosis": 0.36, "mitosis": 0.26, "single_cell_necrosis": 0.22,
    "bile_duct_proliferation": 0.32, "fibrosis": 0.28, "edema": 0.27, "phospholipidosis": 0.22,
    "infiltration": 0.09,
}  # fmt: skip
"""Mean physiological variation that control and treated slides share, in units of severity; in realistic studies."""

SPONTANEOUS: dict[str, float] = {"necrosis": 0.050, "microgranuloma": 0.048, "infiltration": 0.024}
"""Share of all rats, at any dose, with a focus of no relation to treatment; readers report about 40 % of them."""


@dataclass(frozen=True)
class CohortConfig:
    """Size and setting of a cohort.

    Args:
        seed: of everything; compounds, rats and slides of a smaller cohort are those of a larger one.
        n_compounds: each with an experiment and vehicle controls of its own.
        times_h: sacrifices in hours.
        animals_per_group: rats of a group with slides and arrays, at most five.
        setting: a name of `settings.SETTINGS`: "realistic", or "control", the positive control.
        two_slides, no_slide, no_expression: shares of samples with a second slide, without slide, without array.
        leave_out: names of axes (A1 to A14); compounds that load on one of them are passed over, the next of the
            seed taking their place.
    """

    seed: int = 1
    n_compounds: int = 24
    times_h: tuple[float, ...] = (24.0, 360.0)
    animals_per_group: int = 1
    setting: str = "realistic"
    two_slides: float = 0.04
    no_slide: float = 0.03
    no_expression: float = 0.03
    leave_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.setting not in SETTINGS:
            raise CohortError(f"setting: unknown value {self.setting!r}; use one of {', '.join(SETTINGS)}")
        if self.n_compounds < 1:
            raise CohortError(f"n_compounds: {self.n_compounds!r} is under 1")
        if not 1 <= self.animals_per_group <= RATS_PER_GROUP:
            raise CohortError(
                f"animals_per_group: {self.animals_per_group!r} is outside 1 to {RATS_PER_GROUP}, the rats of a group"
            )
        if not self.times_h or min(self.times_h) <= 0 or len(set(self.times_h)) != len(self.times_h):
            raise CohortError(f"times_h: {self.times_h!r}; give different times above 0 hours")
        for name in ("two_slides", "no_slide", "no_expression"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise CohortError(f"{name}: {getattr(self, name)!r} is no share between 0 and 1")
        unknown = [name for name in self.leave_out if name not in INDEX]
        if unknown:
            raise CohortError(f"leave_out: no axis {unknown[0]!r}; the axes are {', '.join(INDEX)}")
        if len(set(self.leave_out)) == len(AXES):
            raise CohortError("leave_out: every axis; leave one for the compounds to load on")


class CohortError(ValueError):
    """A cohort that cannot be drawn; the message names the setting and the value."""


@dataclass(frozen=True)
class Compounds:
    """Compounds as arrays, C of them; A axes in the order of `axes.AXES`.

    Attributes:
        index: int [C], the number a compound has in every cohort of its seed.
        high_dose: [C] mg/kg; step: [C] ratio of neighbouring dose levels, 3 or 10/3.
        visible: bool [C], loads on an axis that a slide can show; the others are inert, or change expression only.
        main: int [C], the axis that the compound is known for, -1 = none.
        loaded: bool [C, A].
        slide_max, expression_max: [C, A] severity and relative programme size at a saturating dose.
        ed50: [C, A] as a share of the high dose; hill: [C, A].
        speed: [C], factor on time: a fast compound runs through the courses early.
        zone: int [C, A], position in the zones of the axis.
        effect_on: bool [C, P], phenotypes that the compound's axes may show (necrosis may be zonal, single-cell or
            both; glycogen rises or falls).
        exposure: [C] standard normal, human dose and exposure; idiosyncrasy: [C] standard normal, unobserved.
        reader_gain: [C]; reporting: [C] chance that the reader of the experiment reports a spontaneous focus.
    """

    index: np.ndarray
    high_dose: np.ndarray
    step: np.ndarray
    visible: np.ndarray
    main: np.ndarray
    loaded: np.ndarray
    slide_max: np.ndarray
    expression_max: np.ndarray
    ed50: np.ndarray
    hill: np.ndarray
    speed: np.ndarray
    zone: np.ndarray
    effect_on: np.ndarray
    exposure: np.ndarray
    idiosyncrasy: np.ndarray
    reader_gain: np.ndarray
    reporting: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def names(self) -> list[str]:
        return [f"VL{i:04d}" for i in self.index]


@dataclass(frozen=True)
class Latents:
    """What happens in each rat: arrays of shape [C, T, L, 5, ...] over compounds, times, dose levels and rats.

    Attributes:
        animal: [..., P] unclipped severity in the whole liver, treatment-related; below 0 is absent.
        reading, slide: [..., P] the same in the pieces that are read and that are digitised.
        rna: [..., A] axis severity in the piece whose RNA is measured, unclipped.
        group: [C, T, L, P] unclipped severity that the rats of a group share, without the rats' own part.
        spread: [C, T, L, P] factor on the SD of rats and pieces around ``group``.
        activity: [..., A] relative size of each expression programme, 0 to about 1.5.
        background: [..., P] physiological variation on the slide.
        spontaneous: [..., P] severity of foci unrelated to treatment in the animal, 0 = none.
        spontaneous_slide: [..., P] the same on the digitised piece.
        dose_fraction: [C, L] dose as a share of the high dose.
        died: bool [...] before sacrifice.
    """

    animal: np.ndarray
    reading: np.ndarray
    slide: np.ndarray
    rna: np.ndarray
    group: np.ndarray
    spread: np.ndarray
    activity: np.ndarray
    background: np.ndarray
    spontaneous: np.ndarray
    spontaneous_slide: np.ndarray
    dose_fraction: np.ndarray
    died: np.ndarray

    @property
    def slide_severity(self) -> np.ndarray:
        """[..., P] what the slide shows, 0 to 4.5, whatever its cause."""
        shown = np.maximum(np.maximum(self.slide, self.background), self.spontaneous_slide)
        return np.clip(shown, 0.0, MAX_SEVERITY)


# ---------------------------------------------------------------------------------------- compounds


def draw_compounds(seed: int, indices: Sequence[int], setting: str = REALISTIC.name) -> Compounds:
    """Compounds number ``indices`` of a seed; each depends on the seed, the setting and its own number only."""
    drawn = [_draw_compound(seed, int(i), SETTINGS[setting]) for i in indices]
    return Compounds(**{f.name: np.array([d[f.name] for d in drawn]) for f in fields(Compounds)})


def compound_numbers(config: CohortConfig, first: int = 0) -> list[int]:
    """Numbers of the compounds of a cohort, from ``first`` on: those that load on an axis left out are passed over."""
    left_out = [INDEX[name] for name in config.leave_out]
    fitting = (
        number
        for number in itertools.count(first)
        if not left_out or not draw_compounds(config.seed, [number], config.setting).loaded[0, left_out].any()
    )
    return list(itertools.islice(fitting, config.n_compounds))


def _draw_compound(seed: int, index: int, setting: Setting) -> dict[str, np.ndarray | float | int | bool]:
    rng = stream(seed, "compound", index)
    # A golden-ratio sequence spreads mechanisms evenly over any number of compounds.
    turn = (stream(seed, "mechanisms").random() + index * 0.6180339887498949) % 1.0
    visible = turn >= INERT_SHARE
    main, loaded = -1, _draw_silent_axes(rng)
    if visible:
        main, loaded = _draw_axes(rng, (turn - INERT_SHARE) / (1 - INERT_SHARE), setting)
    slide_max = setting.severity_median * np.exp(rng.normal(0, SEVERITY_LOG_SD, N_AXES))
    expression_max = np.clip(0.85 * np.exp(rng.normal(0, DECOUPLING_SD, N_AXES)), 0.15, 1.8)
    silent = rng.random(N_AXES)
    for name, share in setting.silent.items():
        if silent[INDEX[name]] < share:
            expression_max[INDEX[name]] *= setting.silent_size
    potency = rng.normal(0, 1)
    mean, sd = setting.log_ed50
    log_ed50 = mean + sd * (0.7 * potency + 0.71 * rng.normal(0, 1, N_AXES))
    if not visible:
        slide_max = np.zeros(N_AXES)
        expression_max *= 0.5
    return {
        "index": index,
        "high_dose": float(np.exp(rng.normal(np.log(150), 1.0)).round(1)),
        "step": 3.0 if rng.random() < 0.5 else 10 / 3,
        "visible": visible,
        "main": main,
        "loaded": loaded,
        "slide_max": slide_max * loaded,
        "expression_max": expression_max * loaded,
        "ed50": np.exp(log_ed50),
        "hill": rng.uniform(*setting.hill, N_AXES),
        "speed": float(np.exp(SPEED_LOG_SD * rng.normal())),
        "zone": np.array([_choose(rng, [p for _, p in axis.zones]) for axis in AXES]),
        "effect_on": _effects(rng),
        "exposure": float(rng.normal()),
        "idiosyncrasy": float(rng.normal()),
        "reader_gain": float(rng.uniform(0.8, 1.25)),
        "reporting": float(rng.beta(0.35, 0.55)),
    }


def _choose(rng: np.random.Generator, weights: Sequence[float]) -> int:
    return int(np.searchsorted(np.cumsum(weights) / np.sum(weights), rng.random(), side="right"))


def _draw_axes(rng: np.random.Generator, position: float, setting: Setting) -> tuple[int, np.ndarray]:
    """The main axis and bool [A] of all: a main axis by its place in the order of shares, and up to three partners."""
    share = np.array([setting.share.get(axis.name, axis.share) for axis in AXES])
    main_share = (
        share * np.array([axis.slide > 0 for axis in AXES]) * [1 if a.slide >= 1 else 0.4 for a in AXES]
    )
    main = int(
        np.searchsorted(np.cumsum(main_share) / main_share.sum(), min(position, 1 - 1e-9), side="right")
    )
    loaded = np.zeros(N_AXES, bool)
    loaded[main] = True
    for _ in range(_choose(rng, setting.extra_axes)):
        weights = share * np.array([affinity(main, a) for a in range(N_AXES)]) * ~loaded
        loaded[_choose(rng, weights.tolist())] = True
    return main, loaded


def _draw_silent_axes(rng: np.random.Generator) -> np.ndarray:
    """bool [A]: half of the compounds without lesions change one expression programme a little."""
    loaded = np.zeros(N_AXES, bool)
    if rng.random() < 0.5:
        loaded[INDEX[("A3", "A9", "A11", "A13")[int(rng.integers(4))]]] = True
    return loaded


def _effects(rng: np.random.Generator) -> np.ndarray:
    on = np.ones(N_PHENOTYPES, bool)
    mode = rng.random()
    on[PHENOTYPE_INDEX["necrosis"]] = mode < 0.60
    on[PHENOTYPE_INDEX["single_cell_necrosis"]] = mode >= 0.45
    gain = rng.random() < 0.45
    on[PHENOTYPE_INDEX["glycogen_gain"]] = gain
    on[PHENOTYPE_INDEX["glycogen_loss"]] = not gain
    return on


def batch_numbers(seed: int, indices: Sequence[int], times_h: Sequence[float]) -> np.ndarray:
    """int [C, T]: the batch (stain, scanner, array plate) of each experiment's time.

    Several compounds share a batch; in a part of the experiments the repeated doses lie in the next batch.
    """
    numbers = np.empty((len(indices), len(times_h)), int)
    for place, index in enumerate(indices):
        first = int(index) // COMPOUNDS_PER_BATCH
        moved = stream(seed, "batch", int(index)).random() < SECOND_BATCH_SHARE
        numbers[place] = [first + int(moved and time > 24) for time in times_h]
    return numbers


# ------------------------------------------------------------------------------------------- animals


def draw_latents(
    seed: int, compounds: Compounds, times_h: Sequence[float], setting: str = REALISTIC.name
) -> Latents:
    """Latents of five rats in every group of every compound; a rat depends on seed, compound, time and place only."""
    noise = _draw_noise(seed, compounds, times_h, SETTINGS[setting])
    fractions = np.stack(
        [np.zeros(len(compounds)), compounds.step**-2, compounds.step**-1, np.ones(len(compounds))], 1
    )
    response = _response(compounds, fractions, times_h, 1.0) * compounds.loaded[:, None, None]
    group, spread = _group_severity(compounds, response, noise["group"], times_h)
    animal = group[..., None, :] + ANIMAL_SD * spread[..., None, :] * noise["animal_phenotype"]
    piece_sd = np.where([p in FOCAL_PHENOTYPES for p in PHENOTYPES], FOCAL_PIECE_SD, DIFFUSE_PIECE_SD)
    pieces = {k: animal + piece_sd * spread[..., None, :] * noise[k] for k in ("reading", "slide")}
    rna = _axis_severity(compounds, response, noise, times_h)
    return Latents(
        animal=animal,
        reading=pieces["reading"],
        slide=pieces["slide"],
        rna=rna,
        group=group,
        spread=spread,
        activity=_activity(compounds, fractions, rna, noise, times_h),
        background=noise["background"],
        spontaneous=noise["spontaneous"],
        spontaneous_slide=noise["spontaneous_slide"],
        dose_fraction=fractions,
        died=_deaths(animal, fractions, noise["death"], times_h),
    )


def _response(
    compounds: Compounds, fractions: np.ndarray, times_h: Sequence[float], potency: float
) -> np.ndarray:
    """[C, T, L, A] Hill response; a dose that is repeated counts for more, by (t / 24 h) ** `ACCUMULATION`."""
    amount = (
        fractions[:, None, :, None] * (np.asarray(times_h, float) / 24)[None, :, None, None] ** ACCUMULATION
    )
    ed50, slope = compounds.ed50[:, None, None] * potency, compounds.hill[:, None, None]
    return _hill(amount, ed50, slope)


def _hill(dose: np.ndarray, ed50: np.ndarray, slope: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return 1.0 / (1.0 + (dose / ed50) ** -slope)


def _draw_noise(
    seed: int, compounds: Compounds, times_h: Sequence[float], setting: Setting
) -> dict[str, np.ndarray]:
    shape = (len(compounds), len(times_h), len(DOSE_LEVELS))
    out = {"group": np.empty((*shape, 2 * N_AXES))}
    sizes = {
        "axis": N_AXES,
        "rna": N_AXES,
        "activity": N_AXES,
        "reading": N_PHENOTYPES,
        "slide": N_PHENOTYPES,
    }
    uniforms = {
        "background": N_PHENOTYPES,
        "spontaneous": N_PHENOTYPES,
        "spontaneous_slide": N_PHENOTYPES,
        "death": 1,
    }
    normal = np.empty((*shape, RATS_PER_GROUP, sum(sizes.values())))
    uniform = np.empty((*shape, RATS_PER_GROUP, sum(uniforms.values())))
    for c, t, level in np.ndindex(*shape):
        key = (int(compounds.index[c]), round(times_h[t] * 60), level)
        out["group"][c, t, level] = stream(seed, "group", *key).standard_normal(2 * N_AXES)
        for rat in range(RATS_PER_GROUP):
            rng = stream(seed, "rat", *key, rat)
            normal[c, t, level, rat] = rng.standard_normal(normal.shape[-1])
            uniform[c, t, level, rat] = rng.random(uniform.shape[-1])
    out |= _parted(normal, sizes) | _parted(uniform, uniforms)
    out["animal_phenotype"] = out["axis"][..., _AXIS_OF_PHENOTYPE]
    means = np.array([BACKGROUND_MEAN.get(p, 0.0) for p in PHENOTYPES])
    out["background"] = np.clip(-np.log1p(-out["background"]) * means * setting.background, 0, 1.2)
    out["spontaneous"], out["spontaneous_slide"] = _spontaneous(out["spontaneous"], out["spontaneous_slide"])
    return out


def _parted(values: np.ndarray, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    edges = np.cumsum(list(sizes.values()))[:-1]
    return dict(zip(sizes, np.split(values, edges, axis=-1), strict=True))


def _spontaneous(u: np.ndarray, u_slide: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Severity of spontaneous foci in the animal and on the digitised piece, from uniform draws.

    89 % are minimal, the others slight. A focus of the animal is on the digitised piece in three of four cases,
    and one in forty rats without such a focus in the sections that were read shows one there.
    """
    rate = np.array([SPONTANEOUS.get(p, 0.0) for p in PHENOTYPES])
    with np.errstate(divide="ignore", invalid="ignore"):
        within = np.where(u < rate, u / np.where(rate > 0, rate, 1), 0.0)
    severity = np.where(within < 0.89, 0.4 + 0.6 * within / 0.89, 1.0 + (within - 0.89) / 0.11 * 0.9)
    severity = np.where(u < rate, severity, 0.0)
    seen = np.where(severity > 0, u_slide < 0.75, u_slide < rate * 0.5)
    on_slide = np.where(seen, np.where(severity > 0, severity, 0.6), 0.0)
    return severity, on_slide


_AXIS_OF_PHENOTYPE = np.zeros(N_PHENOTYPES, int)
for _position, _axis in reversed(list(enumerate(AXES))):
    for _effect in _axis.effects:
        _AXIS_OF_PHENOTYPE[PHENOTYPE_INDEX[_effect.phenotype]] = _position


def _group_severity(
    compounds: Compounds, response: np.ndarray, noise: np.ndarray, times_h: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Group severity and spread, each [C, T, L, P]: the strongest of the axes that show a phenotype."""
    shape = (len(compounds), len(times_h), len(DOSE_LEVELS), N_PHENOTYPES)
    severity, spread = np.full(shape, UNAFFECTED), np.full(shape, 0.2)
    for a, axis in enumerate(AXES):
        for effect in axis.effects:
            p = PHENOTYPE_INDEX[effect.phenotype]
            drive = _drive(compounds, response[..., a], (axis.slide_course, effect.course), times_h)
            own = 0.2 + 0.8 * drive
            shown = UNAFFECTED + (compounds.slide_max[:, a, None, None] - UNAFFECTED) * drive
            shown = effect.weight * (shown + GROUP_SD * own * noise[..., a] - effect.offset)
            shown = np.where(compounds.effect_on[:, p, None, None], shown, UNAFFECTED)
            stronger = (shown > severity[..., p]) & compounds.loaded[:, a, None, None]
            severity[..., p] = np.where(stronger, shown, severity[..., p])
            spread[..., p] = np.where(stronger, own, spread[..., p])
    return severity, spread


def _drive(
    compounds: Compounds, response: np.ndarray, courses: Sequence[Course], times_h: Sequence[float]
) -> np.ndarray:
    """[C, T, L]: dose response [C, T, L] times the courses, run through at the compound's speed."""
    own = compounds.speed[:, None] * np.asarray(times_h, float)
    return response * np.prod([at_time(course, own) for course in courses], axis=0)[:, :, None]


def _axis_severity(
    compounds: Compounds, response: np.ndarray, noise: dict[str, np.ndarray], times_h: Sequence[float]
) -> np.ndarray:
    """[C, T, L, 5, A] unclipped severity of each axis in the RNA piece."""
    out = np.empty((*noise["axis"].shape[:-1], N_AXES))
    for a, axis in enumerate(AXES):
        drive = _drive(compounds, response[..., a], (axis.slide_course,), times_h)[..., None]
        own = 0.2 + 0.8 * drive
        group = UNAFFECTED + (compounds.slide_max[:, a, None, None, None] - UNAFFECTED) * drive
        group = group + GROUP_SD * own * noise["group"][..., None, a]
        piece = FOCAL_PIECE_SD if axis.focal else DIFFUSE_PIECE_SD
        out[..., a] = group + own * (ANIMAL_SD * noise["axis"][..., a] + piece * noise["rna"][..., a])
    return out


def _activity(
    compounds: Compounds,
    fractions: np.ndarray,
    rna: np.ndarray,
    noise: dict[str, np.ndarray],
    times_h: Sequence[float],
) -> np.ndarray:
    """[C, T, L, 5, A] programme size: early drive at lower doses than lesions, and the lesion in the RNA piece."""
    response = _response(compounds, fractions, times_h, EXPRESSION_POTENCY)
    response = response * compounds.expression_max[:, None, None]
    out = np.empty_like(rna)
    for a, axis in enumerate(AXES):
        drive = _drive(compounds, response[..., a], (axis.expression_course,), times_h)[..., None]
        own = (
            0.15 * noise["group"][..., None, N_AXES + a]
            + 0.12 * noise["axis"][..., a]
            + 0.15 * noise["activity"][..., a]
        )
        early = drive * np.exp(own)
        lesion = (
            np.clip(rna[..., a], 0, 3)
            / 1.5
            * np.minimum(compounds.expression_max[:, a], 1)[:, None, None, None]
        )
        out[..., a] = (1 - axis.coupling) * early + axis.coupling * lesion
    fasting = INDEX["A13"]
    out[..., fasting] += _anorexia(out, fractions)
    return out


def _anorexia(activity: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """[C, T, L, 5] fasting programme from eating less: a little with dose, more with injury."""
    burden = activity[..., [INDEX["A5"], INDEX["A10"], INDEX["A11"]]].sum(-1)
    return 0.12 * fractions[:, None, :, None] + 0.10 * burden


def _deaths(animal: np.ndarray, fractions: np.ndarray, u: np.ndarray, times_h: Sequence[float]) -> np.ndarray:
    """bool [C, T, L, 5]: rare, at high doses, in rats with necrosis or DNA damage, mostly late."""
    worst = animal[
        ..., [PHENOTYPE_INDEX[p] for p in ("necrosis", "anisonucleosis", "single_cell_necrosis")]
    ].max(-1)
    late = np.array([0.3 if t <= 24 else 0.6 if t < 300 else 1.0 for t in times_h])[None, :, None, None]
    chance = (0.015 + 0.14 * np.clip(worst, 0, 4)) * (fractions[:, None, :, None] ** 3) * late
    return u[..., 0] < chance
