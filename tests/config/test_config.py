"""Composing and refusing: on a small tree of its own, and on every group and experiment of conf/."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import tomllib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml

from toxfusion.config import folders
from toxfusion.config.command import entry_point
from toxfusion.config.entry import Job, compose
from toxfusion.config.folders import config_dir
from toxfusion.config.help import help_text
from toxfusion.config.names import variant_name
from toxfusion.config.nodes import ConfigError, build, check_targets, located, part

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
MAIN_FILES = sorted(file.stem for file in CONF.glob("*.yaml"))
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))
#: What has no default and must be given on the command line.
REQUIRED = "given/by-user"

TREE = {
    "train.yaml": """
        defaults:
          - _self_
          - bag: abmil
          - paths: default
          - experiment: full
          - debug: null
          - hydra: default
        # seed of every draw
        seed: 0
        name: ${basename:${hydra:runtime.choices.experiment}}
        width: 64
        trainer: {devices: 1, clip: 1.0}
        paths: {run: "${name}${paths.variant}/seed${seed}", output: "${paths.outputs}/${paths.run}"}
        """,
    "paths/default.yaml": (CONF / "paths" / "default.yaml").read_text(),
    "hydra/default.yaml": (CONF / "hydra" / "default.yaml").read_text(),
    "bag/abmil.yaml": "_target_: fractions.Fraction\nnumerator: ${width}\n",
    "bag/mean.yaml": "_target_: fractions.Fraction\nnumerators: ${width}\n",
    "experiment/full.yaml": "# @package _global_\n# The full method\n",
    "experiment/narrow.yaml": "# @package _global_\n# Few channels\nwidth: 8\n",
    "experiment/wrong.yaml": "# @package _global_\n# Misspelt\ntrainer: {device: 2}\n",
    "debug/quick.yaml": "# @package _global_\n# One step\nwidth: 2\n",
    "unused/a.yaml": "x: 1\n",
}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small configuration tree in place of the package's; the working folder is beside it."""
    folder = tmp_path / "conf"
    for name, text in TREE.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()) + "\n")
    monkeypatch.setattr(folders, "config_dir", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: str) -> list[dict[str, Any]]:
    """The configurations that a command line hands to its main function."""
    seen: list[dict[str, Any]] = []

    @entry_point("train")
    def main(config: dict[str, Any]) -> float:
        """Train."""
        seen.append(config)
        return float(config["seed"])

    main(arguments)
    return seen


def test_main_gets_a_resolved_plain_dictionary(tree: Path) -> None:
    (config,) = run("seed=3", "trainer.devices=2")
    assert type(config) is dict
    assert type(config["trainer"]) is dict
    assert config["bag"] == {"_target_": "fractions.Fraction", "numerator": 64}
    assert config["trainer"] == {"devices": 2, "clip": 1.0}
    assert config["paths"]["output"] == "outputs/full_trainer.devices-2/seed3"
    assert "hydra" not in config


def test_compose_gives_what_the_command_line_gives(tree: Path) -> None:
    assert compose("train", ["width=5", "experiment=narrow"]) == run("width=5", "experiment=narrow")[0]


