"""How staying, logging in, heartbeats and requests are asked for: the shapes, as they stand in JSON. Leaf, pure.

Only names and types, which msgspec checks; what the values must be, and what they mean, is said where they are obeyed
(`staying`, `connection/recipe`, `keep_alive`, `requests`). They stand down here because the create body holds them.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

WhenDown = Literal["fail", "queue"]
"""What becomes of a message that is sent while no socket is ready."""
MatcherRequest = str | dict[str, Any] | list[Any]
"""Text, an object of one operator or of JSON pointers, or a list of these of which any is enough (`connection/matcher`)."""


class ReconnectRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True):
    """The object of ``reconnect``. Durations in seconds; what is absent has its default (`staying`)."""

    min_delay: float | UnsetType = UNSET
    max_delay: float | UnsetType = UNSET
    min_uptime: float | UnsetType = UNSET
    give_up_after: float | UnsetType = UNSET
    first: Literal["fail", "retry"] | UnsetType = UNSET
    stop_codes: list[int] | UnsetType = UNSET
    refused_codes: list[int] | UnsetType = UNSET
    retry_statuses: list[int | Literal["5xx"]] | UnsetType = UNSET
    persist: bool | UnsetType = UNSET


class StepRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """One step of an opening: what is sent, what must come back within `timeout` seconds, what would be a refusal."""

    send: Any | UnsetType = UNSET
    send_base64: str | UnsetType = UNSET
    expect: MatcherRequest | UnsetType = UNSET
    fail: MatcherRequest | UnsetType = UNSET
    timeout: float = 10.0  # as connectTimeout: a server that shakes hands and then says nothing is as good as away
    when: str | None = None
    unless: str | None = None


class AnswerRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """An answer to each message that matches: at once, or once the journal holds the message (``stored``)."""

    when: MatcherRequest
    send: Any | UnsetType = UNSET
    send_base64: str | UnsetType = UNSET
    after: Literal["received", "stored"] = "received"
    hide: bool = False


class RememberRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """The value at `pointer` of the newest message that has it and matches `when`."""

    pointer: str
    when: MatcherRequest | UnsetType = UNSET


class ForgetRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Drop the remembered value `name` at each message that matches."""

    name: str
    when: MatcherRequest


class RenewHttpRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """An HTTP request whose JSON answer gives `values`: name → JSON pointer."""

    url: str
    method: Literal["GET", "POST", "PUT"] = "GET"
    headers: dict[str, str | list[str]] = msgspec.field(default_factory=dict)
    body: Any | UnsetType = UNSET
    values: dict[str, str] = msgspec.field(default_factory=dict)


class RenewRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """What fetches fresh values before each attempt: a function of ``[functions]``, or an HTTP request."""

    function: str | UnsetType = UNSET
    params: dict[str, Any] | list[Any] | UnsetType = UNSET
    http: RenewHttpRequest | UnsetType = UNSET
    timeout: float = 10.0  # as connectTimeout
    reuse_for: float = 0.0  # a token that is reused may have expired: only who knows its life says so


class ReconnectWhenRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """The peer asks for a new socket, perhaps at another URL (`url_from`: a pointer into that message)."""

    when: MatcherRequest
    url_from: str | UnsetType = UNSET
    delay: Literal["backoff", "none"] = "backoff"


class CatchUpRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """A function of ``[functions]`` that is called with each ``onReconnect`` and returns what was missed."""

    function: str
    params: dict[str, Any] | list[Any] = msgspec.field(default_factory=dict)
    timeout: float = 60.0  # it may page through an HTTP API; the live messages wait meanwhile


class RecipeRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """The object of ``recipe``: either all in line, or `preset` (and `values` for what it leaves open) and nothing else."""

    preset: str | UnsetType = UNSET
    values: dict[str, Any] | UnsetType = UNSET

    opening: list[StepRequest] = []
    answers: list[AnswerRequest] = []
    remember: dict[str, RememberRequest] = msgspec.field(default_factory=dict)
    forget: list[ForgetRequest] = []
    renew: RenewRequest | UnsetType = UNSET
    resumed_when: MatcherRequest | UnsetType = UNSET
    reconnect_when: list[ReconnectWhenRequest] = []
    stop_when: list[MatcherRequest] = []
    catch_up: CatchUpRequest | UnsetType = UNSET


class KeepAliveRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """The object of ``keepAlive``: the application's own heartbeat. Durations in seconds."""

    send: Any | UnsetType = UNSET
    send_base64: str | UnsetType = UNSET
    expect: MatcherRequest | UnsetType = UNSET
    interval: float | UnsetType = UNSET
    timeout: float | UnsetType = UNSET
    when_idle: bool = False
    hide: list[MatcherRequest] = []
    within: float = 0.0
    interval_from: str | UnsetType = UNSET
    unit: Literal["s", "ms"] = "s"


class RequestsRequest(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """The object of ``requests``: where a request and its reply carry their id, and which reply is an error."""

    id: str
    reply: str
    when: MatcherRequest | UnsetType = UNSET
    error: str | dict[str, Any] | UnsetType = UNSET
    id_type: Literal["number", "string"] = "number"
    hide: bool = False
    one_at_a_time: bool = False
