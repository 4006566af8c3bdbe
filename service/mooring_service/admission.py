"""What may begin just now: not while the service is stopping or the journal cannot be written, and only by names that are known."""

from __future__ import annotations

import difflib

from mooring.checks import check_worker_name
from mooring.errors import InvalidRequest, JournalUnavailable, Unavailable, UnknownFunction
from mooring_service.config import Config
from mooring_service.journal.journal import Journal


class Admission:
    """Asked before anything is begun.

    Attributes:
        config: The configuration as it is now; what may change at run time is replaced here.
        stopping: From now on nothing new is begun.
    """

    def __init__(self, config: Config, journal: Journal) -> None:
        self.config = config
        self.stopping = False
        self._journal = journal

    def check(self) -> None:
        """Check that something new may begin.

        Raises:
            Unavailable: If the service is stopping.
            JournalUnavailable: As `check_writable`.
        """
        if self.stopping:
            raise Unavailable("the service is stopping")
        self.check_writable()

    def check_writable(self) -> None:
        """Check that what happens can be recorded.

        Raises:
            JournalUnavailable: If the journal cannot be written just now.
        """
        if self._journal.failure is not None:
            raise JournalUnavailable(self._journal.failure)

    def handler(self, name: str) -> str:
        """Return the ``module:attribute`` of a handler.

        Raises:
            UnknownFunction: If it is not in the configuration.
        """
        return _look_up("handlers", self.config.handlers, name)

    def function(self, name: str) -> str:
        """Return the ``module:attribute`` of a function.

        Raises:
            UnknownFunction: If it is not in the configuration.
        """
        return _look_up("functions", self.config.functions, name)


def check_name(name: str) -> None:
    """Check the name of a worker.

    Raises:
        InvalidRequest: If it is none.
    """
    wrong = check_worker_name(name)
    if wrong:
        raise InvalidRequest(wrong)


def _look_up(table: str, names: dict[str, str], name: str) -> str:
    reference = names.get(name)
    if reference is None:
        nearest = difflib.get_close_matches(name, names, 1)
        raise UnknownFunction(table, name, nearest[0] if nearest else None)
    return reference
