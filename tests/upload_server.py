"""The writing side of the small hub: repositories are made, large files uploaded, commits taken."""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
from pathlib import Path

from tests.hub_server import LARGE, Handler, Hub


class UploadHub(Hub):
    """A hub that takes models from whoever shows the right token.

    Attributes:
        token: The only one that may write.
        private: Whether each repository is.
        commits: (repository, summary) of each.
        objects: Large files by their SHA-256.
    """

    def __init__(self, folder: Path, token: str):
        self.token = token
        self.private: dict[str, bool] = {}
        self.commits: list[tuple[str, str]] = []
        self.objects: dict[str, bytes] = {}
        super().__init__(folder, UploadHandler)


class UploadHandler(Handler):
    """Answers what `huggingface_hub` asks for while it uploads."""

    hub: UploadHub

    def do_PUT(self) -> None:
        """Take a large file at the address that was given for it."""
        content = self._body()
        wanted = self.path.rsplit("/", 1)[-1]
        if hashlib.sha256(content).hexdigest() != wanted:
            return self._refuse(400, "BadDigest", "the content has another SHA-256")
        self.hub.objects[wanted] = content
        return self._send(200, b"")

    def do_POST(self) -> None:
        """Take a step of an upload."""
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        body = self._body()
        if (
            path != "api/validate-yaml"
            and self.headers.get("Authorization") != f"Bearer {self.hub.token}"
        ):
            return self._refuse(401, "Unauthorized", "Invalid username or password.")
        parts = path.split("/")
        if path == "api/repos/create":
            return self._create(json.loads(body))
        if path == "api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if parts[4:5] == ["preupload"]:
            return self._preupload(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if parts[4:5] == ["commit"]:
            return self._commit("/".join(parts[2:4]), body.decode())
        return self._refuse(404, "EntryNotFound", f"no such answer: {path}")

    def _body(self) -> bytes:
        """Return what a request brings, whole or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = b""
        while True:
            size = int(self.rfile.readline().strip(), 16)
            content += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                return content

    def _create(self, asked: dict) -> None:
        """Make a repository; answer 409 where it is there already."""
        name = (
            f"{asked['organization']}/{asked['name']}"
            if asked.get("organization")
            else asked["name"]
        )
        place = self.hub.folder / "models" / name
        url = f"{self.hub.url}/{name}"
        if place.exists():
            return self._send(409, json.dumps({"error": "exists", "url": url}).encode())
        place.mkdir(parents=True)
        self.hub.private[name] = asked.get("visibility") == "private"
        return self._json({"url": url, "id": name})

    def _preupload(self, asked: dict) -> None:
        """Say which files are large."""
        found = []
        for file in asked["files"]:
            mode = "lfs" if file["size"] >= LARGE else "regular"
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False})
        self._json({"files": found})

    def _batch(self, asked: dict) -> None:
        """Say where large files go."""
        found = []
        for each in asked["objects"]:
            action = {"href": f"{self.hub.url}/objects/{each['oid']}"}
            found.append({**each, "actions": {"upload": action}})
        self._json({"objects": found, "transfer": "basic"})

    def _commit(self, name: str, body: str) -> None:
        """Take a commit: small files in it, large ones by their hash."""
        place = self.hub.folder / "models" / name
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.commits.append((name, value["summary"]))
                continue
            target = place / value["path"]
            if entry["key"] == "deletedFile":
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            if entry["key"] == "file":
                target.write_bytes(base64.b64decode(value["content"]))
            else:
                target.write_bytes(self.hub.objects[value["oid"]])
        commit = self.hub.commit(place)
        self._json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})
