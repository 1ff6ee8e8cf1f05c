"""``python -m toxfusion.extract``: slides to tiles and features, resumable and in shards."""

from __future__ import annotations

from typing import Any

from toxfusion.config.entry import entry_point


@entry_point("extract")
def main(config: dict[str, Any]) -> None:
    """Slides to tiles or features; each slide ends done, skipped or failed, with its reason. Repeat to resume."""
    from toxfusion.slides.extraction import extract

    extract(config)


if __name__ == "__main__":
    main()
