"""One call of Kaggle's client: in bounded time, repeated where that is safe, and every failure one line."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lib.console import Console, UserError
from lib.kaggle.text import plain, shortened

TIMEOUT = 120  # seconds without a byte after which a request has failed; the client itself would wait for ever
DELAYS = (1, 2, 4, 8)  # seconds before each further try, where Kaggle names none
LONGEST_DELAY = 600
NO_ANSWER, UNREADABLE = 0, 1  # in place of an HTTP status
LATER = 429  # HTTP status by which nothing was done
SIGN_IN = "create a new token at https://www.kaggle.com/settings/api"


class Clock:
    """Time as it passes, in seconds; tests have one of their own."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Lets so many pass."""
        time.sleep(seconds)


class Refused(UserError):
    """Kaggle's answer is no; `code` is its HTTP status."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code


class Unreachable(UserError):
    """There was no answer, or none that could be read, at every try."""


class Lost(UserError):
    """A request that must not be repeated was sent, and what became of it is not known."""


@dataclass(frozen=True)
class Caller:
    """Calls the client. What it waits for longer than a moment is told on the console."""

    console: Console
    clock: Clock

    def call(self, what: str, hint: str, function: Callable, *args, once: bool = False, **kwargs) -> Any:
        """What a function of the client returns.

        Args:
            what: the beginning of the error's line.
            hint: what to do where Kaggle answers 403 or 404.
            once: the request counts even if its answer is lost, so it is sent again only where Kaggle says that it
                wants to be asked later.

        Raises:
            Refused, Unreachable; with `once`: Lost in place of Unreachable.
            OSError: of a disk of ours.
        """
        for delay in (*DELAYS, None):
            try:
                # What the client prints is neither this script's result nor fit for a terminal
                with contextlib.redirect_stdout(io.StringIO()):
                    return function(*args, **kwargs)
            except Exception as error:
                code, reason, response = _failure(error)
            if not _passing(code):
                raise Refused(f"{what}: Kaggle answered {reason}{_advice(code, hint)}", code)
            if once and code != LATER:
                raise Lost(f"{what}: Kaggle's answer was lost ({reason})")
            if delay is None:
                raise Unreachable(f"{what}: Kaggle is overloaded or out of reach ({reason}); try again later")
            self._pause(what, reason, response, delay)
        raise AssertionError

    def _pause(self, what: str, reason: str, response, delay: float) -> None:
        asked = response.headers.get("Retry-After") if response is not None else None
        wait = delay if asked is None else _seconds(asked, delay)
        if asked is not None:
            self.console.line(f"{what}: {reason}; Retry-After is {shortened(asked)!r}, waiting {wait:.0f} s")
        self.clock.sleep(wait)


def bound_requests() -> None:
    """From now on requests of this process have a time-out: the client sets none, and signs in when it is imported."""
    import requests

    class Bounded(requests.adapters.HTTPAdapter):
        def send(self, request, stream=False, timeout=None, verify=True, cert=None, proxies=None):
            return super().send(request, stream, timeout or TIMEOUT, verify, cert, proxies)

    if requests.sessions.HTTPAdapter is requests.adapters.HTTPAdapter:
        requests.sessions.HTTPAdapter = Bounded  # type: ignore[misc]


def _failure(error: Exception) -> tuple[int, str, Any]:
    """HTTP status or what stands for it, the reason in words, the answer. What is no failure of Kaggle's is raised."""
    import requests

    if isinstance(error, UserError) or (
        isinstance(error, OSError) and not isinstance(error, requests.RequestException)
    ):
        raise error
    response = getattr(error, "response", None)
    if (response is not None and response.status_code >= 400) or isinstance(error, requests.HTTPError):
        return *_reason(response), response
    if isinstance(error, requests.exceptions.InvalidJSONError):
        return UNREADABLE, "its answer cannot be read", None
    if isinstance(error, requests.RequestException):
        timed_out = isinstance(error, requests.Timeout) or "timed out" in str(error)
        return NO_ANSWER, "no answer in time" if timed_out else "no connection", None
    if isinstance(error, ValueError) and type(error) is ValueError:  # the client's own words
        raise UserError(shortened(str(error))) from None
    return UNREADABLE, f"its answer cannot be read: {type(error).__name__}", None


def _reason(response) -> tuple[int, str]:
    """Status of a failed answer, and it with its message; Kaggle's answers are JSON, a proxy's may be anything."""
    code, message = response.status_code, response.reason
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        body = response.json()
        code = body["code"] if isinstance(body.get("code"), int) and body["code"] >= 400 else code
        message = body["message"] if isinstance(body.get("message"), str) else message
    return code, f"{code} {shortened(plain(str(message)))}"


def _seconds(text: str, default: float) -> float:
    """Seconds that a Retry-After asks for, as a number or a date, within bounds; the default where it is neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
        except (ValueError, TypeError, OverflowError):
            return default
    if math.isnan(seconds) or seconds < 0:
        return default
    return min(seconds, LONGEST_DELAY)


def _passing(code: int) -> bool:
    """Whether the answer may be another at the next try."""
    return code in (NO_ANSWER, UNREADABLE, 408, LATER) or code >= 500


def _advice(code: int, hint: str) -> str:
    if code == 401:
        return f"; these credentials are not valid: {SIGN_IN}"
    return f"; {hint}" if code in {403, 404} else ""
