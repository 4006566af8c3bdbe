"""What is refused about what the configuration names: connections and secrets. Part of the tree of `errors`."""

from __future__ import annotations

from mooring.errors import RequestError


class NameTaken(RequestError):
    """A connection that has not ended has the name.

    Attributes:
        places: Pointers to what it was asked for otherwise; empty: it was not compared.
    """

    def __init__(self, name: str, connection: int, places: list[str] | None = None) -> None:
        self.name = name
        self.connection = connection
        self.places = places or []

    def __str__(self) -> str:
        text = f"connection {self.connection} has the name {self.name!r}"
        return f"{text}, and was asked for otherwise: {', '.join(self.places)}" if self.places else text


class Declared(RequestError):
    """The configuration declares the connection: a request may not change or end it."""

    def __init__(self, name: str, file: str) -> None:
        self.name = name
        self.file = file

    def __str__(self) -> str:
        return f"connection {self.name!r} is declared in {self.file} ([connections.{self.name}]): change it there"


class SecretNotAllowed(RequestError):
    """What a request has opened may not send this secret of ``[secrets]`` to this host."""

    def __init__(self, secret: str, host: str) -> None:
        self.secret = secret
        self.host = host

    def __str__(self) -> str:
        return f"the secret {self.secret!r} is not bound to the host {self.host} ([secrets] {self.secret} hosts)"
