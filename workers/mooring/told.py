"""What is logged of something that is tried again and again: what changes. Leaf."""

from __future__ import annotations


class Told:
    """What was said last of one thing that is tried until it goes well."""

    def __init__(self) -> None:
        self._last = ""

    def is_new(self, what: object) -> bool:
        """Say whether this, as a text, is another thing than the one before, and is to be said; it is the last one from here on."""
        before, self._last = self._last, str(what)
        return self._last != before

    def over(self) -> None:
        """It has gone well: whatever comes next is new."""
        self._last = ""
