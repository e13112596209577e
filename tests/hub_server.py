"""A loopback Hugging Face Hub: as many of its endpoints as the client uses to push, list and pull,
with faults."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pipeline.bundle import files

TOKEN = "hf_MarkedTokenOfTheTests"
SIGNATURE = "SignatureOfAnUpload"
"""Part of the addresses that the Hub signs for uploads, as secret as a token while it lasts."""
LARGE = (".h5", ".pkl", ".parquet")
REPO = re.compile(r"/(?:api/)?(?:(models|datasets)/)?([\w.-]+/[\w.-]+?)(?:\.git)?/(.*)")


@dataclass
class Fault:
    """Spoils the next `times` requests of a method whose path holds `path`.

    `what` is a status, "cut" (in the middle of the body), "close" (before an answer), "lost" (done,
    not answered), "endless" (more and more behind the body), or "race" (somebody else is faster).
    """

    method: str
    path: str
    what: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Repository:
    """Commits, oldest first, each with all its files."""

    is_private: bool = False
    commits: list[tuple[str, str, dict[str, bytes]]] = field(default_factory=list)
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    """what the listing says in place of the truth"""

    def commit(self, files: dict[str, bytes], message: str = "by hand") -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message} {sorted(files)}".encode()).hexdigest()
        self.commits.append((oid, message, dict(files)))
        return oid

    def at(self, revision: str) -> tuple[str, str, dict[str, bytes]] | None:
        found = [commit for commit in self.commits if commit[0] == revision]
        return self.commits[-1] if revision == "main" else found[0] if found else None

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]


class LoopbackHub(ThreadingHTTPServer):
    """A Hub that knows one token, and repeats it in every refusal as no Hub should."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, int]] = []
        self.n_sent = 0
        """bytes of endless answers"""
        self.told: list[str] = []
        """Authorization headers of requests for signed addresses; there should be none"""

    def add(self, name: str, files: dict[str, bytes]) -> Repository:
        self.repositories[name] = Repository()
        self.repositories[name].commit({".gitattributes": b""} | files)
        return self.repositories[name]

    def count(self, method: str, path: str) -> int:
        return sum(m == method and path in p for m, p, _ in self.log)


