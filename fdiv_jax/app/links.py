"""What the page shows, as the query of its address: a link restores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args
from urllib.parse import urlencode

__all__ = ["LONGEST", "Tab", "View"]

Tab = Literal["explore", "unlearn"]
LONGEST = 400
"""Characters of an expression that the page takes."""
_MOST = 10**9


@dataclass(frozen=True)
class View:
    """The inputs of the page.

    Attributes:
        tab: the one that is open.
        f: the generator that is explored.
        against: the one set beside it; empty: none.
        target: the concept to unlearn.
        anchor: what takes its place.
        divergence: the one to unlearn with.
        steps: of the run.
        seed: of the run.
    """

    tab: Tab = "explore"
    f: str = "squared_hellinger"
    against: str = ""
    target: str = "sneaker"
    anchor: str = "near"
    divergence: str = "squared_hellinger"
    steps: int = 60
    seed: int = 0

    @property
    def query(self) -> str:
        """The query of the link: what the open tab shows, as far as it is not the default."""
        default = View()
        names = (
            ("f", "against") if self.tab == "explore" else ("target", "anchor", "divergence", "steps", "seed")
        )
        chosen = {name: value for name, value in asdict(self).items() if name in names}
        asked = {name: value for name, value in chosen.items() if value != getattr(default, name)}
        if self.tab == "unlearn":
            asked = {"tab": "unlearn", **asked}
        return f"?{urlencode(asked)}" if asked else "?"

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """What a query asks for; what is not of its kind, or too long, is left at its default."""
        found: dict[str, object] = {}
        for field in fields(cls):
            text = query.get(field.name)
            if text is None or len(text) > LONGEST:
                continue
            if isinstance(field.default, int):
                if text.isascii() and text.isdigit() and int(text) <= _MOST:
                    found[field.name] = int(text)
            elif field.name != "tab" or text in get_args(Tab):
                found[field.name] = text
        return cls(**found)  # pyright: ignore[reportArgumentType]
