"""Human DILI concern from dose, serum chemistry and findings of Open TG-GATEs rats: writes docs/tggates.md.

    python benchmarks/tggates.py tggates --output tggates-runs

``tggates`` is a folder with Open-tggates_AllAttribute.zip, open_tggates_pathology.csv and DILIrank.csv. No array and no
slide is read. Everything is one of the command lines, and each finished run is skipped when the command is repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.command import command
from benchmarks.markdown import markdown_table
from toxfusion.study.audit import Audit
from toxfusion.study.rules import AUDIT_FILE
from toxfusion.study.study import Study

REFERENCE = "metadata_logistic"
EXPERIMENTS = {
    REFERENCE: "dose level, dose and time",
    "alt_ast_logistic": "ALT and AST",
    "chemistry_logistic": "serum chemistry and liver weight",
    "findings_logistic": "pathologists' findings",
    "tabular_logistic": "all of these",
    "null_permuted_tabular": "all of these, labels permuted over compounds",
}


def run(data: Path, output: Path, folds: int, permutations: int) -> Study:
    """Prepare the study, run every row on every fold, compare, audit the batches; returns the study."""
    study, runs = output / "tggates", output / "runs"
    command(
        "toxfusion.prepare",
        "source=tggates",
        f"output={study}",
        f"source.attributes={data / 'Open-tggates_AllAttribute.zip'}",
        f"source.pathology={data / 'open_tggates_pathology.csv'}",
        f"source.dilirank={data / 'DILIrank.csv'}",
        "source.dili=most",
        "source.samples=all",
        f"paths.outputs={output}",
    )
    of_folds = (
        f"data.root={study}",
        f"paths.outputs={runs}",
        "task=dili",
        f"split.n_folds={folds}",
        f"split.fold={','.join(map(str, range(folds)))}",
    )
    command("toxfusion.train", "-m", f"experiment={','.join(EXPERIMENTS)}", *of_folds)
    command("toxfusion.compare", f"runs={runs}", f"reference={REFERENCE}", f"output={output / 'comparison'}")
    command(
        "toxfusion.doctor",
        f"study={study}",
        "batch_audit=true",
        f"batch_permutations={permutations}",
        f"paths.outputs={output}",
    )
    return Study.open(study)


def counts(study: Study) -> pd.DataFrame:
    """What there is, by kind of evidence, over the compounds that have a label: compounds, animals, columns."""
    labelled = study.obs["dili"].notna() & ~study.obs["is_control"]
    chemistry = pd.DataFrame() if study.chemistry is None else study.chemistry
    kinds = {
        REFERENCE: study.obs[["dose_level", "dose", "time_h"]],
        "alt_ast_logistic": chemistry[["ALT", "AST"]],
        "chemistry_logistic": chemistry,
        "findings_logistic": study.findings,
    }
    evidence = []
    for experiment, table in kinds.items():
        whole = table[labelled].notna().all(axis=1)
        evidence.append(
            {
                "row": experiment,
                "columns": table.shape[1],
                "compounds with any": study.obs.loc[labelled, "compound"][
                    table[labelled].notna().any(axis=1)
                ].nunique(),
                "treated rats, complete": int(whole.sum()),
                "treated rats, something missing": int((~whole).sum()),
            }
        )
    return pd.DataFrame(evidence)


def markdown(table: pd.DataFrame) -> str:
    """A table in GitHub's Markdown; numbers with two decimals, p-values of permutation with three."""
    shown = table.map(
        lambda v: (
            "" if isinstance(v, float) and np.isnan(v) else f"{v:.3f}" if isinstance(v, float) else str(v)
        )
    )
    return markdown_table(list(shown.columns), shown.to_numpy().tolist())


def write_document(study: Study, output: Path, document: Path, folds: int, permutations: int) -> None:
    """Put the comparison, the counts and the batch audit into one page."""
    obs = study.obs
    treated = obs[~obs["is_control"]]
    by_compound = treated.groupby("compound")[["dilirank", "dili"]].first()
    classes = by_compound["dilirank"].replace("", "not in DILIrank").value_counts()
    audit = Audit.read(study.root / AUDIT_FILE).summary()
    batches = pd.read_csv(output / "doctor" / "batch_audit.csv")
    experiments = markdown_table(
        ["row", "what it reads"], [[f"`{name}`", what] for name, what in EXPERIMENTS.items()]
    )
    document.write_text(
        "# Human DILI concern in Open TG-GATEs, without arrays and slides\n\n"
        f"Written by `python benchmarks/tggates.py <folder of the tables> --folds {folds} "
        f"--permutations {permutations}`.\n\n"
        "The question: does a compound have DILIrank's *most* concern, or *less* or *no* concern? Ambiguous ones are "
        "left out. The answer is looked for in what is known of the rats without a model of tissue. These rows belong "
        "beside the DILI AUROC of any model on these compounds.\n\n"
        "## Who there is\n\n"
        f"{len(obs)} arrayed rat livers in vivo ({int(obs['is_control'].sum())} vehicle controls) of "
        f"{obs['compound'].nunique()} compounds. {int((by_compound['dilirank'] != '').sum())} of them are in DILIrank "
        f"by normalised name: {', '.join(f'{n} {name}' for name, n in classes.items())}. "
        f"{int(by_compound['dili'].notna().sum())} have a label, {int((by_compound['dili'] == 1).sum())} of them 1. "
        "The others are in the folds but in no AUROC below. Animals of a compound with its vehicle controls are in one "
        f"part of each of the {folds} folds.\n\n"
        f"{markdown(counts(study))}\n\n"
        "The table counts rats of labelled compounds. What is missing gets the training mean. Findings are missing "
        "where no rat of the experiment has one: its slides were most likely not read. A finding is a feature where "
        "two treated training compounds show it. Penalties are chosen on the validation part.\n\n"
        f"{experiments}\n\n"
        "## What it says of unseen compounds\n\n"
        f"{(output / 'comparison' / 'comparison.md').read_text().strip()}\n\n"
        "Chance is 0.50. An interval that holds it says that nothing was found, not that nothing is there. 91 "
        "compounds resolve an AUROC to about 0.12 either way.\n\n"
        "## Can batches be read off vehicle controls?\n\n"
        "By linear discriminant in stratified folds (`toxfusion.doctor batch_audit=true`, "
        "[batches](explanation/nulls.md#batches)). `study` is the experiment.\n\n"
        f"{markdown(batches)}\n\n"
        "## What was dropped or altered\n\n" + "\n".join(f"    {line}" for line in audit.splitlines()) + "\n"
    )
    print(f"written: {document}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of the released tables")
    parser.add_argument("--output", type=Path, default=Path("tggates-runs"))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--document", type=Path, default=Path("docs/tggates.md"))
    arguments = parser.parse_args()
    study = run(arguments.data, arguments.output, arguments.folds, arguments.permutations)
    write_document(study, arguments.output, arguments.document, arguments.folds, arguments.permutations)


if __name__ == "__main__":
    main()
