"""What a tile encoder tells of findings in photographs of rat liver: prints a table, writes it to docs/photographs.md.

    python -m benchmarks.photographs --photographs drugmatrix --write
    python -m benchmarks.photographs --photographs drugmatrix --studies studies/realistic studies/control --write
    python -m benchmarks.photographs --photographs drugmatrix --encoder study/encoders/contrastive-<digest>.ckpt

``drugmatrix`` holds the photographs and their captions.csv. Photographs are cut to what lies above the printed scale,
brought to the encoder's um per pixel and tiled. Two questions:

within the photographs: the features of a photograph are mean and standard deviation over its tiles. Each group of
    findings is told from all other photographs by L2 logistic regression on standardised features, its strength chosen
    within the training part of each fold. Beside the encoder: the same network with random weights, colour histograms
    of the same tiles, and the objective alone.
from virtual slides (``--studies``): a probe of tiles learns the lesions of a virtual study by its masks, as in
    benchmarks/visibility.py, and sees no photograph. Its mean over the tiles of a photograph is the score of the
    photograph. Beside it the same probe with the labels of whole animals dealt anew. Which lesions stand for which
    group (`VIRTUAL_LESIONS`), the probe and the mean were fixed before any score was seen.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.histology import BAR_SAYS, UM_PER_PIXEL, Image, Photograph, PhotographError, read_photographs
from benchmarks.markdown import markdown_of, write_between_marks
from benchmarks.visibility import Probes, tile_probe
from toxfusion.evaluation.bootstrap import Interval, Resampling, interval, paired_difference, resample
from toxfusion.evaluation.statistics import Statistic, auroc_statistic, mean_of
from toxfusion.models.lite0 import WeightsNotInstalledError, packaged_weights
from toxfusion.models.tile import LoadedTileEncoder, TileEncoder, TileEncoderError, load_tile_encoder
from toxfusion.slides.grid import TileGrid
from toxfusion.slides.tissue import MASK_MPP, TissueMask, tissue_mask
from toxfusion.study.files import sha256_of
from toxfusion.study.store_spec import StoreError
from toxfusion.study.study import Study, StudyError

GROUPS = {
    "inflammatory infiltrate": ("inflammatory cell infiltrate",),
    "necrosis, degeneration": ("necrosis", "degeneration"),
    "hypertrophy, eosinophilia": ("hypertrophy", "eosinophilia"),
    "lipid accumulation": ("lipid accumulation",),
    "glycogen accumulation": ("glycogen accumulation",),
    "bile duct, oval cells": ("bile duct hyperplasia", "oval cell"),
}
"""Group of findings -> words, one of which its captions hold. What is in no group is in the rest."""
VIRTUAL_LESIONS = {
    "inflammatory infiltrate": ("infiltration",),
    "necrosis, degeneration": ("necrosis",),
    "hypertrophy, eosinophilia": ("hypertrophy", "eosinophilic_change"),
    "lipid accumulation": ("vacuolization", "phospholipidosis"),
}
"""Group of findings -> lesions of a virtual study that show it."""
LABEL_PERMUTATIONS = 200
REST = "rest"
FEWEST = 4
"""Photographs of a group that is told from the others; smaller ones are in the rest."""
FOLDS, INNER_FOLDS = 4, 3
PENALTIES = np.logspace(-4, 2, 7)
HISTOGRAM_BINS = 32
IMAGENET = "imagenet"
ENCODED, RANDOM = "tile encoder", "the same network, random weights"
COLOUR, OBJECTIVE = "colour histograms", "objective alone"
MEAN = "mean of groups"


def group_of(finding: str) -> str:
    """The group of a caption's finding, or the rest.

    Raises:
        PhotographError: the caption holds words of two groups.
    """
    groups = [group for group, words in GROUPS.items() if any(word in finding.lower() for word in words)]
    if len(groups) > 1:
        raise PhotographError(
            f"finding {finding!r} is in the groups {' and '.join(groups)}; make GROUPS tell them apart"
        )
    return groups[0] if groups else REST


def tiles_of(photograph: Photograph, mpp: float, tile_px: int) -> Image:
    """Tiles with enough tissue, uint8 [T, tile_px, tile_px, 3] at ``mpp`` um per pixel; T may be 0.

    The fewest that cover the photograph, evenly spread, so that they overlap by less than a tile.
    """
    picture = _at(photograph, mpp)
    low_power = _at(photograph, MASK_MPP)
    nothing = np.zeros(low_power.shape[:2], bool)
    mask = TissueMask(low_power, tissue_mask(low_power, MASK_MPP), nothing, MASK_MPP / mpp)
    height, width = picture.shape[:2]
    if min(height, width) < tile_px:
        raise PhotographError(
            f"{photograph.name}: {width} x {height} px at {mpp:g} um per pixel, less than a tile of {tile_px} px"
        )
    ys, xs = (
        np.linspace(0, side - tile_px, math.ceil(side / tile_px)).round().astype(int)
        for side in (height, width)
    )
    corners = np.array([(x, y) for y in ys for x in xs])
    shares = mask.shares("tissue", corners, tile_px)
    kept = corners[shares >= TileGrid.min_tissue]
    tiles = [picture[y : y + tile_px, x : x + tile_px] for x, y in kept]
    return np.stack(tiles) if tiles else np.empty((0, tile_px, tile_px, 3), np.uint8)


def _at(photograph: Photograph, mpp: float) -> Image:
    zoom = photograph.mpp / mpp
    height, width = (max(1, round(side * zoom)) for side in photograph.rgb.shape[:2])
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(photograph.rgb, (width, height), interpolation=method), np.uint8)


def encoded(encoder: TileEncoder, tiles: Image, batch_size: int = 64) -> np.ndarray:
    """float64 [T, dim] of tiles."""
    with torch.inference_mode():
        parts = [encoder(part) for part in torch.from_numpy(tiles).split(batch_size)]
    return torch.cat(parts).double().numpy()


def histograms(tiles: Image) -> np.ndarray:
    """Shares of the pixels of each tile by their L*, a* and b*, in bins of 8 bit: float64 [T, 3 HISTOGRAM_BINS]."""
    edges = np.linspace(0, 256, HISTOGRAM_BINS + 1)
    lab = [cv2.cvtColor(tile, cv2.COLOR_RGB2LAB).reshape(-1, 3).T for tile in tiles]
    return np.array([np.concatenate([np.histogram(c, edges)[0] / c.size for c in tile]) for tile in lab])


def pooled(bags: Iterable[np.ndarray]) -> np.ndarray:
    """Mean and standard deviation over the tiles of each photograph, float64 [n, 2 d]."""
    return np.array([np.concatenate([bag.mean(axis=0), bag.std(axis=0)]) for bag in bags])


def encoder_of(name: str) -> LoadedTileEncoder:
    """The frozen encoder of tile_features=imagenet by its name, or what tile_features=contrastive wrote by its file.

    Raises:
        TileEncoderError: no such file, or another kind of file.
        WeightsNotInstalledError: the package that ships the ImageNet weights is absent.
    """
    if name != IMAGENET:
        return load_tile_encoder(Path(name))
    return LoadedTileEncoder(TileEncoder(pretrained=True).eval(), [], {}, sha256_of(packaged_weights()))


def random_encoder(like: TileEncoder, seed: int) -> TileEncoder:
    """The same network with weights drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        mean, std = like.mean.flatten().tolist(), like.std.flatten().tolist()
        drawn = TileEncoder(like.backbone_name, mean=mean, std=std, mpp=like.mpp, tile_px=like.tile_px)
    return drawn.eval()