def test_an_experiment_wins_over_groups_and_the_command_line_over_the_experiment(tree: Path) -> None:
    assert compose("train", ["experiment=narrow"])["bag"]["numerator"] == 8
    assert compose("train", ["experiment=narrow", "width=9"])["bag"]["numerator"] == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sed=1"], ["unknown key 'sed'", "seed"]),
        (["+sed=1"], ["unknown key 'sed'", "seed"]),
        (["++trainer.device=2"], ["unknown key 'trainer.device'", "trainer.devices"]),
        (["device=2"], ["unknown key 'device'", "trainer.devices"]),
        (["trainer={devices: 2, x: 1}"], ["x"]),
        (["bag=mena"], ["unknown option of bag 'mena'", "mean", "abmil"]),
        (["experiment=ful"], ["unknown experiment 'ful'", "full", "narrow"]),
        (["experiment=null"], ["experiment=null: choose one of full, narrow, wrong"]),
        (["debug=slow"], ["debug", "quick"]),
        (["unused=a"], ["train has no group 'unused'", "bag"]),
        (["experiment=wrong"], ["experiment/wrong.yaml", "unknown key 'trainer.device'", "devices"]),
        (["bag=mean"], ["unknown key 'bag.numerators'", "fractions.Fraction", "numerator"]),
        (["bag._target_=fractions.Fractions"], ["bag._target_", "fractions.Fractions"]),
        (["seed=[1"], ["cannot read 'seed=[1'"]),
        (["seed=1,2"], ["seed=1,2", "--multirun"]),
        (["seed=???"], ["seed has no value", "seed=..."]),
        (["name=${nowhere}"], ["nowhere"]),
        (["-m", "seed=1,2", "experiment=full,ful"], ["unknown experiment 'ful'"]),
        (["-m", "sed=1,2"], ["unknown key 'sed'"]),
        (["--config-dir", "nowhere"], ["nowhere", "no such folder"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_exist_is_refused_in_one_line_that_names_it(
    tree: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: list[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1
    for word in ("error: ", *says):
        assert word in printed[0]


def test_a_plus_adds_groups_and_known_keys_only(tree: Path) -> None:
    assert compose("train", ["+seed=4"])["seed"] == 4
    assert compose("train", ["+unused=a"])["unused"] == {"x": 1}


def test_a_mistake_of_the_program_keeps_its_traceback(tree: Path) -> None:
    @entry_point("train")
    def main(config: dict[str, Any]) -> None:
        raise KeyError("a fault of ours")

    with pytest.raises(KeyError, match="a fault of ours"):
        main([])


def test_run_folders_hold_hydra_files_and_the_working_folder_stays(tree: Path, tmp_path: Path) -> None:
    run("seed=3", "width=5")
    folder = tmp_path / "outputs" / "full_width-5" / "seed3"
    assert (folder / ".hydra" / "config.yaml").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"conf", "outputs"}


def test_cells_of_a_sweep_have_the_folders_of_the_same_runs_alone(tree: Path, tmp_path: Path) -> None:
    cells = run("-m", "seed=1,2", "experiment=full,narrow", "trainer.clip=0.5,1e-3")
    assert len({config["paths"]["output"] for config in cells}) == 8
    (alone,) = run("seed=2", "experiment=narrow", "trainer.clip=1e-3")
    assert alone in cells
    for config in cells:
        assert Path(config["paths"]["output"], ".hydra").is_dir()
        assert not set("=, ") & set(config["paths"]["output"])


def test_a_folder_of_the_user_adds_options_and_wins(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "experiment").mkdir(parents=True)
    (own / "experiment" / "mine.yaml").write_text("# @package _global_\n# My own\nwidth: 3\n")
    (config,) = run("--config-dir", str(own), "experiment=mine")
    assert (config["name"], config["width"]) == ("mine", 3)
    assert run("--config-dir", str(own), "experiment=mine", "name=other")[0]["name"] == "other"
    assert "My own" in help_text("train", "", [own, tree])


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], ""),
        (["seed=3", "paths.outputs=/x", "hydra.verbose=true", "data=spatial"], ""),
        (["b=2", "a=1"], "_a-1_b-2"),
        (["a=1", "b=2"], "_a-1_b-2"),
        (["~a.b"], "_no-a.b"),
        (["lr=1e-3"], "_lr-0.001"),
        (["+lr=0.0010"], "_lr-0.001"),
        (["seeds=3"], "_seeds-3"),
        (["data.clip=3"], "_data.clip-3"),
    ],
)
def test_the_variant_names_what_was_changed_and_nothing_else(overrides: list[str], name: str) -> None:
    assert variant_name(overrides, ["seed", "paths", "hydra", "data@"]) == name


def test_variants_that_differ_never_share_a_name() -> None:
    values = ["[1,2]", "[1,[2]]", "{a:1}", "{a:[1]}", "x" * 200, "x" * 201, "a b", "a/b", "1e-3", "1e3"]
    names = {variant_name([f"key={value}"]) for value in values}
    assert len(names) == len(values)
    for name in names:
        assert len(name) <= 100
        assert not set("=,/ []{}") & set(name)


