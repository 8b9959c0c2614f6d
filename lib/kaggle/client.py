"""Kaggle's own client, made to tell the truth: every answer is checked, every failure is one line.

The client's command line exits 0 on many failures, its Python calls return failures as values, and some say nothing of
the version that they speak of (2.2.4). Here each method either returns what it promises or raises UserError; answers
are read as plain JSON, field by field, since the client's own types fall over what they do not know. Keys and tokens
are neither read nor printed: the client finds them itself.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.console import Console, UserError
from lib.files import naming
from lib.kaggle.answers import Answer, hours_of, items_of, log_lines, part_of, score_of, text_of
from lib.kaggle.calls import SIGN_IN, Caller, Clock, Lost, Refused, Unreachable, bound_requests
from lib.kaggle.names import check_names
from lib.kaggle.text import plain, shortened
from lib.task import COMPETITION

COMPETITION_URL = f"https://www.kaggle.com/competitions/{COMPETITION}"
LOOKS = (5, 20, 60)  # seconds before each look at a kernel's versions, or at the submissions, after an answer was lost
PUSHES = 3  # tries, where Kaggle has no version of a push whose answer was lost
MOST_PAGES = 100
LARGEST = 20 << 30  # bytes that Kaggle keeps of a kernel's output

_ACCEPT = f"with this account, accept the competition's rules at {COMPETITION_URL}/rules"
_OWNER = "check the kernel's name, and that this account owns it"
_NO_CREDENTIALS = (
    f"Kaggle: no valid credentials; {SIGN_IN} and set KAGGLE_API_TOKEN to "
    "it or save it as ~/.kaggle/access_token (or use kaggle.json, KAGGLE_USERNAME and KAGGLE_KEY, `kaggle auth login`)"
)
_KERNELS, _COMPETITIONS = "kernels.KernelsApiService", "competitions.CompetitionApiService"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Quota:
    """Hours of GPU that the account has used and may use this week, and when that begins anew, in Kaggle's words."""

    used: float
    allowed: float
    renewed: str

    @property
    def left(self) -> float:
        """Hours that are left."""
        return max(0.0, self.allowed - self.used)


@dataclass(frozen=True)
class Listed:
    """A submission as Kaggle lists it; `score` is None where it is not known, or no number."""

    ref: int
    description: str
    state: str
    score: float | None
    reason: str