@dataclass(frozen=True)
class Protocol:
    """What every row of the table shares.

    Attributes:
        names: of the photographs, [n].
        groups: str [n], those of fewer than `FEWEST` photographs in the rest.
        counts: photographs of each group, before the small ones went into the rest.
        folds: int [repeats, n], the fold that a photograph is tested in.
        resampling: draws of photographs, of each group as many as there are.
    """

    names: tuple[str, ...]
    groups: np.ndarray
    counts: Mapping[str, int]
    folds: np.ndarray
    resampling: Resampling

    @property
    def told(self) -> list[str]:
        """The groups that are told from all other photographs."""
        return [group for group in GROUPS if self.counts.get(group, 0) >= FEWEST]


def protocol_of(photographs: Mapping[str, Photograph], repeats: int) -> Protocol:
    """Groups, folds and draws; folds are stratified by group.

    Raises:
        PhotographError: no group is large enough, or all photographs are in one.
    """
    names = tuple(sorted(photographs))
    named = [group_of(photographs[name].finding) for name in names]
    counts = Counter(named)
    groups = np.array([group if counts[group] >= FEWEST else REST for group in named])
    sizes = Counter(groups.tolist())
    if sizes.keys() <= {REST} or len(names) - max(n for g, n in sizes.items() if g != REST) < FEWEST:
        raise PhotographError(
            f"{len(names)} photographs, by group {dict(counts)}: a group needs {FEWEST}, and as many outside of it"
        )
    folds = np.empty((repeats, len(names)), np.int64)
    for repeat in range(repeats):
        deal = StratifiedKFold(FOLDS, shuffle=True, random_state=repeat)
        for fold, (_, tested) in enumerate(deal.split(names, groups)):
            folds[repeat, tested] = fold
    codes = np.unique(groups, return_inverse=True)[1]
    return Protocol(names, groups, counts, folds, resample(names, strata=codes))


