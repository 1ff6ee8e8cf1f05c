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
#: the darkest channel of a stain by its brightest: eosin has 0.6, deep haematoxylin 0.3, a fluorophore 0.1
LEAST_BALANCE = 0.22
#: no more of a slide than this is dark or of a colour that no stain has
MOST_UNLIKE = 0.5


@dataclass(frozen=True)
class Light:
    """What an overview shows.

    Attributes:
        dark, clear, gaudy: shares of its pixels, 0 to 1: dark ones, clear ones, and those between whose darkest channel
            has less of the brightest than any stain leaves.
        mean: of red, green and blue, 0 to 255.
    """

    dark: float
    clear: float
    gaudy: float
    mean: tuple[float, float, float]

    @property
    def transmitted(self) -> bool:
        """Whether it can be transmitted light: most of it is glass, or has colours that stains have."""
        return self.dark + self.gaudy <= MOST_UNLIKE


def light_of(overview: Pixels) -> Light:
    """The light of an overview, uint8 RGB [h, w, 3], without the black frame that a scanner leaves about a slide."""
    brightest = overview.max(axis=2)
    inside = [np.flatnonzero((brightest > FRAME).any(axis=axis)) for axis in (1, 0)]
    if len(inside[0]):
        overview = overview[inside[0][0] : inside[0][-1] + 1, inside[1][0] : inside[1][-1] + 1]
    pixels = overview.reshape(-1, 3)
    most, least = pixels.max(axis=1), pixels.min(axis=1)
    dark, clear = most < DARK, least >= CLEAR
    gaudy = ~dark & ~clear & (least < LEAST_BALANCE * most)
    red, green, blue = (float(mean) for mean in pixels.mean(axis=0))
    return Light(float(dark.mean()), float(clear.mean()), float(gaudy.mean()), (red, green, blue))


def check_light(overview: Pixels, name: str) -> None:
    """Refuse what is no image in transmitted light.

    Raises:
        SlideUnsuitable: the numbers that say so are in the message.
    """
    light = light_of(overview)
    if not light.transmitted:
        red, green, blue = light.mean
        raise SlideUnsuitable(
            f"{name}: does not look like transmitted light (H&E): {light.dark:.0%} of it is dark, {light.clear:.1%} "
            f"clear, and {light.gaudy:.0%} has a colour of no stain; its mean RGB is ({red:.0f}, {green:.0f}, "
            f"{blue:.0f}); is it fluorescence, or inverted?"
        )
