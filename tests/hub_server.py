"""A small hub on loopback: the answers that `huggingface_hub` and `datasets` ask for.

It serves folders as repositories, with the hub's addresses, headers, ranges and error codes, and
has moods: a request for a file may stall, be cut off, or be answered with 429 or 503.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

LARGE = 1000  # bytes from which a file counts as a large one, with a SHA-256
STALL = 2  # seconds of silence; clients are given 1


class Hub:
    """Repositories below a folder: `datasets/owner/name/...` and `models/owner/name/...`.

    Attributes:
        moods: What becomes of the next requests for files: ok, stall, cut, 429 or 503.
        head_moods: What becomes of the next questions about files: ok or 503.
        seen: (method, path, range) of every request.
        gated: Repositories that must be asked for.
        tampered: Files whose content is another than their stated hash.
    """

    def __init__(self, folder: Path, handler: type | None = None):
        self.folder = folder
        self.moods: list[str] = []
        self.head_moods: list[str] = []
        self.seen: list[tuple[str, str, str]] = []
        self.gated: set[str] = set()
        self.tampered: set[str] = set()
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (handler or Handler,), {"hub": self})
        )
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.server = server

    def reset(self, folder: Path) -> None:
        """Serve another folder, in good temper."""
        self.folder = folder
        self.moods, self.head_moods, self.seen = [], [], []
        self.gated, self.tampered = set(), set()

    def close(self) -> None:
        """Stop serving."""
        self.server.shutdown()
        self.server.server_close()

    def add(self, name: str, files: dict[str, bytes], kind: str = "datasets") -> Path:
        """Add a repository, and return its folder."""
        place = self.folder / kind / name
        for path, content in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_bytes(content)
        return place

    def commit(self, place: Path) -> str:
        """Return the commit of a repository: a hash of what it holds."""
        total = hashlib.sha1()
        for path in sorted(place.rglob("*")):
            if path.is_file():
                total.update(path.name.encode() + path.read_bytes())
        return total.hexdigest()

    def downloaded(self) -> list[tuple[str, str]]:
        """Return (path, range) of every file that was asked for with GET."""
        return [
            (path, part)
            for method, path, part in self.seen
            if method == "GET" and "/resolve/" in path
        ]

    def environment(self, cache: Path, **more: str) -> dict[str, str]:
        """Return the environment of a process that uses this hub."""
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HOME": str(cache / "hf"),
            # gptqmodel moves it when PEFT asks for it, for all processes that are started later.
            "HF_HUB_CACHE": str(cache / "hf" / "hub"),
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "FINLAB_CACHE": str(cache / "finlab"),
            "NO_PROXY": "127.0.0.1",
        }
        return os.environ | own | more

    def python(self, code: str, cache: Path, **more: str) -> subprocess.CompletedProcess:
        """Run Python code in a process that uses this hub."""
        return subprocess.run(
            [sys.executable, "-c", code],
            env=self.environment(cache, **more),
            capture_output=True,
            text=True,
            timeout=120,
        )


WORKER = """
import contextlib, io, json, os, sys, time, traceback
import datasets, huggingface_hub, pandas
from finlab.data import cards
sleep = time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.05))
answers = os.fdopen(os.dup(1), "w")
sys.stdout = sys.stderr
for line in sys.stdin:
    code, environment = json.loads(line)
    before = dict(os.environ)
    os.environ.update(environment)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    said, error = io.StringIO(), ""
    with contextlib.redirect_stdout(said):
        try:
            exec(code, {})
        except BaseException as raised:
            error = "".join(traceback.format_exception(raised))
    os.environ.clear()
    os.environ.update(before)
    print(json.dumps([said.getvalue(), error]), file=answers, flush=True)
"""


class Worker:
    """A process that uses a hub and runs one piece of code after another, without long pauses."""

    def __init__(self, hub: Hub, cache: Path):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=hub.environment(cache),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess:
        """Run code, and return what it printed and raised as of a process."""
        self.process.stdin.write(json.dumps([code, environment]) + "\n")
        self.process.stdin.flush()
        said, error = json.loads(self.process.stdout.readline())
        return subprocess.CompletedProcess([], int(bool(error)), said, error)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait(10)


def _entry(place: Path, path: Path) -> dict:
    """Return a file as the hub's tree lists it."""
    content = path.read_bytes()
    entry = {
        "type": "file",
        "path": path.relative_to(place).as_posix(),
        "size": len(content),
        "oid": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest(),
    }
    if len(content) >= LARGE:
        digest = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
    return entry


