"""The ledger of a study: every record dropped or altered, with the stage, its kind and the reason."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from toxfusion.study.files import replace_file

Outcome = Literal["dropped", "changed"]
NAMED = 3
"""Of so many records alike the summary gives the names too."""


class AuditError(ValueError):
    """A file that is no audit."""


@dataclass(frozen=True)
class AuditRecord:
    """One record that did not pass as it was.

    Attributes:
        stage: what was at work (``prepare``, ``extract``, ``split`` ...).
        kind: what the record is (``sample``, ``gene``, ``slide``, ``compound`` ...).
        id: its name within its kind.
        reason: why, in words a user can act on.
        outcome: ``dropped``, or ``changed`` when it was kept in another form.
    """

    stage: str
    kind: str
    id: str
    reason: str
    outcome: Outcome = "dropped"


class Audit:
    """Records in the order in which they happened; a record that is already there is not repeated."""

    def __init__(self, records: Iterable[AuditRecord] = ()) -> None:
        self._records: dict[AuditRecord, None] = dict.fromkeys(records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def records(self) -> list[AuditRecord]:
        return list(self._records)

    @property
    def dropped(self) -> Audit:
        """What was left out; not what was kept in another form."""
        return Audit(record for record in self._records if record.outcome == "dropped")

    def drop(self, stage: str, kind: str, id: str, reason: str) -> None:
        """Record that ``id`` was left out."""
        self._records.setdefault(AuditRecord(stage, kind, str(id), reason))

    def change(self, stage: str, kind: str, id: str, reason: str) -> None:
        """Record that ``id`` was kept, but altered (a recovered gene symbol, a relabelled grade)."""
        self._records.setdefault(AuditRecord(stage, kind, str(id), reason, "changed"))

    def summary(self) -> str:
        """One line for each stage, kind, outcome and reason, the most frequent first; up to three are named."""
        ids: dict[tuple[str, str, str, str], list[str]] = {}
        for r in self._records:
            ids.setdefault((r.stage, r.kind, r.outcome, r.reason), []).append(r.id)
        lines = []
        for (stage, kind, outcome, reason), names in sorted(ids.items(), key=lambda i: (-len(i[1]), i[0])):
            named = f" ({', '.join(names)})" if len(names) <= NAMED else ""
            lines.append(f"{len(names):>7} {kind} {outcome} in {stage}: {reason}{named}")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write as JSON, after the records that ``path`` already holds; replaced whole or not at all.

        Two processes that write the same path at one moment may lose each other's records: give each its own
        file and merge them with ``Audit.read`` afterwards.
        """
        path = Path(path)
        earlier = Audit.read(path).records if path.exists() else []
        self.write_new(path, Audit([*earlier, *self._records]))

    @staticmethod
    def write_new(path: Path, audit: Audit) -> None:
        """Write ``audit`` as the whole content of ``path``, replacing what was there."""
        text = json.dumps([asdict(record) for record in audit._records], indent=1, ensure_ascii=False)
        replace_file(Path(path), text.encode())

    @staticmethod
    def read(path: Path) -> Audit:
        """Read what ``write`` wrote.

        Raises:
            AuditError: the file is not a list of audit records.
        """
        try:
            records = json.loads(Path(path).read_text(encoding="utf-8"))
            return Audit(AuditRecord(**record) for record in records)
        except (json.JSONDecodeError, TypeError) as error:
            raise AuditError(f"{path}: not an audit file ({error}); delete it or restore it") from error