class Kaggle:
    """A signed-in account and this project's competition.

    Raises UserError where there are no valid credentials; every method raises it for whatever Kaggle refuses, as
    lib.kaggle.calls.Refused, and where Kaggle cannot be reached, as Unreachable.
    """

    def __init__(self, console: Console, clock: Clock | None = None):
        self.clock = clock or Clock()
        self._calls = Caller(console, self.clock)
        self._api = _sign_in(self._calls)

    def sign_in_again(self) -> None:
        """Looks for credentials once more, which may be newer than those that were refused."""
        self._api = _sign_in(self._calls)

    @property
    def username(self) -> str:
        """The account's name, as in the address of its kernels."""
        return self._api.get_config_value(self._api.CONFIG_NAME_USER)

    # Kernels, named "user/slug"; a version is a number from 1, None the latest one

    def push(self, folder: Path, name: str, mark: str, seconds: int | None = None) -> tuple[int, str]:
        """Uploads a kernel folder, which also starts it. Returns its version and address.

        A push whose answer was lost is sent again only when Kaggle has no version of it.

        Args:
            mark: text in the kernel's code that tells it from others.
            seconds: after which Kaggle ends the session; None: Kaggle's own limit.

        Raises:
            Refused, UserError: nothing was started.
            Lost: it may have been started; `find_version` may tell later.
        """
        before = self.latest_version(name) or 0
        for attempt in range(PUSHES):
            try:
                push = self._api.kernels_push
                answer = self._calls.call("push", _ACCEPT, push, str(folder), timeout=seconds, once=True)
                if answer.error:
                    raise UserError(f"push: Kaggle refused the kernel: {shortened(str(answer.error))}")
                if answer.invalid_competition_sources:
                    raise UserError(f"push: Kaggle left out {COMPETITION}; {_ACCEPT}")
                sources = (answer.invalid_dataset_sources, answer.invalid_kernel_sources, answer.invalid_model_sources)
                if invalid := [source for each in sources for source in each]:
                    listed = shortened(", ".join(map(str, invalid)))
                    raise UserError(f"push: Kaggle left out the sources {listed}; correct kernel-metadata.json")
                if isinstance(answer.version_number, int) and answer.version_number > 0:
                    return answer.version_number, shortened(str(answer.url))
                lost = Lost("push: Kaggle's answer names no version")
            except Lost as error:
                lost = error
            if version := self._look_for(name, mark, before, lost):
                return version, f"https://www.kaggle.com/code/{name}"
            if attempt + 1 < PUSHES:
                self._calls.console.line(f"{lost}, and Kaggle has no such version: pushing again")
        raise Unreachable(f"{lost} {PUSHES} times, and Kaggle has no version of it; try again later")

    def _look_for(self, name: str, mark: str, before: int, lost: Lost) -> int | None:
        """The version that a push started whose answer was lost. Raises Lost where nobody can tell."""
        for pause in LOOKS:
            self.clock.sleep(pause)
            try:
                if version := self.find_version(name, mark, before):
                    return version
            except (Unreachable, Refused) as error:
                raise Lost(f"{lost}, so it may be running, and its versions cannot be seen: {error}") from None
        return None

    def latest_version(self, name: str) -> int | None:
        """Number of a kernel's latest version; 0 where there is no such kernel yet, None where Kaggle does not tell."""
        return self._latest(name)[0]

    def find_version(self, name: str, mark: str, after: int = 0) -> int | None:
        """The latest version beyond `after` whose code holds `mark`; None where there is none."""
        latest, kernel = self._latest(name)
        if latest is None:
            raise Unreachable(f"{name}: Kaggle does not tell the number of its latest version")
        for version in range(latest, after, -1):
            source = part_of(kernel if version == latest else self._kernel(name, version), "blob").get("source")
            if not isinstance(source, str):
                raise Unreachable(f"{name}: Kaggle does not show the code of version {version}")
            if mark in source:
                return version
        return None

    def _latest(self, name: str) -> tuple[int | None, dict]:
        """As `latest_version`, and what Kaggle says of that version."""
        try:
            kernel = self._kernel(name, None)
        except Refused as error:
            if error.code in (403, 404):  # of a kernel that does not exist Kaggle says both
                return 0, {}
            raise
        version = part_of(kernel, "metadata").get("currentVersionNumber")
        return (version if isinstance(version, int) else None), kernel

    def _kernel(self, name: str, version: int | None) -> dict:
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        return self._ask(name, _OWNER, _KERNELS, "GetKernel", _of(ApiGetKernelRequest(), name, version))

    def _ask_version(self, method: str, request, name: str, version: int | None) -> dict:
        """What Kaggle says of a version; without its number where Kaggle does not know that and it is the latest."""
        try:
            return self._ask(name, _OWNER, _KERNELS, method, _of(request, name, version))
        except Refused as error:
            if version is None or error.code not in (400, 404) or self.latest_version(name) != version:
                raise
        request.version_label = None
        return self._ask(name, _OWNER, _KERNELS, method, request)

    def state(self, name: str, version: int | None) -> tuple[str, str]:
        """State (QUEUED, RUNNING, COMPLETE, ERROR or whatever Kaggle calls it), and its word on a failure or ''."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        answer = self._ask_version("GetKernelSessionStatus", ApiGetKernelSessionStatusRequest(), name, version)
        return shortened(text_of(answer, "status")).upper() or "UNKNOWN", shortened(text_of(answer, "failureMessage"))

    def log(self, name: str, version: int | None) -> list[str]:
        """Lines of the log of a version that has ended; Kaggle keeps none before."""
        return log_lines(text_of(self._output_page(name, version, ""), "log"))

    def live_log(self, name: str, version: int | None) -> Iterator[str]:
        """Lines of a version from its beginning, as they are printed, to its end. Raises the client's own errors."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionLogsStreamRequest

        request = _of(ApiGetKernelSessionLogsStreamRequest(), name, version)
        with self._api.build_kaggle_client() as client:
            response = client.kernels.kernels_api_client.get_kernel_session_logs_stream(request)
            with contextlib.closing(response):
                if not response.headers.get("Content-Type", "").lower().startswith("text/event-stream"):
                    yield from log_lines(response.text)
                    return
                for raw in response.iter_lines():
                    data = raw.decode(errors="replace").removeprefix("data:").strip()
                    if data == "END_OF_LOG":
                        return
                    if raw.startswith(b"data:"):
                        yield from log_lines(f"[{data}]" if data.startswith("{") else data)

    def output(self, name: str, version: int | None, folder: Path) -> None:
        """Downloads a version's output files. Kaggle says nothing of their contents: compare their digests.

        Raises UserError before anything is written where a name among all of them would lead out of the folder.
        """
        files = [
            (text_of(item, "fileName"), text_of(item, "url"))
            for page in self._pages(name, lambda token: self._output_page(name, version, token))
            for item in items_of(page, "files")
        ]
        check_names((file for file, _ in files), f"{name}: Kaggle")
        for file, address in files:
            path = folder / file
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._calls.call(f"{name}: {file}", _OWNER, _fetch, address, path)

    def _output_page(self, name: str, version: int | None, token: str) -> dict:
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        request = ApiListKernelSessionOutputRequest()
        request.page_size, request.page_token = 20, token
        return self._ask_version("ListKernelSessionOutput", request, name, version)

    def quota(self) -> Quota | None:
        """This week's GPU quota; None where Kaggle does not tell."""
        from kagglesdk.kernels.types.kernels_api_service import ApiGetAcceleratorQuotaStatisticsRequest

        request = ApiGetAcceleratorQuotaStatisticsRequest()
        try:
            answer = self._ask("quota", _OWNER, _KERNELS, "GetAcceleratorQuotaStatistics", request)
        except (Refused, Unreachable):
            return None
        gpu = part_of(answer, "gpuQuota")
        used, reserved = hours_of(gpu.get("timeUsed")), hours_of(gpu.get("timeReserved"))
        allowed = hours_of(gpu.get("totalTimeAllowed"))
        if used is None or allowed is None:
            return None
        return Quota(used + (reserved or 0.0), allowed, shortened(text_of(answer, "quotaRefreshTime")) or "next week")

    # The competition

    def download(self, folder: Path, bar: bool) -> Path:
        """Downloads the competition's files as one archive into `folder`, or goes on where it was cut off."""
        with naming(folder):
            download = self._api.competition_download_files
            self._calls.call("download", _ACCEPT, download, COMPETITION, str(folder), quiet=not bar)
        return next(path for path in folder.iterdir() if path.name.startswith(COMPETITION))

    def submissions_left(self) -> int | None:
        """How often the account may still submit today; None before its first submission, when Kaggle does not tell."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest

        request = ApiGetSubmissionLimitsRequest()
        request.competition_name = COMPETITION
        limits = self._ask("submit", _ACCEPT, _COMPETITIONS, "GetSubmissionLimits", request)
        left = limits.get("numAllowedNow", 0)
        return left if isinstance(left, int) and (left or limits.get("numTotal")) else None

    def submit(self, path: Path, description: str, bar: bool) -> int:
        """Uploads and submits a file. Returns the submission's number.

        Raises Lost where it may have been submitted and its description does not turn up among the submissions.
        """
        from kagglesdk.competitions.types.competition_api_service import (
            ApiCreateSubmissionRequest,
            ApiStartSubmissionUploadRequest,
        )

        before = {listed.ref for listed in self.submissions()}
        start = ApiStartSubmissionUploadRequest()
        start.competition_name, start.file_name, start.content_length = COMPETITION, path.name, path.stat().st_size
        start.last_modified_epoch_seconds = int(path.stat().st_mtime)
        place = self._ask("submit", _ACCEPT, _COMPETITIONS, "StartSubmissionUpload", start)
        try:
            self._calls.call("submit", _ACCEPT, _upload, path, text_of(place, "createUrl"), bar)
        except (Refused, Unreachable) as error:
            raise UserError(f"{error}: the upload of {path} failed and nothing was submitted; try again") from None
        create = ApiCreateSubmissionRequest()
        create.competition_name, create.blob_file_tokens = COMPETITION, text_of(place, "token")
        create.submission_description = description
        try:
            answer = self._ask("submit", _ACCEPT, _COMPETITIONS, "CreateSubmission", create, once=True)
        except Lost as lost:
            return self._found(description, before, lost)
        ref = answer.get("ref")
        if not isinstance(ref, int) or not ref:
            message = shortened(text_of(answer, "message")) or "empty answer"
            return self._found(description, before, Lost(f"submit: Kaggle took no submission ({message})"))
        return ref

    def _found(self, description: str, before: set[int], lost: Lost) -> int:
        for pause in LOOKS:
            self.clock.sleep(pause)
            with contextlib.suppress(Unreachable):
                for listed in self.submissions():
                    if listed.description == description and listed.ref not in before:
                        return listed.ref
        raise Lost(f"{lost}; see {COMPETITION_URL}/submissions before another try") from None

    def submissions(self) -> list[Listed]:
        """All submissions of the account, newest first. Entries that cannot be read are left out."""
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        def page(token: str) -> dict:
            request = ApiListSubmissionsRequest()
            request.competition_name, request.page_size, request.page_token = COMPETITION, 100, token
            return self._ask("submissions", _ACCEPT, _COMPETITIONS, "ListSubmissions", request)

        return [
            Listed(
                item["ref"],
                plain(text_of(item, "description")),
                shortened(text_of(item, "status")).upper(),
                score_of(item.get("publicScore")),
                shortened(text_of(item, "errorDescription")),
            )
            for answer in self._pages("submissions", page)
            for item in items_of(answer, "submissions")
            if isinstance(item.get("ref"), int)
        ]

    def board(self) -> list[float]:
        """The scores on the public leaderboard, as far as they are numbers."""
        from kagglesdk.competitions.types.competition_api_service import ApiGetLeaderboardRequest

        # Not competition_leaderboard_view: it loses the next page's token and, after the end, shows private scores
        def page(token: str) -> dict:
            request = ApiGetLeaderboardRequest()
            request.competition_name, request.override_public = COMPETITION, True
            request.page_size, request.page_token = 200, token
            return self._ask("rank", _ACCEPT, _COMPETITIONS, "GetLeaderboard", request)

        entries = (item for answer in self._pages("rank", page) for item in items_of(answer, "submissions"))
        scores = (score_of(entry.get("score")) for entry in entries)
        return [score for score in scores if score is not None]

    def _ask(self, what: str, hint: str, service: str, method: str, request, once: bool = False) -> dict:
        """Kaggle's answer to one of the client's requests, as the JSON object that it is."""

        def ask() -> dict:
            with self._api.build_kaggle_client() as client:
                return client.http_client().call(service, method, request, Answer)

        return self._calls.call(what, hint, ask, once=once)

    @staticmethod
    def _pages(what: str, page: Callable[[str], dict]) -> Iterator[dict]:
        """All pages of a list. Raises UserError where they do not come to an end."""
        token, tokens = "", [""]
        while len(tokens) < MOST_PAGES:
            answer = page(token)
            yield answer
            token = text_of(answer, "nextPageToken")
            if not token:
                return
            if token in tokens:
                break
            tokens.append(token)
        raise UserError(f"{what}: Kaggle's list does not end after {len(tokens)} pages; try again later")


def _of(request, name: str, version: int | None):
    request.user_name, request.kernel_slug = name.split("/")
    if version is not None:
        request.version_label = str(version)
    return request


def _fetch(address: str, path: Path) -> None:
    import requests

    with requests.get(address, stream=True) as response, open(path, "wb") as target:
        response.raise_for_status()
        for block in response.iter_content(_BLOCK):
            target.write(block)
            if target.tell() > LARGEST:
                raise UserError(f"{path.name}: is larger than all that Kaggle keeps of a kernel")


def _upload(path: Path, address: str, bar: bool) -> None:
    import requests
    from tqdm import tqdm

    shown = dict(total=path.stat().st_size, leave=False, disable=not bar)
    with open(path, "rb") as source, tqdm.wrapattr(source, "read", **shown) as body:
        requests.put(address, data=body).raise_for_status()


def _sign_in(calls: Caller):
    bound_requests()
    # Importing the package already signs in, and prints a page of help where it cannot
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from kaggle.api.kaggle_api_extended import KaggleApi

        api = KaggleApi()
        api.args = [option for option in api.args if option != "--verbose"]  # VERBOSE=1 would print the key
        api.already_printed_version_warning = True
        try:
            calls.call("sign-in", _NO_CREDENTIALS, api.authenticate)
        except SystemExit:
            raise UserError(_NO_CREDENTIALS) from None
    return api
