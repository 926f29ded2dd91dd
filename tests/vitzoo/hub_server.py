"""A hub of one's own on loopback, for huggingface_hub to talk to: repositories in memory, refusals, dropped lines."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

MODEL_PAGE = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|preupload|commit|branch)/([^/?]+))?")
FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """A repository.

    Args:
        revisions: {commit: {file: content}}.
        refs: {branch or tag: commit}.
        refusal: (status, X-Error-Code) that its files are answered with, or None.
        token: without this bearer token its files are refused; None for everyone.
        private: whether it was created private.
    """

    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    refusal: tuple[int, str] | None = None
    token: str | None = None
    private: bool = False

    def commit(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Put the files on top of a branch, and return the new commit."""
        merged = {**self.revisions.get(self.refs.get(ref, ""), {}), **files}
        digest = hashlib.sha1(repr((sorted(merged.items()), len(self.revisions))).encode()).hexdigest()
        self.revisions[digest], self.refs[ref] = merged, digest
        return digest

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """Return (commit, files) of a branch, a tag or a commit; None when there is none."""
        commit = self.refs.get(revision, revision)
        return (commit, self.revisions[commit]) if commit in self.revisions else None


@dataclass
class Hub:
    """The hub's state, and what was asked of it.

    Args:
        url: its address.
        repositories: {org/name: Repository}.
        drops: how many more times a file of more than 1000 bytes breaks off in the middle.
        breaks_after_drop: whether every request for a part of a file is then cut too, before its first byte.
        asked: 'METHOD path' of every request, in order; with ' bytes=...' when a part was asked for.
    """

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    drops: int = 0
    breaks_after_drop: bool = False
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, *, ref: str = "main", **kwargs: Any) -> str:
        """Commit the files of a folder to a repository, and return the commit."""
        repository = self.repositories.setdefault(name, Repository(**kwargs))
        return repository.commit({path.name: path.read_bytes() for path in folder.iterdir()}, ref)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a hub on a free port of this machine until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run_python(code: str, *arguments: str, hub: Hub | None, cache: Path, **environment: str) -> str:
    """Run code in a process of its own and return what it printed: huggingface_hub reads its settings when imported."""
    return run_process(code, *arguments, hub=hub, cache=cache, **environment).stdout


def run_process(
    code: str, *arguments: str, hub: Hub | None, cache: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code as `run_python` does, and return its output and its warnings."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    own |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "5", "NO_PROXY": "127.0.0.1"}
    own |= {"HF_ENDPOINT": hub.url} if hub else {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**own, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        page = MODEL_PAGE.match(self.path)
        if page is None:
            self._file(body=True)
            return
        self._note()
        repository = self.hub.repositories.get(page[1])
        found = repository and repository.at(page[3] or "main")
        if found is None:
            self._refuse(404, "RepoNotFound" if repository is None else "RevisionNotFound")
            return
        commit, files = found
        self._json({"id": page[1], "sha": commit, "siblings": [{"rfilename": name} for name in files]})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._note()
        page = MODEL_PAGE.match(self.path)
        if self.path.startswith("/api/validate-yaml"):
            self._json({"errors": [], "warnings": []})
        elif self.headers.get("Authorization") != "Bearer right":
            self._refuse(401, "")
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            status = 409 if name in self.hub.repositories else 200
            fresh = Repository(private=asked.get("visibility") == "private" or asked.get("private") is True)
            fresh.commit({".gitattributes": b""})
            self.hub.repositories.setdefault(name, fresh)
            self._json({"url": f"{self.hub.url}/{name}"}, status)
        elif page and page[2] == "preupload":
            files = json.loads(body)["files"]
            told = {"uploadMode": "regular", "shouldIgnore": False}
            self._json({"files": [{"path": file["path"], **told} for file in files]})
        elif page and page[2] == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            added = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = self.hub.repositories[page[1]].commit(added, page[3])
            self._json({"commitUrl": f"{self.hub.url}/{page[1]}/commit/{commit}", "commitOid": commit})
        elif page and page[2] == "branch":
            refs = self.hub.repositories[page[1]].refs
            refs.setdefault(page[3], refs["main"])
            self._json({})
        else:
            self._refuse(404, "")

    def _file(self, *, body: bool) -> None:
        self._note()
        wanted = FILE.match(self.path)
        repository = self.hub.repositories.get(wanted[1]) if wanted else None
        if wanted is None or repository is None:
            self._refuse(401, "RepoNotFound")
            return
        if repository.refusal is not None:
            self._refuse(*repository.refusal)
            return
        if repository.token is not None and self.headers.get("Authorization") != f"Bearer {repository.token}":
            self._refuse(401, "GatedRepo")
            return
        found = repository.at(wanted[2])
        if found is None:
            self._refuse(404, "RevisionNotFound")
            return
        commit, files = found
        if wanted[3] not in files:
            self._refuse(404, "EntryNotFound", commit)
            return
        self._send(files[wanted[3]], commit, body=body)

    def _send(self, content: bytes, commit: str, *, body: bool) -> None:
        if self.hub.breaks_after_drop and "Range" in self.headers:
            self.close_connection = True
            return
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body and len(content) > 1000 and self.hub.drops > 0:
            self.hub.drops -= 1
            self.wfile.write(content[start : start + (len(content) - start) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content[start:])

    def _refuse(self, status: int, code: str, commit: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, data: Any, status: int = 200) -> None:
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _note(self) -> None:
        part = f" {self.headers['Range']}" if "Range" in self.headers else ""
        self.hub.asked.append(f"{self.command} {self.path}{part}")