def test_build_makes_nested_objects_partials_and_takes_ready_made_ones() -> None:
    node = {
        "_target_": "collections.OrderedDict",
        "inner": {"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2},
        "plain": {"b": [1, 2]},
    }
    ready = object()
    built = build(node, ready=ready, plain=0)
    assert type(built) is OrderedDict
    assert built["inner"] * 2 == 1
    assert built["ready"] is ready
    assert built["plain"] == 0
    assert type(build(node)["plain"]) is dict
    part_of_it = part({"_target_": "fractions.Fraction", "numerator": 3})
    assert isinstance(part_of_it, functools.partial)
    assert part_of_it(denominator=4) * 4 == 3


def test_build_refuses_a_node_without_target() -> None:
    with pytest.raises(ConfigError, match="no _target_"):
        build({"width": 3})


def test_targets_are_checked_wherever_they_are() -> None:
    good = {"_target_": "fractions.Fraction", "_partial_": True, "numerator": 1}
    check_targets({"a": [{"b": good}], "open": {"_target_": "collections.OrderedDict", "anything": 1}})
    with pytest.raises(ConfigError, match=r"unknown key 'a\[0\]\.b\.numerato'.*did you mean numerator"):
        check_targets({"a": [{"b": {"_target_": "fractions.Fraction", "numerato": 1}}]})


def test_a_target_whose_package_is_missing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="needs the package not_installed_anywhere"):
        located("needs_more.anything", "logger")


def test_a_job_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(Job(yaml.safe_load))).function is yaml.safe_load


