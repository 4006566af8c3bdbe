"""The settings of `[cluster]`: what they are called, and what of them cannot be. Leaf.

Without a `name` there is no cluster, and nothing of `cluster/` is imported.
"""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Literal

import msgspec

from mooring.bounds import Positive
from mooring.bounds import doc as _doc

CLUSTER_NAME = re.compile(r"[a-z0-9-]{1,20}\Z")
NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,30}\Z")
MIN_DEAD_AFTER_S = 5.0
ENGINE_SCHEMES = ("nats://", "tls://")


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """This node of a cluster. All of it needs a restart."""

    name: Annotated[str, _doc("The cluster's name: 1 to 20 of a-z, 0-9 and '-'. Empty: no cluster.")] = ""
    node: Annotated[
        str,
        _doc("This node's name, unique in the cluster: 1 to 31 letters, digits, '_' or '-', a letter or digit first."),
    ] = ""
    engine: Annotated[
        list[str],
        _doc("nats://HOST:PORT or tls://HOST:PORT of the servers; the first is preferred: name the local one first."),
    ] = []
    credentials: Annotated[str | None, _doc("File of a NATS user (JWT and seed).")] = None
    user: Annotated[str | None, _doc("A NATS user, with password_file.")] = None
    password_file: Annotated[str | None, _doc("File that holds its password.")] = None
    tls_ca: Annotated[str | None, _doc("PEM file of who signs the servers' certificates; without: the system's.")] = (
        None
    )
    tls_cert: Annotated[str | None, _doc("PEM file of this node's certificate, for servers that ask for one.")] = None
    tls_key: Annotated[str | None, _doc("PEM file of its key.")] = None
    secret_file: Annotated[
        str | None,
        _doc(
            "File with the same secret on all nodes, of which the API's token is made; without: each node has its own token."
        ),
    ] = None
    advertise: Annotated[
        str | None, _doc("URL of this node's API for others, if it is another than where it listens.")
    ] = None
    unsure: Annotated[
        Literal["keep", "stop"],
        _doc(
            "What becomes of persisted connections while the engine acknowledges nothing: keep goes on, at the price of a second socket "
            "elsewhere until the cut ends; stop stops them before another node opens them."
        ),
    ] = "keep"
    dead_after: Annotated[
        Positive,
        _doc(
            "A node that nobody has heard for so long is dead; 5 or more, the same at all nodes. A beat is a fifth of it."
        ),
    ] = 15.0
    pace: Annotated[Positive, _doc("Messages of this node start at least so far apart while more keeps coming.")] = (
        0.001
    )

    @property
    def beat_s(self) -> float:
        """How often a node says that it lives."""
        return self.dead_after / 5

    @property
    def fit_s(self) -> float:
        """So old what a judge knows may be; a peer that is silent for longer is suspect."""
        return self.dead_after * 2 / 5

    @property
    def fence_s(self) -> float:
        """A node without an acknowledgement for so long does not know whether others take it for dead."""
        return self.dead_after * 2 / 3

    def check(self) -> list[str]:
        """Return what is wrong, each a key (may be empty) with ": " and a sentence."""
        if self == ClusterConfig():
            return []
        wrong = []
        if not CLUSTER_NAME.match(self.name):
            wrong.append("name: the name of a cluster is 1 to 20 of a-z, 0-9 and '-'")
        if not NODE_NAME.match(self.node):
            wrong.append("node: the name of a node is 1 to 31 letters, digits, '_' or '-', the first a letter or digit")
        if not self.engine:
            wrong.append('engine: at least one server is needed: engine = ["nats://127.0.0.1:4222"]')
        wrong += [
            f"engine: {url!r} is not of the form nats://HOST:PORT or tls://HOST:PORT"
            for url in self.engine
            if not url.startswith(ENGINE_SCHEMES) or url.endswith("//")
        ]
        if self.credentials is not None and self.user is not None:
            wrong.append("credentials: they and user exclude each other")
        if (self.user is None) != (self.password_file is None):
            wrong.append("user: it and password_file go together")
        if (self.tls_cert is None) != (self.tls_key is None):
            wrong.append("tls_cert: it and tls_key go together")
        if not self.dead_after >= MIN_DEAD_AFTER_S:
            wrong.append(f"dead_after: must be {MIN_DEAD_AFTER_S:g} or more, not {self.dead_after:g}")
        if self.advertise is not None and not self.advertise.startswith(("http://", "https://")):
            wrong.append("advertise: must be http://… or https://…")
        return wrong

    def unlike(self, store: str, beside: list[str]) -> str | None:
        """Return why a node cannot start with what else there is: a journal's `store`, tables that stand `beside`; None if it can."""
        if self.name and find_spec("nats") is None:
            return "[cluster] needs a client of NATS: pip install 'mooring[cluster]'"
        if self.name and store == "memory":
            return "journal.store: a node of a cluster needs one that survives a restart: sqlite"
        if self.name and beside:
            return f"[{beside[0]}.*] cannot stand beside [cluster] yet: take one of them out"
        return None