class Handler(BaseHTTPRequestHandler):
    server: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.respond()

    do_HEAD = do_POST = do_PUT = do_GET

    def respond(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        path = unquote(urlsplit(self.path).path)
        fault = next(
            (
                f
                for f in self.server.faults
                if f.method == self.command and f.path in path and f.times
            ),
            None,
        )
        if fault is not None:
            fault.times -= 1
            if fault.what == "close" or (fault.what == "cut" and size):
                self.rfile.read(size // 2)
                return self.hang_up(path)
        body = self.rfile.read(size)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        if fault is not None and fault.what == "race":
            for repository in self.server.repositories.values():
                repository.commit(repository.files | {"other.txt": b"somebody else's"})
        if fault is not None and isinstance(fault.what, int):
            answer = (fault.what, fault.headers, b"")
        else:
            answer = self.route(path, body)
        if fault is not None and fault.what == "lost":
            return self.hang_up(path)
        if fault is not None and fault.what == "endless":
            return self.send_endlessly(answer[1], answer[2])
        return self.send(path, *answer, is_cut=fault is not None and fault.what == "cut")

    def send_endlessly(self, headers: dict[str, str], body: bytes) -> None:
        self.close_connection = True
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):  # until the client goes
            while True:
                self.wfile.write(body + bytes(2**20))
                self.server.n_sent += len(body) + 2**20

    def hang_up(self, path: str) -> None:
        self.server.log.append((self.command, path, 0))
        self.close_connection = True
        self.connection.close()

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def send(
        self, path: str, status: int, headers: dict[str, str], body: bytes, is_cut: bool = False
    ) -> None:
        self.server.log.append((self.command, path, status))
        if status >= 400:
            told = json.dumps(
                {
                    "error": f"refused {self.headers.get('Authorization')}",
                    **json.loads(body or "{}"),
                }
            )
            body = told.encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if is_cut else body)
        if is_cut:
            self.close_connection = True

    def route(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        authorization = self.headers.get("Authorization")
        if path.startswith("/signed/"):
            self.server.told += [authorization] if authorization else []
            self.server.objects[path.removeprefix("/signed/")] = body
            return 200, {}, b""
        if authorization not in (None, f"Bearer {TOKEN}"):
            return 401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""
        may_write = authorization is not None
        if path in ("/api/whoami-v2", "/api/validate-yaml", "/api/repos/create"):
            if not may_write:
                return 401, {}, b""
            return self.account(path, json.loads(body or "{}"))
        is_deep = path.count("/") > 4 or "resolve" in path
        match = REPO.fullmatch(path if is_deep else f"{path}/")
        assert match is not None, path
        kind, name, rest = match.groups()
        key = f"datasets/{name}" if kind == "datasets" else name
        repository = self.server.repositories.get(key)
        rest = rest.rstrip("/") or "revision/main"
        if repository is None or (repository.is_private and not may_write):
            return 404 if may_write else 401, {"X-Error-Code": "RepoNotFound"}, b""
        if self.command == "POST" and not may_write:
            return 401, {}, b""
        verb, _, rest = rest.partition("/")
        return getattr(self, {"info": "lfs_batch"}.get(verb, verb))(repository, key, rest, body)

    def account(self, path: str, asked: dict) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/whoami-v2":
            return answer({"name": "user", "type": "user", "orgs": []})
        if path == "/api/validate-yaml":
            lines = asked["content"].split("\n")
            if lines[0] != "---" or "library_name: keras" not in lines[: lines.index("---", 1)]:
                return (
                    400,
                    {},
                    json.dumps({"errors": [{"message": "no header"}], "warnings": []}).encode(),
                )
            return answer({"errors": [], "warnings": []})
        name = f"{asked['organization']}/{asked['name']}"
        key = f"datasets/{name}" if asked.get("type") == "dataset" else name
        content = {"url": f"{self.server.url}/{key}"}
        if key in self.server.repositories:
            return 409, {}, json.dumps(content).encode()
        self.server.add(key, {}).is_private = asked.get("visibility") == "private" or bool(
            asked.get("private")
        )
        return answer(content)

    def revision(
        self, repository: Repository, key: str, revision: str, _: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        commit = repository.at(revision)
        if commit is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        siblings = [{"rfilename": name} for name in commit[2]]
        return answer(
            {
                "id": key.removeprefix("datasets/"),
                "sha": commit[0],
                "siblings": siblings,
                "tags": [],
            }
        )

    def tree(
        self, repository: Repository, key: str, rest: str, _: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        revision, folder = [*rest.split("/", 1), ""][:2]
        commit = repository.at(revision)
        assert commit is not None, revision
        files, prefix = commit[2], f"{folder}/" if folder else ""
        found, folders = [], set()
        for path, content in files.items():
            inside = path.removeprefix(prefix)
            if not path.startswith(prefix):
                continue
            if "/" in inside and ".." not in inside:
                folders.add(prefix + inside.split("/")[0])
                continue
            size = repository.claimed_sizes.get(path, len(content))
            found.append({"type": "file", "path": path, "size": size, "oid": git_hash(content)})
        found += [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)]
        return answer(found) if found else (404, {"X-Error-Code": "EntryNotFound"}, b"")

    def preupload(
        self, repository: Repository, key: str, _: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        files = []
        for asked in json.loads(body)["files"]:
            is_large, there = asked["path"].endswith(LARGE), repository.files.get(asked["path"])
            oid = (
                None
                if there is None
                else hashlib.sha256(there).hexdigest()
                if is_large
                else git_hash(there)
            )
            mode = {
                "uploadMode": "lfs" if is_large else "regular",
                "shouldIgnore": False,
                "oid": oid,
            }
            files.append({"path": asked["path"], **mode})
        return answer({"files": files})

    def lfs_batch(
        self, repository: Repository, key: str, _: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        objects = []
        for asked in json.loads(body)["objects"]:
            href = f"{self.server.url}/signed/{asked['oid']}?signature={SIGNATURE}"
            actions = (
                {}
                if asked["oid"] in self.server.objects
                else {"actions": {"upload": {"href": href}}}
            )
            objects.append({**asked, **actions})
        return answer({"transfer": "basic", "objects": objects})

    def commit(
        self, repository: Repository, key: str, _: str, body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        header, *changes = (json.loads(line) for line in body.splitlines())
        if (
            header["value"].get("parentCommit", repository.commits[-1][0])
            != repository.commits[-1][0]
        ):
            return (
                412,
                {"X-Error-Message": "A commit has happened since. Please refresh and try again."},
                b"",
            )
        files = dict(repository.files)
        for change in (change["value"] | {"key": change["key"]} for change in changes):
            is_large = change["key"] == "lfsFile"
            content = (
                self.server.objects[change["oid"]]
                if is_large
                else base64.b64decode(change["content"])
            )
            assert not is_large or hashlib.sha256(content).hexdigest() == change["oid"]
            files[change["path"]] = content
        oid = repository.commit(files, header["value"]["summary"])
        return answer(
            {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{self.server.url}/{key}/commit/{oid}",
            }
        )

    def resolve(
        self, repository: Repository, key: str, rest: str, _: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        revision, path = [*rest.split("/", 1), ""][:2]
        commit = repository.at(revision)
        if commit is None or path not in commit[2]:
            return (
                404,
                {"X-Error-Code": "RevisionNotFound" if commit is None else "EntryNotFound"},
                b"",
            )
        content = commit[2][path]
        headers = {
            "ETag": f'"{git_hash(content)}"',
            "X-Repo-Commit": commit[0],
            "Accept-Ranges": "bytes",
        }
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(wanted[1])
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return 206, headers, content[first:]
        return 200, headers, content

    def log_message(self, *_: object) -> None:
        pass


def answer(content: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@pytest.fixture
def loopback_hub(nothing_leaves, monkeypatch, tmp_path):
    """A running Hub that HF_ENDPOINT names, its token in HF_TOKEN, and a cache of the client's own
    in `tmp_path`.

    The client's settings are those of its documented variables, which it reads once: no telemetry,
    and no Xet, which is another protocol.
    """
    import huggingface_hub.constants

    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "HF_OIDC_RESOURCE",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET"):
        monkeypatch.setattr(huggingface_hub.constants, name, True)
        monkeypatch.setenv(name, "1")  # for processes that a test starts
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with LoopbackHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def naps(monkeypatch):
    """Seconds that were waited for between attempts; no time passes."""
    seconds = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


def small_bundle(folder: Path, **more: object) -> Path:
    """A complete bundle whose files hold next to nothing, for what never opens them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("model.h5", "scalers_v2.pkl", "predictions_v2.parquet")
    for name in names:
        (folder / name).write_bytes(f"{name} of {folder.name}".encode() * 100)
    (folder / "metrics_v2.json").write_text("{}")
    (folder / "training_log_v2.txt").write_text("log")
    content = {"verdict": "NO EDGE", "symbols": ["BTC/USDT"], **more}
    files.write_metadata(
        folder / "metadata_v2.json",
        content,
        hashed=[*names, "metrics_v2.json"],
        unhashed=["training_log_v2.txt"],
    )
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def amended(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """A bundle's files with another metadata."""
    metadata = json.loads(files["metadata_v2.json"]) | changes
    return files | {"metadata_v2.json": json.dumps(metadata).encode()}
