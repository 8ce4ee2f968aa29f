"""A griffe extension for the reference: doctests of a docstring stand in blocks of their own."""

from __future__ import annotations

import re
from typing import Any

import griffe

__all__ = ["Doctests"]

_SESSION = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences each run of `>>>` lines with what they print, up to an empty line."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each object it finds."""
        if obj.docstring is not None and ">>> " in obj.docstring.value:
            obj.docstring.value = _SESSION.sub(r"```pycon\n\g<0>\n```", obj.docstring.value)
