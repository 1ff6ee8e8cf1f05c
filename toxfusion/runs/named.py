"""Finished runs by the name that a user has for them: a folder, a pattern, a bundle, or a repository of the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from toxfusion.runs.bundle import Bundle, BundleError, is_bundle
from toxfusion.study.audit import Audit
from toxfusion.training.folder import RunError, RunFolder

HUB = "hf://"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def named_runs(name: str, audit: Audit, trust: Sequence[str] = ()) -> list[RunFolder]:
    """The finished runs of a name.

    Args:
        name: a run folder, a pattern of run folders, a bundle, ``hf://owner/name`` with ``@revision`` where wanted, or
            ``owner/name`` where nothing of that name lies here.
        audit: takes runs that are left out because they are not finished.
        trust: packages whose classes a bundle may name; see `Bundle.open`.

    Raises:
        RunError: there is no finished run.
        BundleError: a bundle that is damaged or not trusted, or that cannot be fetched.
    """
    if name.startswith(HUB):
        return list(Bundle.open(fetched(name.removeprefix(HUB)), trust).runs)
    places = [Path(name)] if Path(name).exists() else sorted(map(Path, glob(name)))
    bundles = [place for place in places if is_bundle(place)]
    if bundles:
        if len(places) > 1:
            raise BundleError(f"run={name}: {bundles[0]} is a bundle and has all its runs; name it alone")
        return list(Bundle.open(bundles[0], trust).runs)
    if not places and _REPOSITORY.fullmatch(name):
        return list(Bundle.open(fetched(name), trust).runs)
    runs = []
    for folder in (RunFolder(place) for place in places if (place / "config.yaml").is_file()):
        if folder.finished() is None:
            audit.drop("predict", "run", str(folder.root), "not finished: no done.json")
            print(f"left out, not finished: {folder.root}")
        else:
            runs.append(folder)
    if not runs:
        raise RunError(
            f"run={name}: no finished run; give a run folder, a pattern in quotes, a bundle, or hf://owner/name"
        )
    return runs


def fetched(repository: str) -> Path:
    """The folder of a repository of the Hugging Face hub, fetched into its cache where it is not there.

    Args:
        repository: ``owner/name`` or ``owner/name@revision``.

    Raises:
        BundleError: no such name, or the hub does not give it.
    """
    name, _, revision = repository.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        raise BundleError(
            f"run={repository}: nothing of that name lies here, and the hub does not give it ({said}); check the name, "
            "the network and your access, or fetch the bundle yourself and name its folder"
        ) from error