def test_help_lists_groups_experiments_and_keys(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    printed = capsys.readouterr().out
    for expected in ("Train.", "abmil | mean  [abmil]", "Few channels", "# seed of every draw", "seed: 0"):
        assert expected in printed
    assert "defaults:" not in printed


def test_the_configuration_is_found_from_any_folder(tmp_path: Path) -> None:
    program = "from toxfusion.config.folders import config_dir; print(config_dir())"
    printed = subprocess.check_output([sys.executable, "-c", program], cwd=tmp_path, text=True)
    assert Path(printed.strip(), "paths", "default.yaml").is_file()
    assert config_dir() == CONF


def test_a_wheel_ships_the_configuration_and_finds_it_from_any_folder(tmp_path: Path) -> None:
    """Lays the package out as pyproject.toml tells the build to, and composes there."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]
    site, elsewhere = tmp_path / "site", tmp_path / "any folder"
    elsewhere.mkdir()
    for package in settings["packages"]:
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    for source, place in settings["force-include"].items():
        shutil.copytree(ROOT / source, site / place)
    printed = subprocess.check_output(
        [sys.executable, "-m", "toxfusion.train", "--info", "searchpath"],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        text=True,
    )
    assert str(site / "toxfusion" / "conf") in printed
    assert str(CONF) not in printed


# --- what the package ships ---------------------------------------------------------------------------------


def _defaults(main_file: str) -> dict[str, str | None]:
    """Group -> default option of a main file."""
    entries = yaml.safe_load((CONF / f"{main_file}.yaml").read_text()).get("defaults", [])
    pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
    return {str(key).split()[-1].lstrip("/"): option for key, option in pairs}


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def _choices() -> list[tuple[str, tuple[str, ...]]]:
    """Every main file with every option of every group it uses: the n-th of each group at once, experiments alone."""
    choices: list[tuple[str, tuple[str, ...]]] = []
    for main_file in MAIN_FILES:
        groups = {group: _options(group) for group in _defaults(main_file) if group not in ("hydra", "local")}
        experiments = groups.pop("experiment", [])
        chosen = itertools.zip_longest(
            *([f"{group}={option}" for option in options] for group, options in groups.items())
        )
        choices += [(main_file, tuple(filter(None, together))) for together in chosen]
        choices += [(main_file, (f"experiment={experiment}",)) for experiment in experiments]
    return choices


def must_choose(main_file: str, *overrides: str) -> list[str]:
    """An option of each group that has no default, unless it is chosen already."""
    chosen = {override.partition("=")[0] for override in overrides}
    groups = [group for group, option in _defaults(main_file).items() if option == "???"]
    return [f"{group}={_options(group)[0]}" for group in groups if group not in chosen]


def composed(main_file: str, *overrides: str) -> dict[str, Any]:
    """Compose a shipped configuration; what only the user can give is given."""
    line = [*must_choose(main_file, *overrides), *overrides]
    if not must_choose(main_file):
        line += _given_by_user(main_file)
    return _completed(main_file, line)[0]


@functools.cache
def _given_by_user(main_file: str) -> tuple[str, ...]:
    return tuple(_completed(main_file, [])[1])


def _completed(main_file: str, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What overrides compose to, and the overrides with ``key=value`` for each value that they leave missing."""
    try:
        return compose(main_file, overrides), overrides
    except ConfigError as error:
        key, _, rest = str(error).partition(" has no value")
        if not rest or f"{key}={REQUIRED}" in overrides:
            raise
        return _completed(main_file, [*overrides, f"{key}={REQUIRED}"])


@pytest.mark.parametrize(
    ("main_file", "choices"), _choices(), ids=lambda value: value if isinstance(value, str) else value[0]
)
def test_every_option_of_every_group_composes_and_fits_what_it_builds(
    main_file: str, choices: tuple[str, ...]
) -> None:
    config = composed(main_file, *choices)
    check_targets(config)
    if choices[0].startswith("experiment="):
        assert choices == (f"experiment={config['name']}",)


@pytest.mark.parametrize("main_file", MAIN_FILES)
def test_every_command_refuses_unknown_keys(main_file: str) -> None:
    for override in ("no_such_key=1", "+no_such_key=1", "++paths.no_such_key=1"):
        with pytest.raises(ConfigError, match=r"unknown key '.*no_such_key'"):
            compose(main_file, [*must_choose(main_file), override])


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_is_overrides_and_scalars_under_its_own_name(experiment: str) -> None:
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    lines = text.splitlines()
    assert lines[0] == "# @package _global_", "Hydra reads the package from the first line only"
    assert lines[1].startswith("# "), "--help shows the second line"
    content = yaml.safe_load(text) or {}
    assert "name" not in content, "the file's name is the name of its runs"
    for entry in content.pop("defaults", []):
        if isinstance(entry, str):  # an ablation of a peer begins at that peer
            assert entry == "_self_" or entry in EXPERIMENTS
        else:
            assert all(str(key).startswith("override /") for key in entry)
    values = list(content.values())
    while values:
        value = values.pop()
        assert not isinstance(value, dict) or "_target_" not in value
        values.extend(value.values() if isinstance(value, dict) else [])


def test_cells_of_the_experiments_have_folders_of_their_own() -> None:
    if not EXPERIMENTS:
        pytest.skip("no experiment yet")
    cells = itertools.product(EXPERIMENTS[:3], (0, 1))
    folders = [
        composed("train", f"experiment={name}", f"seed={seed}")["paths"]["output"] for name, seed in cells
    ]
    assert len(set(folders)) == len(folders)
    assert not any(set("=, ") & set(folder) for folder in folders)


def test_a_choice_on_the_command_line_is_the_experiment_that_makes_it() -> None:
    """experiment=X equals its overrides given by hand, but for names and folders: ablations, and one of a peer."""
    for experiment in (*(name for name in EXPERIMENTS if name.startswith("ablation_")), "tangle_rec"):
        content = yaml.safe_load((CONF / "experiment" / f"{experiment}.yaml").read_text()) or {}
        entries = content.pop("defaults", [])
        parents = [entry for entry in entries if isinstance(entry, str) and entry != "_self_"]
        pairs = [pair for entry in entries if isinstance(entry, dict) for pair in entry.items()]
        if not pairs or any(isinstance(value, dict) for value in content.values()):
            continue
        by_hand = [f"experiment={parent}" for parent in parents]
        by_hand += [f"{str(key).removeprefix('override /')}={option}" for key, option in pairs]
        by_hand += [f"{key}={yaml.safe_dump(value).split()[0]}" for key, value in content.items()]
        one, other = composed("train", f"experiment={experiment}"), composed("train", *by_hand)
        for config in (one, other):
            del config["paths"], config["name"]
        assert one == other


def test_the_lock_names_versions_and_no_places() -> None:
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        assert "==" in line
        assert "://" not in line
        assert "--" not in line
        assert " @ " not in line
