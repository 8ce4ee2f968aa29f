"""One run at a time: those who wait for a run stand in a line."""

from __future__ import annotations

import threading

__all__ = ["Ticket", "Turns"]


class Ticket:
    """A place in the line."""

    def __init__(self, turns: Turns):
        self._turns = turns

    @property
    def ahead(self) -> int:
        """How many are served before this one; 0: it is this one's turn."""
        return self._turns.ahead(self)

    def leave(self) -> None:
        """Make room for the next one; does nothing the second time."""
        self._turns.leave(self)


class Turns:
    """The line."""

    def __init__(self, most: int):
        """most: how many may be in it, the one whose turn it is among them."""
        self._most, self._line, self._lock = most, list[Ticket](), threading.Lock()

    def enter(self) -> Ticket:
        """A place at the end of the line.

        Raises:
            RuntimeError: the line is full.
        """
        with self._lock:
            if len(self._line) >= self._most:
                raise RuntimeError(f"{len(self._line)} runs are waiting already; try again in a few minutes")
            self._line.append(Ticket(self))
            return self._line[-1]

    def ahead(self, ticket: Ticket) -> int:
        """See `Ticket.ahead`."""
        with self._lock:
            return self._line.index(ticket)

    def leave(self, ticket: Ticket) -> None:
        """See `Ticket.leave`."""
        with self._lock:
            if ticket in self._line:
                self._line.remove(ticket)
