"""How a dial fails: one exception, with 4D's list of errors and what the caller decides by."""

from __future__ import annotations

from mooring.errors import ConnectError, ErrCode, ErrorEntry


class DialFailed(ConnectError):
    """A dial that failed. No text of it holds the URL's query, a header's value or a credential.

    Attributes:
        timed_out, policy: Which answer it deserves: it took longer than ``connectTimeout``; the egress policy said no.
        status: The status of the server's answer to the handshake, if that is why.
        retry_after_s: What the answer's ``Retry-After`` asks for, in seconds.
    """

    def __init__(
        self,
        errors: list[ErrorEntry],
        *,
        timed_out: bool = False,
        policy: bool = False,
        status: int | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(errors)
        self.timed_out = timed_out
        self.policy = policy
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def code(self) -> int:
        """The outermost ``errCode``."""
        return self.errors[0].err_code


def failed(code: ErrCode, message: str, cause: str = "") -> DialFailed:
    """Return the failure of a dial; `cause` becomes an inner entry of its list."""
    errors = [ErrorEntry(code, message)]
    if cause:
        errors.append(ErrorEntry(code, cause))
    return DialFailed(errors)


def refused_by_policy(message: str) -> DialFailed:
    """Return the failure of a dial that the egress policy does not let out."""
    return DialFailed([ErrorEntry(ErrCode.POLICY_REFUSED, message)], policy=True)


def reason_of(exc: BaseException) -> str:
    """Return what an error of the system says, without the address that asyncio puts in front of it."""
    return (exc.strerror if isinstance(exc, OSError) else None) or type(exc).__name__
