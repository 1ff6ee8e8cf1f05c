"""``python -m toxfusion.prepare``: real tables and images into a study folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toxfusion.config.command import entry_point

if TYPE_CHECKING:
    from toxfusion.study.audit import Audit
    from toxfusion.study.study import Study


@entry_point("prepare")
def main(config: dict[str, Any]) -> None:
    """Write a study from real tables and images, with an audit of every record dropped or altered.

    Examples:
      toxfusion prepare source=counts output=studies/mine source.expression=counts.csv source.samples=samples.csv
      toxfusion prepare source=spatial output=studies/sections source.sections=[sections/A1,sections/B1]
      toxfusion prepare source=features output=studies/mine source.files=features/h5_files
    """
    from toxfusion.config.nodes import part
    from toxfusion.study.audit import Audit
    from toxfusion.study.rules import AUDIT_FILE

    study = part(config["source"])(Path(config["output"]))
    print(describe(study))
    audit = Audit.read(study.root / AUDIT_FILE)
    for line in near_names(audit):
        print(line)
    lines = audit.summary().splitlines()
    print(f"audit: {len(audit)} records in {study.root / AUDIT_FILE}")
    print("\n".join(lines[: config["reasons"]]))
    if len(lines) > config["reasons"]:
        print(f"    ... and {len(lines) - config['reasons']} more reasons")


def near_names(audit: Audit, most: int = 20) -> list[str]:
    """A line for each name that was left out and comes near to a known one: most likely one of the two is misspelt."""
    from toxfusion.study.names import NEAR

    near = [r for r in audit.records if NEAR in r.reason]
    lines = [f"look at this: {r.kind} {r.id!r} {r.outcome}: {r.reason}" for r in near[:most]]
    return lines + ([f"    ... and {len(near) - most} more in audit.json"] if len(near) > most else [])


def describe(study: Study) -> str:
    """What a study holds, in a few lines."""
    from toxfusion.study.bag_store import BagStore

    obs = study.obs
    treated = obs[~obs["is_control"]]
    dili = treated.groupby("compound")["dili"].first()
    affected = int((study.findings > 0).any(axis=1).sum())
    both = int((study.has_expression & study.has_slide).sum())
    absent = [slide for slide in map(str, study.slides.index) if not os.path.exists(study.slide_path(slide))]
    without = f" ({len(absent)} without an image at its path: {absent[0]} ...)" if absent else ""
    lines = [
        f"study {study.name!r} in {study.root}",
        f"samples: {len(obs)} ({int(obs['is_control'].sum())} vehicle controls), {int(study.has_expression.sum())} "
        f"with expression, {int(study.has_slide.sum())} with slides, {both} with both",
        f"genes: {len(study.var)}; slides: {len(study.slides)}{without}; compounds: {obs['compound'].nunique()}; "
        f"studies: {obs['study'].nunique()}; groups: {obs['group_id'].nunique()}",
        f"DILI: {int((dili == 1).sum())} compounds positive, {int((dili == 0).sum())} negative, "
        f"{int(dili.isna().sum())} unlabelled; injury: {_groups(study, 1.0)} groups injured, "
        f"{_groups(study, 0.0)} not",
        f"findings: {study.findings.shape[1]} terms, {affected} samples with one",
    ]
    if "event" in obs.columns:
        labelled = obs["event"].notna()
        lines.append(
            f"survival: {int(labelled.sum())} samples with a time in months, {int((obs['event'] == 1).sum())} events, "
            f"{int((~labelled).sum())} unlabelled"
        )
    for path in sorted(study.root.glob("features/*/store.json")):
        store = BagStore.open(path.parent)
        stored = [slide_id for slide_id in map(str, study.slides.index) if slide_id in store]
        tiles = sum(map(store.n_rows, stored))
        lines.append(
            f"features {path.parent.name!r}: {len(stored)} of {len(study.slides)} slides, {tiles} tiles"
        )
    lines += _gene_lines(study.provenance.get("gene_ids") or {})
    if mpp := study.provenance.get("mpp"):
        lines.append("um per pixel from the spots: " + ", ".join(f"{k} {v}" for k, v in mpp.items()))
    return "\n".join(lines)


def _gene_lines(named: dict[str, Any]) -> list[str]:
    """What became of the gene ids of a table, or of each section's."""
    if "given" not in named:
        return [f"{section}: {line}" for section, of in named.items() for line in _gene_lines(of)]
    kinds = ", ".join(f"{n} {kind}" for kind, n in named["kinds"].items())
    lost = {
        "that are none by their names": named["summary"],
        "without a name": named.get("unnamed", 0),
        "without a gene in the map": named["unmapped"],
        "with several": named["ambiguous"],
        "without an ortholog": named["orthologs"],
        f"collapsed ({named['collapse']})": named["collapsed"],
    }
    told = "".join(f", {n} {what}" for what, n in lost.items() if n)
    return [f"gene ids: {named['given']} ({kinds}) gave {named['genes']} genes{told}"]


def _groups(study: Study, label: float) -> int:
    obs = study.obs
    return int(obs.loc[obs["injury"] == label, "group_id"].nunique())


if __name__ == "__main__":
    main()