def out_of_fold(values: np.ndarray, label: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Decision values of each photograph by a model that did not see it, float64 [repeats, n].

    Args:
        values: float64 [n, d]. label: bool [n]. folds: int [repeats, n].
    """
    # Ridge-penalised weights lie in the span of the training rows, which PCA keeps whole: few columns, the same model.
    prepared = make_pipeline(StandardScaler(), PCA(svd_solver="full"))
    scores = np.empty(folds.shape)
    for repeat, of_repeat in enumerate(folds):
        for fold in range(FOLDS):
            tested = of_repeat == fold
            components = prepared.fit_transform(values[~tested])
            model = GridSearchCV(
                LogisticRegression(solver="newton-cholesky"),
                {"C": PENALTIES},
                cv=StratifiedKFold(INNER_FOLDS, shuffle=True, random_state=repeat),
                scoring="neg_log_loss",
                error_score="raise",
            )
            model.fit(components, label[~tested])
            scores[repeat, tested] = model.decision_function(prepared.transform(values[tested]))
    return scores


def aurocs(values: np.ndarray, protocol: Protocol) -> dict[str, Statistic]:
    """AUROC of each group against all other photographs, and their mean.

    A pair counts where one model scored both: in the same fold of the same repeat. Scores of two models have other
    intercepts, which puts pooled scores below chance where there is nothing to find.
    """
    repeats, n = protocol.folds.shape
    codes = protocol.resampling.codes(protocol.names)
    of_model = protocol.folds + FOLDS * np.arange(repeats)[:, None]
    by_group = {}
    for group in protocol.told:
        label = protocol.groups == group
        scores = out_of_fold(values, label, protocol.folds)
        by_group[group] = auroc_statistic(
            np.tile(label, repeats).astype(float),
            scores.ravel(),
            np.tile(codes, repeats),
            n,
            of_model.ravel(),
        )
    return by_group | {MEAN: mean_of(list(by_group.values()))}


def permuted_range(values: np.ndarray, protocol: Protocol, permutations: int) -> dict[str, str]:
    """5th to 95th percentile of the AUROCs when features are dealt anew over the photographs: what chance gives.

    Of one repeat of the cross-validation, which makes it wider than that of the mean of several.
    """
    rng = np.random.default_rng(0)
    once = replace(protocol, folds=protocol.folds[:1])
    whole = np.ones((1, len(protocol.names)))
    drawn = [aurocs(values[rng.permutation(len(values))], once) for _ in range(permutations)]
    by_group = {group: np.concatenate([each[group](whole) for each in drawn]) for group in drawn[0]}
    return {g: "{:.2f} to {:.2f}".format(*np.quantile(each, (0.05, 0.95))) for g, each in by_group.items()}


def within_photographs(
    bags: Sequence[np.ndarray],
    tiles: Sequence[Image],
    objectives: Sequence[str],
    encoder: TileEncoder,
    protocol: Protocol,
    *,
    random_seeds: Sequence[int],
    permutations: int,
) -> pd.DataFrame:
    """What is told of the groups by models that learn from other photographs.

    Args:
        bags: features of the tiles of each photograph, float64 [T, dim].
        tiles: of each photograph, uint8 [T, P, P, 3].
        objectives: of each photograph.
        random_seeds: of the random weights.
        permutations: that a row of what chance gives is made of; 0 = no such row.
    """

    def probed(values: np.ndarray) -> dict[str, Statistic]:
        return aurocs(values, protocol)

    values = pooled(bags)
    by_encoder = probed(values)
    drawn = []
    for seed in random_seeds:
        network = random_encoder(encoder, seed)
        drawn.append(probed(pooled(encoded(network, each) for each in tiles)))
    random = {group: mean_of([each[group] for each in drawn]) for group in by_encoder}
    of_colour = pooled(histograms(each) for each in tiles)
    colour = probed(of_colour)
    objective = probed(pd.get_dummies(pd.Series(objectives)).to_numpy(float))

    features = {
        ENCODED: {"columns": values.shape[1], **_cells(by_encoder, protocol)},
        f"{RANDOM}: mean of {len(drawn)} seeds": {"columns": values.shape[1], **_cells(random, protocol)},
        "lowest and highest seed": {g: _range([each[g] for each in drawn], protocol) for g in by_encoder},
        COLOUR: {"columns": of_colour.shape[1], **_cells(colour, protocol)},
        OBJECTIVE: {"columns": len(set(objectives)), **_cells(objective, protocol)},
        "encoder minus random weights": _differences(by_encoder, random, protocol),
        "encoder minus colour": _differences(by_encoder, colour, protocol),
    }
    if permutations:
        name = f"encoder, photographs permuted {permutations} times: 5 to 95 %"
        features[name] = permuted_range(values, protocol, permutations)
    return _table(features, "features", protocol)


def from_virtual_slides(
    probes: Probes,
    bags: Sequence[np.ndarray],
    objectives: Sequence[str],
    protocol: Protocol,
    permutations: int = LABEL_PERMUTATIONS,
) -> dict[str, dict[str, str]]:
    """What a probe that learned the lesions of a virtual study tells of the groups: rows of a table.

    Features of virtual tiles are relative to the controls of their experiment, those of photographs are not: a
    constant moves all scores of a linear probe alike.

    Args:
        probes: of the study, on features of the encoder that made ``bags``.
        bags: features of the tiles of each photograph, float64 [T, dim].
        objectives: of each photograph.
        permutations: of labels; the labels of an animal's tiles stay together.

    Raises:
        TileEncoderError: the features are of other length than those of the study.
    """
    if bags[0].shape[1] != probes.tiles.shape[1]:
        raise TileEncoderError(
            f"features of photographs are of length {bags[0].shape[1]}, those of {probes.study.root} of "
            f"{probes.tiles.shape[1]}: give --encoder and --features of one encoder"
        )
    rng = np.random.default_rng(0)
    codes = protocol.resampling.codes(protocol.names)
    n = len(protocol.names)
    shown: dict[str, str] = {}
    all_pairs: dict[str, Statistic] = {}
    one_objective: dict[str, Statistic] = {}
    chance: dict[str, np.ndarray] = {}
    for group in protocol.told:
        positive, used = probes.labels(VIRTUAL_LESIONS.get(group, ()))
        if not probes.is_enough(positive):
            continue
        label = positive[used].astype(float)
        animals = [
            label[of_animal]
            for of_animal in pd.Series(probes.sample[used]).groupby(probes.sample[used]).indices.values()
        ]
        dealt = [
            np.concatenate([animals[k] for k in rng.permutation(len(animals))]) for _ in range(permutations)
        ]
        probe = tile_probe().fit(probes.tiles[used], np.stack([label, *dealt], axis=1))
        scores = np.array([probe.predict(bag).mean(axis=0) for bag in bags])
        is_group = (protocol.groups == group).astype(float)
        shown[group] = f"{int(label.sum()):,}"
        all_pairs[group] = auroc_statistic(is_group, scores[:, 0], codes, n)
        one_objective[group] = auroc_statistic(is_group, scores[:, 0], codes, n, np.asarray(objectives))
        chance[group] = np.array([roc_auc_score(is_group, column) for column in scores.T[1:]])
    if not shown:
        raise TileEncoderError(
            f"{probes.study.root}: too few tiles show a lesion of any group; take more compounds"
        )
    chance[MEAN] = np.mean(list(chance.values()), axis=0)
    for statistics in (all_pairs, one_objective):
        statistics[MEAN] = mean_of(list(statistics.values()))
    name = probes.study.name
    return {
        f"{name}: tiles that show it": shown,
        f"{name}: probe": _cells(all_pairs, protocol),
        f"{name}: probe, pairs at one objective": _cells(one_objective, protocol),
        f"{name}: labels dealt anew {permutations} times, 5 to 95 %": {
            group: "{:.2f} to {:.2f}".format(*np.quantile(drawn, (0.05, 0.95)))
            for group, drawn in chance.items()
        },
    }


def probes_of(root: Path, features: str, loaded: LoadedTileEncoder) -> Probes:
    """The tiles of a virtual study by features of the encoder.

    Raises:
        TileEncoderError: the features are of other weights, or of tiles of another size or resolution.
        StudyError, StoreError: no study, or no such features.
    """
    study = Study.open(root)
    made = study.features(features).spec.provenance
    wanted = {"weights": loaded.weights, "mpp": loaded.encoder.mpp, "tile_px": loaded.encoder.tile_px}
    unlike = [
        f"{key} {made.get(key)!r} in place of {value!r}"
        for key, value in wanted.items()
        if made.get(key) != value
    ]
    if unlike:
        raise TileEncoderError(
            f"features {features!r} of {root} are not of this encoder: {', '.join(unlike)}; extract them with it"
        )
    return Probes(study, features, "default")


def _table(by_name: Mapping[str, Mapping[str, object]], index: str, protocol: Protocol) -> pd.DataFrame:
    columns = [c for c in ("columns", *protocol.told, MEAN) if any(c in cells for cells in by_name.values())]
    counts = {group: f"{group} ({protocol.counts[group]})" for group in protocol.told}
    table = pd.DataFrame(by_name).T.reindex(columns=columns)
    return table.rename_axis(index).reset_index().rename(columns=counts)


def _cells(by_group: Mapping[str, Statistic], protocol: Protocol) -> dict[str, str]:
    return {group: _bounds(interval(each, protocol.resampling), "") for group, each in by_group.items()}


def _differences(
    first: Mapping[str, Statistic], second: Mapping[str, Statistic], protocol: Protocol
) -> dict[str, str]:
    drawn = {group: paired_difference(first[group], second[group], protocol.resampling) for group in first}
    return {group: _bounds(each, "+") for group, each in drawn.items()}


def _bounds(estimate: Interval, sign: str) -> str:
    return f"{estimate.value:{sign}.2f} [{estimate.low:{sign}.2f}, {estimate.high:{sign}.2f}]"


def _range(seeds: Sequence[Statistic], protocol: Protocol) -> str:
    values = [interval(each, protocol.resampling).value for each in seeds]
    return f"{min(values):.2f} to {max(values):.2f}"


def described(protocol: Protocol, left_out: Mapping[str, str], encoder: TileEncoder) -> str:
    """What the table rests on, as Markdown."""
    small = [f"{group} {n}" for group, n in protocol.counts.items() if group != REST and n < FEWEST]
    in_rest = f", those of groups with fewer than {FEWEST} photographs among them ({', '.join(small)})"
    scales = ", ".join(f"{mpp:g} at {objective}" for objective, mpp in UM_PER_PIXEL.items())
    by_bar = ", ".join(
        f"{name} ({objective})" for name, objective in BAR_SAYS.items() if name in protocol.names
    )
    lines = [
        f"{len(protocol.names)} photographs. {(protocol.groups == REST).sum()} are in no group and count against every "
        f"one{in_rest if small else ''}.",
        f"Left out: {'; '.join(f'{file}: {why}' for file, why in left_out.items()) or 'none'}.",
        f"Um per pixel by objective, measured on the printed bars: {scales}; all are brought to {encoder.mpp:g}, tiles "
        f"of {encoder.tile_px} px.{f' Objective by the bar, against the caption: {by_bar}.' if by_bar else ''}",
        f"AUROC of one group against all other photographs, {len(protocol.folds)} times {FOLDS} folds stratified by "
        "group, over pairs that one model scored; 95 % intervals by a bootstrap over photographs within groups (models "
        "are not fitted again).",
    ]
    return "\n".join(f"- {line}" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", type=Path, required=True, help="folder of pictures and captions.csv")
    parser.add_argument(
        "--encoder", default=IMAGENET, help=f"{IMAGENET}, or a file that tile_features=contrastive wrote"
    )
    parser.add_argument(
        "--studies",
        type=Path,
        nargs="*",
        default=[],
        help="virtual studies to learn lesions of; their table alone",
    )
    parser.add_argument("--features", default="imagenet-default", help="their feature store, of the encoder")
    parser.add_argument("--repeats", type=int, default=10, help="of the cross-validation")
    parser.add_argument("--random-seeds", type=int, default=5, help="random weights, so many times")
    parser.add_argument("--permutations", type=int, default=0, help="a row of what chance gives")
    parser.add_argument("--write", action="store_true", help="put the table into docs/photographs.md")
    arguments = parser.parse_args()
    try:
        run(arguments)
    except (PhotographError, TileEncoderError, WeightsNotInstalledError, StudyError, StoreError) as error:
        raise SystemExit(f"error: {error}") from error


def run(arguments: argparse.Namespace) -> None:
    """Print the table of the command line, and write it where it says so.

    Raises:
        PhotographError, TileEncoderError, WeightsNotInstalledError, StudyError, StoreError: see `main`.
    """
    photographs, left_out = read_photographs(arguments.photographs)
    loaded = encoder_of(arguments.encoder)
    encoder, about = loaded.encoder, loaded.provenance
    all_tiles = {name: tiles_of(each, encoder.mpp, encoder.tile_px) for name, each in photographs.items()}
    empty = {name: "no tile has enough tissue" for name, tiles in all_tiles.items() if not len(tiles)}
    protocol = protocol_of({n: each for n, each in photographs.items() if n not in empty}, arguments.repeats)
    tiles = [all_tiles[name] for name in protocol.names]
    bags = [encoded(encoder, each) for each in tiles]
    objectives = [photographs[name].objective for name in protocol.names]
    named = IMAGENET if arguments.encoder == IMAGENET else "<encoder>"
    command = f"python -m benchmarks.photographs --photographs <drugmatrix> --encoder {named}"
    if arguments.studies:
        by_name: dict[str, dict[str, str]] = {}
        for root in arguments.studies:
            by_name |= from_virtual_slides(
                probes_of(root, arguments.features, loaded), bags, objectives, protocol
            )
        block, table = "virtual lesions", _table(by_name, "learned from", protocol)
        roots = " ".join(f"<{root.name}>" for root in arguments.studies)
        text = (
            f"`{command} --studies {roots} --features {arguments.features} --write`\n\n{markdown_of(table)}"
        )
    else:
        block, table = (
            "photographs",
            within_photographs(
                bags,
                tiles,
                objectives,
                encoder,
                protocol,
                random_seeds=range(arguments.random_seeds),
                permutations=arguments.permutations,
            ),
        )
        options = f"--repeats {arguments.repeats} --random-seeds {arguments.random_seeds}"
        if arguments.permutations:
            options += f" --permutations {arguments.permutations}"
        who = (
            f"the tile encoder of fold {about['fold']} of {about['study']} ({about['settings']['backbone']}, "
            f"{about['settings']['steps']} steps)"
            if about
            else "the frozen encoder that comes with the install (ImageNet weights; it saw no tissue)"
        )
        text = (
            f"`{command} {options} --write`, {who}.\n\n{markdown_of(table)}\n\n"
            f"{described(protocol, {**left_out, **empty}, encoder)}"
        )
    print(text)
    if arguments.write:
        write_between_marks("photographs.md", block, text)


if __name__ == "__main__":
    main()