def _folder(path: str) -> dict:
    """Return a folder as the hub's tree lists it."""
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _tree(entries: list[dict], below: str, recursive: bool) -> list[dict]:
    """Return the files below a folder, and the folders there, as the hub lists them."""
    start = f"{below}/" if below else ""
    found = {}
    for entry in entries:
        if not entry["path"].startswith(start):
            continue
        steps = entry["path"].removeprefix(start).split("/")
        for depth in range(1, len(steps)):
            name = start + "/".join(steps[:depth])
            if recursive or depth == 1:
                found[name] = _folder(name)
        if recursive or len(steps) == 1:
            found[entry["path"]] = entry
    return list(found.values())


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers requests for the repositories of `hub`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    # --- answers ---
    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), headers)

    def _repository(self, kind: str, name: str, revision: str) -> Path | None:
        """Return a repository's folder, or answer that there is none."""
        place = self.hub.folder / kind / name
        if not place.is_dir():
            self._refuse(404, "RepoNotFound", "Repository not found")
            return None
        if revision not in ("main", self.hub.commit(place)):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return place

    # --- requests ---
    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size).decode()
        try:
            asked = json.loads(body).get("paths", [])
        except ValueError:
            asked = urllib.parse.parse_qs(body).get("paths", [])
        self._answer([asked] if isinstance(asked, str) else asked)

    def do_GET(self) -> None:
        self._answer([])

    def _answer(self, asked: list[str]) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        self.hub.seen.append((self.command, path, self.headers.get("Range") or ""))
        parts = path.split("/")
        if parts[0] == "api":
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], asked)
            return
        kind = "datasets" if parts[0] == "datasets" else "models"
        parts = parts[1:] if kind == "datasets" else parts
        if len(parts) > 4 and parts[2] == "resolve":
            self._file(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
            return
        self._refuse(404, "EntryNotFound", "no such page")

    def _api(self, kind: str, name: str, rest: list[str], asked: list[str]) -> None:
        revision = rest[1] if len(rest) > 1 else "main"
        place = self._repository(kind, name, revision)
        if place is None:
            return
        entries = [_entry(place, path) for path in sorted(place.rglob("*")) if path.is_file()]
        what = rest[0] if rest else "revision"
        if what == "tree":
            query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            whole = query.get("recursive", [""])[0].lower() == "true"
            self._json(_tree(entries, "/".join(rest[2:]), whole))
        elif what == "paths-info":
            listed = [entry for entry in entries if entry["path"] in asked]
            for each in asked:
                if (place / each).is_dir():
                    listed.append(_folder(each))
            self._json(listed)
        elif what == "revision":
            self._json(
                {
                    "id": name,
                    "sha": self.hub.commit(place),
                    "gated": "manual" if name in self.hub.gated else False,
                    "private": getattr(self.hub, "private", {}).get(name, False),
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                    "lastModified": "2026-01-01T00:00:00.000Z",
                    "siblings": [
                        {"rfilename": each["path"], "size": each["size"]} for each in entries
                    ],
                }
            )
        else:
            self._refuse(404, "EntryNotFound", f"no such answer: {what}")

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        place = self._repository(kind, name, revision)
        if place is None:
            return
        if not (place / path).is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        if name in self.hub.gated and self.headers.get("Authorization") != "Bearer allowed":
            self._refuse(403, "GatedRepo", f"Access to {name} is restricted")
            return
        entry = _entry(place, place / path)
        content = (place / path).read_bytes()
        if path in self.hub.tampered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        digest = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {
            "ETag": f'"{digest}"',
            "X-Repo-Commit": self.hub.commit(place),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        self._content(content, headers)

    def _content(self, content: bytes, headers: dict[str, str]) -> None:
        """Send a file or a range of it, in the mood of the hour."""
        moods = self.hub.moods if self.command == "GET" else self.hub.head_moods
        mood = moods.pop(0) if moods else "ok"
        if mood in ("429", "503"):
            self._send(int(mood), b"later", {"Retry-After": "1"})
            return
        if mood == "stall":
            time.sleep(STALL)
        status, total = 200, len(content)
        asked = self.headers.get("Range")
        if asked:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end = int(first), int(last or total - 1)
            if begin >= total:
                self._send(416, b"", {"Content-Range": f"bytes */{total}"})
                return
            content = content[begin : end + 1]
            headers["Content-Range"] = f"bytes {begin}-{begin + len(content) - 1}/{total}"
            status = 206
        headers["Content-Length"] = str(len(content))
        if mood == "cut":
            content = content[: len(content) // 2]
        self._send(status, content, headers)
        if mood == "cut":
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
