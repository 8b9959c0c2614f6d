"""Kaggle's own client, made to tell the truth: every answer is checked, every failure is one line.

The client's command line exits 0 on many failures, and its Python calls return failures as values (2.2.4). Here each
method either returns what it promises or raises UserError. Keys and tokens are neither read nor printed: the client
finds them itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lib.console import UserError
from lib.files import naming
from lib.task import COMPETITION

COMPETITION_URL = f"https://www.kaggle.com/competitions/{COMPETITION}"

_ACCEPT = f"with this account, accept the competition's rules at {COMPETITION_URL}/rules"
_OWNER = "check the kernel's name, and that this account owns it"
_NO_CREDENTIALS = (
    "Kaggle: no valid credentials; create a token at https://www.kaggle.com/settings/api and set KAGGLE_API_TOKEN to "
    "it or save it as ~/.kaggle/access_token (or use kaggle.json, KAGGLE_USERNAME and KAGGLE_KEY, `kaggle auth login`)"
)
_PASSING = frozenset({429, 500, 502, 503, 504})  # answers that may be better at the next try
_DELAYS = (1, 2, 4, 8)  # seconds before each further try, where Kaggle names none
_LONGEST_DELAY = 600


class Kaggle:
    """A signed-in account and this project's competition.

    Raises UserError where there are no valid credentials; every method raises it for whatever Kaggle refuses.
    """

    def __init__(self):
        self._api = _sign_in()

    @property
    def username(self) -> str:
        """The account's name, as in the address of its kernels."""
        return self._api.get_config_value(self._api.CONFIG_NAME_USER)

    # Kernels, named "user/slug"

    def push(self, folder: Path) -> tuple[int, str]:
        """Uploads a kernel folder, which also starts it. Returns its version and address."""
        answer = _call("push", _ACCEPT, self._api.kernels_push, str(folder))
        if answer.error:
            raise UserError(f"push: Kaggle refused the kernel: {answer.error}")
        if answer.invalid_competition_sources:
            raise UserError(f"push: Kaggle left out {', '.join(answer.invalid_competition_sources)}; {_ACCEPT}")
        invalid = [*answer.invalid_dataset_sources, *answer.invalid_kernel_sources, *answer.invalid_model_sources]
        if invalid:
            raise UserError(f"push: Kaggle left out the sources {', '.join(invalid)}; correct kernel-metadata.json")
        if not answer.version_number:
            raise UserError("push: Kaggle's answer names no version, so nothing was started; try again")
        return answer.version_number, answer.url

    def state(self, kernel: str) -> tuple[str, str]:
        """State of the latest version (QUEUED, RUNNING, COMPLETE, ERROR, ...), and Kaggle's word on a failure or ''."""
        answer = _call(kernel, _OWNER, self._api.kernels_status, kernel)
        return answer.status.name, answer.failure_message or ""

    def log(self, kernel: str) -> list[str]:
        """Lines of the log of a version that has ended; Kaggle keeps none before."""
        text = _call(kernel, _OWNER, self._api.kernels_logs, kernel)
        with contextlib.suppress(ValueError, TypeError, KeyError):  # events as JSON; plain text stays as it is
            text = "".join(event["data"] for event in json.loads(text))
        return text.splitlines()

    def live_log(self, kernel: str) -> Iterator[str]:
        """Lines of a running version as they are printed. Raises the client's own errors; no call is repeated."""
        for event in self._api.kernels_logs_stream(kernel):
            yield from event.get("data", "").splitlines()

    def output(self, kernel: str, folder: Path) -> None:
        """Downloads all pages of a kernel's output files. The client does not check them: compare their digests."""
        with naming(folder):
            _call(kernel, _OWNER, self._api.kernels_output, kernel, str(folder), force=True)

    # The competition

    def download(self, folder: Path, bar: bool) -> Path:
        """Downloads the competition's files as one archive into `folder`, or goes on where it was cut off."""
        with naming(folder):
            _call("download", _ACCEPT, self._api.competition_download_files, COMPETITION, str(folder), quiet=not bar)
        return next(path for path in folder.iterdir() if path.name.startswith(COMPETITION))

    def submissions_left(self) -> int | None:
        """How often the account may still submit today; None before its first submission, when Kaggle does not tell."""
        limits = _call("submit", _ACCEPT, self._api.competition_get_submission_limits, COMPETITION)
        return limits.num_allowed_now if limits.num_allowed_now or limits.num_total else None

    def submit(self, path: Path, message: str, bar: bool) -> int:
        """Uploads and submits a file. Returns the submission's number.

        Not repeated after a lost answer, which may have counted all the same.
        """
        again = f"see {COMPETITION_URL}/submissions before another try"
        answer = _call(
            "submit", again, self._api.competition_submit, str(path), message, COMPETITION, not bar, passing={429}
        )
        if answer.message == self._api.COMPETITION_SUBMIT_UPLOAD_FAILED_MESSAGE:
            raise UserError(f"submit: the upload of {path} failed and nothing was submitted; try again")
        if not answer.ref:
            raise UserError(f"submit: Kaggle took no submission ({answer.message or 'empty answer'}); {again}")
        return answer.ref

    def public_score(self, ref: int) -> float | None:
        """Public score of a submission; None while Kaggle is at it. Raises UserError where Kaggle rejected the file."""
        for submission in _call("submit", _ACCEPT, self._api.competition_submissions, COMPETITION) or ():
            if submission.ref == ref:
                if submission.status.name == "ERROR":
                    reason = submission.error_description or "no reason given"
                    raise UserError(f"submit: Kaggle rejected submission {ref}: {reason}")
                return float(submission.public_score) if submission.public_score else None
        return None

    def rank(self, score: float) -> tuple[int, int]:
        """The place a score takes on the public leaderboard, and how many teams are on it."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetLeaderboardRequest

        # Not competition_leaderboard_view: it loses the next page's token and, after the end, shows private scores
        request = ApiGetLeaderboardRequest()
        request.competition_name = COMPETITION
        request.override_public = True
        request.page_size = 200
        scores = []
        with self._api.build_kaggle_client() as client:
            while True:
                page = _call("rank", _ACCEPT, client.competitions.competition_api_client.get_leaderboard, request)
                scores += [float(entry.score) for entry in page.submissions if entry.score]
                if not page.next_page_token:
                    return 1 + sum(other > score for other in scores), len(scores)
                request.page_token = page.next_page_token


def _sign_in():
    # Importing the package already signs in, and prints a page of help where it cannot
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        api.args = [option for option in api.args if option != "--verbose"]  # VERBOSE=1 would print the key
        try:
            _call("sign-in", _NO_CREDENTIALS, api.authenticate)
        except SystemExit:
            raise UserError(_NO_CREDENTIALS) from None
    return api


def _call(what: str, hint: str, function, *args, passing=_PASSING, **kwargs):
    """One call of the client, repeated while the failure is a passing one; whatever else it raises becomes a UserError.

    Args:
        what: the beginning of the error's line.
        hint: what to do where Kaggle answers 403 or 404, or fails in a way that is not repeated.
        passing: HTTP answers worth another try; a lost connection counts as 503.
    """
    import requests

    for delay in (*_DELAYS, None):
        try:
            # What the client prints is not this script's result
            with contextlib.redirect_stdout(sys.stderr):
                return function(*args, **kwargs)
        except (requests.RequestException, ValueError) as error:
            # The client turns 403 on a kernel into a ValueError about benchmarks
            cause = error.__context__ if isinstance(error.__context__, requests.HTTPError) else error
            response = getattr(cause, "response", None)
            if response is not None:
                code, reason = _reason(response)
                wait = _retry_after(response, delay)
            elif isinstance(cause, (requests.ConnectionError, requests.Timeout)):
                code, reason, wait = 503, "no connection", delay
            else:
                raise UserError(f"{what}: {cause}") from None
            if code in passing and delay is None:
                raise UserError(f"{what}: Kaggle is overloaded or out of reach ({reason}); try again later") from None
            if code not in passing:
                raise UserError(f"{what}: Kaggle answered {reason}" + _advice(code, hint)) from None
        time.sleep(wait or 0)


def _reason(response) -> tuple[int, str]:
    """Status of a failed answer, and it with its message; Kaggle's answers are JSON, a proxy's may be anything."""
    code, message = response.status_code, response.reason
    with contextlib.suppress(ValueError, AttributeError):
        body = response.json()
        code, message = body.get("code") or code, body.get("message") or message
    return code, f"{code} {message}"


def _retry_after(response, default: float | None) -> float | None:
    with contextlib.suppress(ValueError):
        return min(float(response.headers.get("Retry-After", "")), _LONGEST_DELAY)
    return default


def _advice(code: int, hint: str) -> str:
    if code == 401:
        return "; these credentials are not valid: create a new token at https://www.kaggle.com/settings/api"
    return f"; {hint}" if code in {403, 404} | _PASSING else ""
