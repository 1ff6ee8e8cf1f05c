"""Whether a value of the configuration is of the kind that its key takes: whole number, number, flag, null or not."""

from __future__ import annotations

import collections.abc
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from toxfusion.config.faults import ConfigError

#: key -> the least whole number that it takes, and whether null is one of its values
WHOLE: dict[str, tuple[int, bool]] = {
    "seed": (0, False),
    "heatmaps": (0, False),
    "reasons": (0, False),
    "batch_size": (1, False),
    "jobs": (1, True),
    "split.seed": (0, False),
    "split.fold": (0, False),
    "split.n_folds": (2, False),
    "trainer.devices": (1, False),
    "trainer.num_nodes": (1, False),
    "trainer.accumulate_grad_batches": (1, False),
    "trainer.checkpoint_every": (1, False),
    "trainer.validate_every": (1, False),
    "trainer.patience": (1, True),
    "draws": (1, False),
    "folds": (2, False),
    "compounds": (1, True),
    "budget": (1, False),
    "n_compounds": (1, False),
    "task.min_animals": (1, False),
    "task.min_compounds": (1, False),
    "pretrain.steps": (0, False),
    "pretrain.batch_size": (1, False),
    "pretrain.finetune_extra_steps": (0, False),
    "size.width": (1, False),
    "size.shared_dim": (1, False),
    "size.private_dim": (1, False),
    "size.gene_latents": (1, False),
    "size.n_genes": (1, True),
    "size.tiles_per_bag": (1, False),
    "size.tile_steps": (1, False),
    "size.tile_batch": (1, False),
    "size.pretrain_steps": (0, False),
    "size.pretrain_batch": (1, False),
    "size.style_latent": (1, False),
    "size.prototypes": (1, False),
    "size.finetune_steps": (0, False),
    "size.compounds_per_batch": (1, False),
    "size.treated_per_compound": (1, False),
    "size.controls_per_compound": (0, False),
    "size.eval_batch": (1, False),
    # what those of size, checked before, become
    "task.survival.n_bins": (2, False),
    "pretrain.style_latent": (1, False),
    "pretrain.prototypes": (1, False),
    **{
        f"{part}.{side}": (1, False)
        for part in ("bag", "expression", "fusion")
        for side in ("width", "heads")
    },
    **{f"{part}.n_blocks": (1, False) for part in ("expression", "fusion")},
    "expression.n_latents": (1, False),
    "data.expression.n_genes": (1, True),
    "tile_features.encode_batch": (1, False),
    "n_slides": (0, False),
    "view_px": (1, False),
    "viewer_px": (0, False),
    "steps": (1, False),
    "top_k": (1, False),
    "neighbours": (0, False),
    "compound_pages": (0, False),
    "gene_sets.min_genes": (1, False),
    "gene_sets.max_genes": (1, False),
    "gene_sets.permutations": (1, False),
    "gene_sets.null_draws": (0, False),
    "batch_permutations": (1, False),
    "grid.stride_px": (1, True),
    "grid.max_tiles": (1, True),
}
LARGEST_SEED = 2**32 - 1
#: key -> the least and the largest number that it takes; "*" stands for each key of a node
NUMBERS: dict[str, tuple[float, float]] = {
    **{f"{part}.dropout": (0.0, 0.99) for part in ("size", "bag", "expression", "fusion")},
    "modality.dropout": (0.0, 1.0),
    "optimizer.pretrain_lr": (0.0, math.inf),
    "optimizer.finetune_lr": (0.0, math.inf),
    "optimizer.network_lr_share": (0.0, math.inf),
    "optimizer.weight_decay": (0.0, math.inf),
    "optimizer.warmup": (0.0, 1.0),
    "optimizer.average": (0.0, 1.0),
    "pretrain.gene_mask": (0.0, 1.0),
    "pretrain.tile_mask": (0.0, 1.0),
    "pretrain.latent_mask": (0.0, 1.0),
    "pretrain.warm_start.slide_ridge": (1e-6, math.inf),
    "pretrain.warm_start.expression_ridge": (1e-6, math.inf),
    "pretrain.warm_start.own_weight": (1.0, math.inf),
    "pretrain.warm_start.power": (0.0, math.inf),
    "pretrain.weights.*": (0.0, math.inf),
    "pretrain.noise.*": (0.0, math.inf),
    "pretrain.temperature": (1e-4, math.inf),
    "pretrain.cluster_temperature": (1e-4, math.inf),
    "pretrain.cluster_entropy": (0.0, math.inf),
    "task.weights.*": (0.0, math.inf),
    "task.survival.alpha": (0.0, 1.0),
    "data.expression.clip": (1e-6, math.inf),
    "data.expression.clip_quantile": (0.0, 0.5),
    "split.valid_fraction": (0.0, 1.0),
    "optimizer.clinical_c": (1e-12, math.inf),
    "trainer.gradient_clip_val": (0.0, math.inf),
    "mpp_override": (1e-6, math.inf),
    "alpha": (0.0, 1.0),
    "error": (0.0, 1.0),
}
#: those of `NUMBERS` and `LISTS` that also take null
NULLABLE = (
    "data.expression.clip_quantile",
    "trainer.gradient_clip_val",
    "mpp_override",
    "error",
    "optimizer.head_c",
)

#: keys of lists, where one value would be taken apart, or counted
LISTS = ("experiments", "experiments_few", "seeds", "times_h", "leave_out", "optimizer.head_c")

