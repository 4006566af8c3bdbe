"""From ``module:attribute`` to user code, with the real reason when it cannot be had."""

from __future__ import annotations

import importlib
import inspect
import re
import traceback
from types import CodeType, CoroutineType
from typing import Any

from mooring.connection.asked import NOTHING, Known, resolve
from mooring.errors import HandlerError, Invalid, InvalidRequest
from mooring.events import KINDS
from mooring.options import OPTIONS, ConnectionOptions, ConnectionRequest

# As the interpreter knows them. Read from the class itself, a metaclass may say anything, and raise.
_name = type.__dict__["__name__"].__get__
_qualname = type.__dict__["__qualname__"].__get__
CALLBACKS = {kind: info.callback for kind, info in KINDS.items() if info.callback}
"""The method of a handler that gets an event, by its kind."""

_GENERATOR = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_SPELLED = {kind.name: name for kind, name in CALLBACKS.items()} | {
    option.key: option.name for option in OPTIONS.values() if option.by_handler and option.key != option.name
}
"""What a handler may say, in Python's spelling by 4D's."""

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


def check_reference(reference: str) -> bool:
    """Say whether `reference` has the form ``module:attribute``."""
    return _REFERENCE.match(reference) is not None


def load(reference: str) -> Any:
    """Import the module and return the attribute (dots reach into classes).

    Raises:
        HandlerError: If the module cannot be imported or has no such attribute; it says why.
    """
    if not check_reference(reference):
        raise HandlerError(reference, "is not of the form module:attribute")
    module_name, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    # User code runs at import: whatever it raises (SystemExit too) is its error, not the end of this process.
    except BaseException as exc:
        raise HandlerError(reference, f"cannot import {module_name!r}: {describe(exc)}") from exc
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise HandlerError(reference, f"{module_name!r} has no {path!r}") from None
        # As above: a module's __getattr__ may raise anything.
        except BaseException as exc:
            raise HandlerError(reference, f"{module_name!r} does not give {path!r}: {describe(exc)}") from exc
    if not callable(found):
        raise HandlerError(reference, f"{path!r} is not callable")
    return found


def construct(reference: str, params: dict[str, Any] | list[Any]) -> Any:
    """Return the handler that ``module:attribute`` makes of `params` (keywords, or by position).

    Raises:
        HandlerError: If it cannot be loaded, or its constructor raises.
    """
    factory = load(reference)
    try:
        handler = factory(**params) if isinstance(params, dict) else factory(*params)
    # As above: a constructor may raise anything.
    except BaseException as exc:
        raise HandlerError(reference, f"cannot be constructed: {describe(exc)}") from exc
    # A forgotten `return`, or an `async def`: without this, a connection whose callbacks never run.
    if handler is None or type(handler) is CoroutineType:
        if handler is not None:
            handler.close()
        raise HandlerError(reference, f"cannot be constructed: it returned {type(handler).__name__}, not a handler")
    return handler


def options_of(
    reference: str, request: ConnectionRequest, handler: object, known: Known = NOTHING
) -> ConnectionOptions:
    """Return what `request` and the attributes of `handler` ask for.

    Raises:
        InvalidRequest: If anything of it is not valid.
        HandlerError: If an attribute (a property) raises.
    """
    try:
        return resolve(request, handler, known)
    except InvalidRequest:
        raise
    # As above.
    except BaseException as exc:
        raise HandlerError(reference, f"its options cannot be read: {describe(exc)}") from exc


def check(handler: object) -> None:
    """Refuse a handler, or a class of them, of which a part would be ignored without a word. No property of it is asked.

    Raises:
        InvalidRequest: If a callback is a generator, or an attribute is spelled as in 4D and not as in Python.
    """
    wrong = []
    for spelled, name in _SPELLED.items():
        if _attribute(handler, spelled) is not None and _attribute(handler, name) is None:
            wrong.append((spelled, f"in Python it is spelled {name}"))
    for name in CALLBACKS.values():
        callback = _attribute(handler, name)
        if isinstance(callback, staticmethod | classmethod):
            callback = callback.__func__
        code = getattr(callback, "__code__", None)
        flags = code.co_flags if isinstance(code, CodeType) else 0
        if flags & _GENERATOR and not flags & inspect.CO_ITERABLE_COROUTINE:
            wrong.append((name, "it is a generator (it has a `yield`): nothing of it would run"))
    if wrong:
        who = printable(_name(handler)) if isinstance(handler, type) else class_name(handler)
        raise InvalidRequest([Invalid("/handler", f"{who}.{name}: {detail}") for name, detail in wrong])


def _attribute(handler: object, name: str) -> Any:
    return inspect.getattr_static(handler, name, None)


def make(reference: str, request: ConnectionRequest, known: Known = NOTHING) -> tuple[object, ConnectionOptions]:
    """Return the handler that `request` names, made by ``module:attribute``, and what the two of them ask for.

    Raises:
        InvalidRequest, HandlerError: As `construct`, `check` and `options_of`, and nothing else.
    """
    wanted = request.handler
    assert wanted is not None, "only a request that names a handler comes here"
    try:
        handler = construct(reference, wanted.params)
        check(handler)
        return handler, options_of(reference, request, handler, known)
    except (InvalidRequest, HandlerError):
        raise
    # It may have been set into the thread from outside, anywhere: whoever waits for the connection is answered.
    except BaseException as exc:
        raise HandlerError(reference, f"cannot be constructed: {describe(exc)}") from exc


def describe(exc: BaseException) -> str:
    """Return type and message of `exc` on one line, fit for JSON."""
    message = message_of(exc)
    name = exception_name(exc)
    return f"{name}: {message}" if message else name


def class_name(value: object) -> str:
    """Return the name of the class of `value`; no code of it runs."""
    return printable(_name(type(value)))


def exception_name(exc: BaseException) -> str:
    """Return the qualified name of the class of `exc`; no code of it runs."""
    return printable(_qualname(type(exc)))


def message_of(exc: BaseException) -> str:
    """Return the message of `exc`, fit for JSON; its ``__str__`` is user code, and may raise as well."""
    try:
        return printable(str(exc))
    except BaseException as inner:  # noqa: BLE001 - user code
        return f"<its message cannot be had: {exception_name(inner)}>"


def printable(text: str, limit: int = 16_384) -> str:
    """Return `text` without lone surrogates, and cut to `limit` characters; a plain `str`, whatever came."""
    clean = str.encode(text, "utf-8", "backslashreplace").decode("utf-8")
    return clean if len(clean) <= limit else clean[:limit] + " …"


def format_traceback(exc: BaseException) -> str:
    """Return the traceback of `exc` as text, without the frames of mooring itself at its top.

    What an exception says of itself (its notes, its cause, the names of its class) is user code, and may raise as well.
    """
    try:
        tb = exc.__traceback__
        while tb is not None and tb.tb_next is not None and _is_ours(tb.tb_frame.f_globals.get("__name__")):
            tb = tb.tb_next
        return printable("".join(traceback.format_exception(type(exc), exc, tb)))
    except BaseException as inner:  # noqa: BLE001 - user code
        return f"<its traceback cannot be had: {exception_name(inner)}>"


def _is_ours(module: object) -> bool:
    return type(module) is str and module.startswith("mooring.")
