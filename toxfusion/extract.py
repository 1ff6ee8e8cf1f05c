"""``python -m toxfusion.extract``: slides to tiles and features, resumable and in shards."""

from __future__ import annotations

from typing import Any

from toxfusion.config.command import entry_point


@entry_point("extract")
def main(config: dict[str, Any]) -> None:
    """Slides to tiles or features; each slide ends done, skipped or failed, with its reason. Repeat to resume.

    Examples:
      toxfusion extract study=studies/mine output=tiles
      toxfusion extract study=studies/mine output=features encoder=uni weights=uni.bin grid.mpp=0.5 grid.tile_px=224
      toxfusion extract slides=folder/of/slides into=pilot output=tiles
    """
    from toxfusion.slides.extraction import extract

    extract(config)


if __name__ == "__main__":
    main()
