"""Whether a slide looks like transmitted light: glass that lets it through, tissue that takes some of it away.

In fluorescence the ground is black and the tissue shines, so that a tissue mask finds the ground and a stain normaliser
the noise. Nothing here tells good staining from bad.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toxfusion.slides.colour import Pixels
from toxfusion.slides.faults import SlideUnsuitable

#: rows and columns at the edge with nothing brighter than this are a frame, not a slide
FRAME = 8
#: a pixel whose brightest channel is below this took away three quarters of the light in every channel
DARK = 64
#: a pixel whose darkest channel is above this is glass, or nearly
CLEAR = 180
#: so much glass or lightly stained tissue any slide in transmitted light has
LEAST_CLEAR = 0.02
MOST_DARK = 0.5
#: median over pixels of the darkest channel by the brightest; eosin has 0.6, deep haematoxylin 0.3, a fluorophore 0.1
LEAST_BALANCE = 0.22


@dataclass(frozen=True)
class Light:
    """What an overview shows, each 0 to 1: share of dark and of clear pixels, and how balanced the lit ones are."""

    dark: float
    clear: float
    balance: float
    mean: tuple[float, float, float]

    @property
    def transmitted(self) -> bool:
        """Whether it can be transmitted light: little of it dark, and glass or colours that stains have."""
        return self.dark <= MOST_DARK and (self.clear >= LEAST_CLEAR or self.balance >= LEAST_BALANCE)


def light_of(overview: Pixels) -> Light:
    """The light of an overview, uint8 RGB [h, w, 3], without the black frame that a scanner leaves about a slide."""
    brightest = overview.max(axis=2)
    inside = [np.flatnonzero((brightest > FRAME).any(axis=axis)) for axis in (1, 0)]
    if len(inside[0]):
        overview = overview[inside[0][0] : inside[0][-1] + 1, inside[1][0] : inside[1][-1] + 1]
    pixels = overview.reshape(-1, 3)
    most, least = pixels.max(axis=1), pixels.min(axis=1)
    lit = most >= DARK
    balance = float(np.median(least[lit] / most[lit])) if lit.any() else 0.0
    red, green, blue = (float(mean) for mean in pixels.mean(axis=0))
    return Light(float(1 - lit.mean()), float((least >= CLEAR).mean()), balance, (red, green, blue))


def check_light(overview: Pixels, name: str) -> None:
    """Refuse what is no image in transmitted light.

    Raises:
        SlideUnsuitable: the numbers that say so are in the message.
    """
    light = light_of(overview)
    if not light.transmitted:
        red, green, blue = light.mean
        raise SlideUnsuitable(
            f"{name}: does not look like transmitted light (H&E): {light.dark:.0%} of it is dark and {light.clear:.1%} "
            f"clear, its mean RGB is ({red:.0f}, {green:.0f}, {blue:.0f}), its darkest channel has {light.balance:.2f} "
            "of the brightest; is it fluorescence, or inverted?"
        )
