"""A small Kaggle on 127.0.0.1 for the real client: one account, one competition, kernels; it keeps state.

    with KaggleServer() as server:
        subprocess.run([...], env=server.environment)

What the client asks is in `server.calls`. `server.faults[METHOD]` holds answers to give instead, one per call.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

USER, KEY, TOKEN = "tester", "key-that-nobody-may-see", "token-that-nobody-may-see"
PAGE = 3  # files in a page of kernel output


def assert_refused(process, *words):
    """Exit code 2, and one line on stderr that tells an error, with all the words; no traceback.

    It is the last one, but for the command that attaches again.
    """
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    lines = process.stderr.strip().splitlines()
    (line,) = (line for line in lines[-2:] if line.startswith("error: "))
    assert line == lines[-1] or lines[-1].startswith("python kernels/push.py --attach ")
    for word in words:
        assert word in line


@dataclass
class Session:
    """A kernel's run as a test scripts it: `states`, one per question, the last for ever; its log; its output."""

    states: list[str] = field(default_factory=lambda: ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"])
    lines: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    message: str = ""

    def state(self) -> str:
        """What the next question is answered with."""
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def log(self) -> list[str]:
        """Lines printed so far."""
        return self.lines

    def output(self) -> dict[str, bytes]:
        """Files by name."""
        return self.files


@dataclass(frozen=True)
class Fault:
    """An answer other than the right one. `cut` sends half of a file and hangs up.

    `body`: of the answer, in place of Kaggle's JSON; `then`: what was asked is done all the same; `reset`: the line
    breaks without an answer; `stall`: seconds without one.
    """

    status: int = 200
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    body: str | None = None
    then: bool = False
    reset: bool = False
    stall: float = 0.0


class KaggleServer:
    """The state, and the server around it."""

    def __init__(self, start: Callable[[dict], Session] = lambda request: Session()):
        self.start = start  # what a pushed kernel does
        self.calls: list[tuple[str, dict]] = []
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.answers: dict[str, dict] = {}  # by method, instead of the right one
        self.sessions: dict[str, list[Session]] = defaultdict(list)  # by slug, a version each
        self.sources: dict[str, list[str]] = defaultdict(list)
        self.broken: Callable[[str, dict], Fault | None] = lambda method, request: None  # for as long as it says
        self.archive = b""  # the competition's data
        self.uploads: dict[str, bytes] = {}
        self.submissions: list[dict] = []
        self.allowed = 4
        self.used = 6  # hours of GPU, of 30
        self.score = "0.69913"
        self.polls_until_scored = 3
        self.board = [f"{0.8 - place / 1000:.5f}" for place in range(250)]
        self.errors: list[str] = []  # of this server itself, which its clients could take for misbehaviour
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"kaggle": self}))
        self._server.handle_error = self._note_error
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> KaggleServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
        assert not self.errors, "\n".join(self.errors)

    def _note_error(self, *_) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that waits no longer
            self.errors.append(traceback.format_exc())

    def environment(self, home) -> dict[str, str]:
        """Environment of a signed-in process whose every request, to whatever host, comes here. `home` is empty."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "SYSTEMROOT") if name in os.environ}
        return kept | {
            "HOME": str(home),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USER,
            "KAGGLE_KEY": KEY,
            "http_proxy": self.url,
            "https_proxy": self.url,
        }

    def count(self, method: str) -> int:
        """How often a method was called."""
        return sum(name == method for name, _ in self.calls)

    # One method for each that the client calls, by Kaggle's own names

    def SaveKernel(self, request: dict) -> dict:
        slug = request["slug"].split("/")[1]
        self.sessions[slug].append(self.start(request))
        self.sources[slug].append(request["text"])
        return {"url": f"https://www.kaggle.com/code/{request['slug']}", "versionNumber": len(self.sessions[slug])}

    def GetKernel(self, request: dict) -> dict | Fault:
        sources = self.sources[request["kernelSlug"]]
        if not sources:
            return Fault(404, "Not found")
        source = sources[int(request.get("versionLabel") or 0) - 1]
        return {"metadata": {"currentVersionNumber": len(sources)}, "blob": {"source": source}}

    def GetAcceleratorQuotaStatistics(self, request: dict) -> dict:
        quota = {"timeUsed": f"{3600 * self.used}s", "totalTimeAllowed": "108000s"}
        return {"quotaRefreshTime": "2026-11-28T00:00:00Z", "gpuQuota": quota}

    def session(self, request: dict) -> Session:
        """The version that a request speaks of; the latest where it names none."""
        return self.sessions[request["kernelSlug"]][int(request.get("versionLabel") or 0) - 1]

    def GetKernelSessionStatus(self, request: dict) -> dict:
        session = self.session(request)
        state = session.state()
        return {"status": state} | ({"failureMessage": session.message} if state == "ERROR" else {})

    def ListKernelSessionOutput(self, request: dict) -> dict:
        slug, version = request["kernelSlug"], request.get("versionLabel") or "0"
        session = self.session(request)
        first = int(request.get("pageToken") or 0)
        names = sorted(session.output())
        address = f"{self.url}/output/{slug}/{version}/"
        files = [{"fileName": name, "url": address + quote(name)} for name in names[first : first + PAGE]]
        events = [{"stream_name": "stdout", "time": n, "data": line + "\n"} for n, line in enumerate(session.log())]
        more = {"nextPageToken": str(first + PAGE)} if first + PAGE < len(names) else {}
        return {"files": files, "log": json.dumps(events)} | more

    def GetKernelSessionLogsStream(self, request: dict) -> str:
        events = [f"data: {json.dumps({'data': line})}" for line in self.session(request).log()]
        return "\n\n".join([*events, "data: END_OF_LOG", ""])

    def DownloadDataFiles(self, request: dict) -> str:
        return f"{self.url}/archive/{request['competitionName']}.zip"

    def GetSubmissionLimits(self, request: dict) -> dict:
        done = len(self.submissions)
        return {"numToday": done, "numTotal": done, "numAllowedNow": max(0, self.allowed - done)}

    def StartSubmissionUpload(self, request: dict) -> dict:
        token = f"token{len(self.uploads)}"
        return {"token": token, "createUrl": f"{self.url}/upload/{token}"}

    def CreateSubmission(self, request: dict) -> dict:
        ref = 1000 + len(self.submissions)
        self.submissions.append({"ref": ref, "polls": 0, "file": self.uploads[request["blobFileTokens"]], **request})
        return {"message": "Successfully submitted", "ref": ref}

    def ListSubmissions(self, request: dict) -> dict:
        listed = []
        for submission in self.submissions:
            submission["polls"] += 1
            done = submission["polls"] >= self.polls_until_scored
            if not done:
                outcome = {"status": "PENDING"}
            elif self.score:
                outcome = {"status": "COMPLETE", "publicScore": self.score}
            else:
                outcome = {"status": "ERROR", "errorDescription": "bad ids"}
            told = {"description": submission["submissionDescription"], "date": "2026-01-01T00:00:00Z"}
            listed.insert(0, {"ref": submission["ref"], **told, **outcome})
        return {"submissions": listed}

    def GetLeaderboard(self, request: dict) -> dict:
        first, size = int(request.get("pageToken") or 0), request["pageSize"]
        teams = [{"teamId": n, "teamName": f"team {n}", "score": score} for n, score in enumerate(self.board)]
        more = {"nextPageToken": str(first + size)} if first + size < len(teams) else {}
        return {"submissions": teams[first : first + size]} | more

    def IntrospectToken(self, request: dict) -> dict:
        return {"active": True, "username": USER} if request["token"] == TOKEN else {"active": False}


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP, as an origin and as a proxy; `kaggle` is the server's state."""

    kaggle: KaggleServer

    def do_POST(self) -> None:
        """A method call."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        method = self._path().rpartition("/")[2]
        request = json.loads(body)
        self.kaggle.calls.append((method, request))
        if method != "IntrospectToken" and self.headers["Authorization"] not in _SIGNED:
            return self._fail(Fault(401, "Unauthenticated"))
        fault = self.kaggle.broken(method, request)
        if fault is None and self.kaggle.faults[method]:
            fault = self.kaggle.faults[method].popleft()
        if fault and not fault.then:
            return self._fail(fault)
        given = self.kaggle.answers
        answer = given[method] if method in given else getattr(self.kaggle, method)(request)
        if fault or isinstance(answer, Fault):
            return self._fail(fault or answer)
        if method == "GetKernelSessionLogsStream":
            return self._send(200, answer.encode(), {"Content-Type": "text/event-stream"})
        if isinstance(answer, str):
            return self._send(302, b"", {"Location": answer})
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def do_GET(self) -> None:
        """A file."""
        kind, _, name = self._path().lstrip("/").partition("/")
        self.kaggle.calls.append(("GET", {"name": name, "range": self.headers["Range"]}))
        if fault := self.kaggle.broken("GET", {"name": name}):
            return self._fail(fault)
        if kind == "output":
            slug, version, file = name.split("/", 2)
            return self._send_file(self.kaggle.sessions[slug][int(version) - 1].output()[file])
        self._send_file(self.kaggle.archive)

    def do_PUT(self) -> None:
        """The upload of a submission."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.kaggle.calls.append(("PUT", {}))
        fault = self.kaggle.broken("PUT", {})
        if fault is None and self.kaggle.faults["PUT"]:
            fault = self.kaggle.faults["PUT"].popleft()
        if fault:
            return self._fail(fault)
        self.kaggle.uploads[self._path().rpartition("/")[2]] = body
        self._send(200, b"", {})

    def do_CONNECT(self) -> None:
        """Nothing leaves this machine."""
        self.kaggle.calls.append(("CONNECT", {"host": self.path}))
        self._send(502, b"", {})

    def log_message(self, *_) -> None:
        """Keeps quiet."""

    def _path(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _send_file(self, content: bytes) -> None:
        first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        fault = self.kaggle.faults["GET"].popleft() if self.kaggle.faults["GET"] else Fault()
        headers = {"Accept-Ranges": "bytes", "ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._send(206 if first else 200, content[first:], headers, sent=len(content) // 2 if fault.cut else None)

    def _fail(self, fault: Fault) -> None:
        if fault.stall:
            time.sleep(fault.stall)
        if fault.reset:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        if fault.body is not None:
            kind = "text/html" if fault.body.startswith("<") else "application/json"
            return self._send(fault.status, fault.body.encode(), {"Content-Type": kind, **fault.headers})
        body = json.dumps({"code": fault.status, "message": fault.message}).encode()
        self._send(fault.status, body, {"Content-Type": "application/json", **fault.headers})

    def _send(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:sent])
        self.close_connection = True


_SIGNED = ("Basic " + base64.b64encode(f"{USER}:{KEY}".encode()).decode(), f"Bearer {TOKEN}")
