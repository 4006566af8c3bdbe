"""Whoever judges somebody else by the clock first reads what has come: `mooring.deadline` does that, and all others say why they need not.

A plain timer that fires late, because this process stood still, fires before the sockets are looked at (uvloop), or in the same pass
(asyncio). So each one outside `mooring.deadline` stands here, with the reason why nobody is blamed by it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

OWN_PACE = "own pace: when we do something of our own, nobody is judged"
LOOKS_FIRST = "a judge that is late looks again, one pass later"
OURSELVES = "waits for our own, and goes on whatever comes of it"

# (module, function): why it is none of the kind. The tasks of a person's command line and the test kit are not judges of a service.
PLAIN = {
    ("mooring.local_server", "ServerConnection.receive"): "the test kit: a test says how long it waits",
    ("mooring.connection.begun", "Begun._look"): LOOKS_FIRST,
    (
        "mooring.process.redialling",
        "Redialling._look_at",
    ): "the alarm of `connection.watch`, which looks again; else own pace",
    ("mooring.process.runtime", "Runtime._look_later"): OWN_PACE,
    ("mooring.process.handing_over", "HandingOver._hold"): OWN_PACE,
    ("mooring.wire.pulse", "Pulse.__init__"): LOOKS_FIRST,
    ("mooring.wire.pulse", "Pulse._tick"): LOOKS_FIRST,
    ("mooring.wire.ticks", "Ticks.call_at"): "the timers of `wire.pulse`",
    ("mooring_service.service", "Service._begin"): OURSELVES,
    ("mooring_service.feed", "Feed.publish"): OWN_PACE,
    ("mooring_service.feed", "Feed._expire_by"): "who waits for events gets a heartbeat, and waits on",
    ("mooring_service.window", "Window._tell_at"): OWN_PACE,
    ("mooring_service.journal.memory", "MemoryJournal._prune"): OWN_PACE,
    ("mooring_service.journal.gathering", "Gathering.queued"): OWN_PACE,
    ("mooring_service.processes.requests", "Requests._sweep_later"): LOOKS_FIRST,
    ("mooring_service.processes.forker", "Forker.begin"): OWN_PACE,
    ("mooring_service.processes.forker", "Forker.close"): "what is left of it then is let go, not ended",
    ("mooring_service.processes.lifecycle", "Lifecycle.run"): "the delay before a restart: own pace",
    (
        "mooring_service.processes.lifecycle",
        "Lifecycle._one_process",
    ): "gives the turn to the next start; nobody is ended by it",
    ("mooring_service.processes.link_server", "LinkServer._probe_early"): OWN_PACE,
    (
        "mooring_service.processes.supervisor",
        "Supervisor.stop",
    ): "each is told to stop next, and has its own deadlines then",
    (
        "mooring_service.processes.watch",
        "watch",
    ): "when to look next; who is late is told by `watchdog`, which knows of our absence",
    ("mooring_service.hooks.alarm", "Alarm.sleep"): OWN_PACE,
    ("mooring_service.cluster.chain", "Chain._next"): "when the next beat is due: own pace",
    (
        "mooring_service.cluster.engine",
        "Link.ended",
    ): "looks again whether the client is closed, for as long as it takes",
    ("mooring_api.rest.context", "Api.close"): OURSELVES,
    ("mooring_api.rest.gate", "_Guarded._close_when_answered"): "until we have answered ourselves",
    ("mooring_api.rest.stalls", "StallWatch._look_later"): LOOKS_FIRST,
    ("mooring_api.rest.workers", "_call"): "no timer: the verb of that name",
}


def _named(call: ast.Call) -> str:
    """Return what is called, if it is a timer."""
    function = call.func
    if not isinstance(function, ast.Attribute):
        return ""
    of_asyncio = isinstance(function.value, ast.Name) and function.value.id == "asyncio"
    if of_asyncio and function.attr in ("timeout", "timeout_at", "wait_for"):
        bounded = any(not (isinstance(one, ast.Constant) and one.value is None) for one in call.args)
        return f"asyncio.{function.attr}" if bounded else ""
    if of_asyncio and function.attr == "wait":
        return "asyncio.wait" if any(one.arg == "timeout" for one in call.keywords) else ""
    if function.attr in ("call_later", "call_at") and len(call.args) >= 2:
        return function.attr
    return ""


def _timers(tree: ast.AST) -> Iterator[tuple[str, int, str]]:
    """Yield (function, line, what is called) of each timer of a module."""

    def walk(node: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[str, int, str]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(child, (*path, child.name))
                continue
            if isinstance(child, ast.Call) and (name := _named(child)):
                yield ".".join(path[:2]), child.lineno, name
            yield from walk(child, path)

    yield from walk(tree, ())


def plain_timers(trees: Iterable[tuple[str, ast.AST]]) -> dict[tuple[str, str], str]:
    """Return what is called where, by (module, function), of all timers outside of `mooring.deadline`."""
    found = {}
    for module, tree in trees:
        if module != "mooring.deadline" and not module.startswith(("mooring_api.commands.", "mooring_api.client.")):
            for function, line, name in _timers(tree):
                found[module, function] = f"{module}:{line}: {name} in {function}"
    return found
