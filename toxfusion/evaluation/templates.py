"""Jinja templates of the pages and cards that a package holds."""

from __future__ import annotations

import jinja2


def templates(package: str, *, escaped: bool) -> jinja2.Environment:
    """Read templates from the folder ``templates/`` of a package; a name that a template lacks is an error.

    Args:
        package: for example "toxfusion.report".
        escaped: make HTML of whatever is put in; false for Markdown.
    """
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=escaped,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
