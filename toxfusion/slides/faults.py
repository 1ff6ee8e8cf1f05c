"""Why a slide does not become tiles."""

from __future__ import annotations


class SlideError(Exception):
    """A slide does not become tiles; the message says why."""


class SlideUnreadable(SlideError):
    """No back end can open the file, or a part of it cannot be decoded."""


class SlideUnsuitable(SlideError):
    """The file can be read, but is not to be used: no mpp, too coarse, no colour, no tissue."""
