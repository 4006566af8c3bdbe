"""What can be wrong with a request about a hook, beside what can be with any. Leaf."""

from __future__ import annotations

from mooring.errors import RequestError


class UnknownHook(RequestError):
    """No hook of that name."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def __str__(self) -> str:
        return f"no hook {self.hook!r}"


class HookConfigured(RequestError):
    """The hook stands in the configuration, and is changed there."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def __str__(self) -> str:
        return f"hook {self.hook!r} stands in the configuration ([hooks.{self.hook}]): change it there, and send SIGHUP"


class HookConflict(RequestError):
    """What the hook does just now is in the way; `detail` says what."""

    def __init__(self, detail: str) -> None:
        self.detail = detail

    def __str__(self) -> str:
        return self.detail