#: key -> the words that it takes, where what is called with it would say so only after work
WORDS: dict[str, tuple[object, ...]] = {
    "resume": (True, False),
    "permute_labels": (True, False),
    "pretrain.stop_gradient": (True, False),
    "pretrain.learn_temperature": (True, False),
    "task.dili": (True, False),
    "task.injury": (True, False),
    "task.severity": (True, False),
    "task.biochemistry_log": (True, False),
    "interval": ("percentile", "bca"),
    "trainer.progress": (True, False),
    "trainer.accelerator": ("auto", "cpu", "cuda", "gpu", "mps"),
    "trainer.precision": ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true"),
}


def _is_strength(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_seed(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST_SEED


#: key of `LISTS` that is not empty -> what each of its values has to be, as a test and in words
ELEMENTS: dict[str, tuple[Callable[[object], bool], str]] = {
    "seeds": (_is_seed, f"whole numbers from 0 to {LARGEST_SEED}, {{key}}=[0,1]"),
    "optimizer.head_c": (_is_strength, "numbers above 0, {key}=[0.1,0.01]"),
}


def check_numbers(config: dict[str, Any]) -> None:
    """Check the keys of `WHOLE`, of `NUMBERS`, of `WORDS` and of `LISTS` that the configuration has, and its
    name, which is that of a folder.

    Raises:
        ConfigError: the name is none of one folder; a value is null, out of range, no number, a fraction where a whole
            number belongs, or a word that its key does not take.
    """
    for key, value in _values(config, WORDS):
        if value not in WORDS[key]:
            raise ConfigError(f"{key}={_shown(value)}: give one of {', '.join(map(_shown, WORDS[key]))}")
    for key, value in _values(config, LISTS):
        if value is None and key in NULLABLE:
            continue
        if not isinstance(value, list):
            raise ConfigError(f"{key}={_shown(value)}: give a list, {key}=[{_shown(value)}]")
        fits_key, wanted = ELEMENTS.get(key, (None, ""))
        if fits_key is not None and not (value and all(map(fits_key, value))):
            null = ", or null" if key in NULLABLE else ""
            raise ConfigError(f"{key}={_shown(value)}: give {wanted.format(key=key)}{null}")
    name = config.get("name")
    if name is not None and (str(name) in ("", ".", "..") or set("/\\").intersection(str(name))):
        raise ConfigError(f"name={name}: give the name of one folder, without / and \\")
    for key, value in _values(config, NUMBERS):
        low, high = NUMBERS[key if key in NUMBERS else f"{key.rpartition('.')[0]}.*"]
        if value is None and key in NULLABLE:
            continue
        fits = isinstance(value, int | float) and not isinstance(value, bool)
        if not (fits and low <= value <= high and math.isfinite(value)):
            limits = f"of {low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
            null = " or null" if key in NULLABLE else ""
            raise ConfigError(f"{key}={_shown(value)}: give a number {limits}{null}")
    for key, value in _values(config, WHOLE):
        least, nullable = WHOLE[key]
        if value is None and nullable:
            continue
        most = LARGEST_SEED if key.endswith("seed") else None
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not fits or (most is not None and value > most):
            limits = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise ConfigError(
                f"{key}={_shown(value)}: give a whole number {limits}{' or null' if nullable else ''}"
            )


def _values(config: dict[str, Any], keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """The dotted keys that a configuration has, with their values."""
    for key in keys:
        node: Any = config
        *above, last = key.split(".")
        for part in above:
            node = node.get(part) if isinstance(node, dict) else None
        if isinstance(node, dict) and last == "*":
            yield from ((f"{key[:-1]}{name}", value) for name, value in node.items())
        elif isinstance(node, dict) and last in node:
            yield key, node[last]


def check_arguments(where: str, node: dict[str, Any], target: Callable[..., Any]) -> None:
    """Check the values of a node against the annotations of what it names.

    Raises:
        ConfigError: null where the annotation has no None, or no whole number, number or flag where it wants one.
    """
    hints = annotations_of(target)
    for key, value in node.items():
        if key in hints and not isinstance(value, dict) and not fits(value, hints[key]):
            name = f"{where}.{key}" if where else key
            raise ConfigError(f"{name}={_shown(value)}: give {_wanted(hints[key])}")


def annotations_of(target: Callable[..., Any]) -> dict[str, Any]:
    """Parameter -> its type; empty where the types cannot be found out."""
    plain = isinstance(target, type) and not hasattr(target, "__dataclass_fields__")
    of: Any = target.__init__ if plain else target
    try:
        return typing.get_type_hints(of)
    except (NameError, TypeError, AttributeError):  # names that only type checkers import
        return {}


def fits(value: object, annotation: Any) -> bool:
    """Whether a plain value can be what an annotation wants; types that are not plain take anything but null."""
    origin = typing.get_origin(annotation)
    if annotation is Any or isinstance(annotation, typing.TypeVar):
        return True
    if origin is typing.Literal:
        return value in typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in typing.get_args(annotation))
    if annotation is type(None) or annotation is object:
        return value is None or annotation is object
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if annotation is str:
        return value is not None and not isinstance(value, list)
    if origin is collections.abc.Sequence:
        return value is not None and not isinstance(value, str)
    return value is not None


def _wanted(annotation: Any) -> str:
    names = {bool: "true or false", int: "a whole number", float: "a number", type(None): "null", str: "text"}
    if typing.get_origin(annotation) is typing.Literal:
        return f"one of {', '.join(map(_shown, typing.get_args(annotation)))}"
    if typing.get_origin(annotation) is collections.abc.Sequence:
        return "a list, [a,b]"
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return " or ".join(_wanted(each) for each in typing.get_args(annotation))
    return names.get(annotation, "a value that is not null")


def _shown(value: object) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
