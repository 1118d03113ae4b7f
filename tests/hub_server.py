"""A Hub on 127.0.0.1 for tests: commits, branches, tags, private and gated repos, LFS, and faults on order.

    python tests/hub_server.py

Prints its address as one JSON line, and ends when its standard input does. It speaks what `huggingface_hub` 1 and 2
ask for without Xet (HF_HUB_DISABLE_XET=1): creating repos and refs, preupload, LFS batch, commit, tree, paths-info,
resolve with ranges. Beside that it has `/_control/...`, for tests only:

- `POST /_control/faults` with a list of `{"method", "path" (regular expression), "times", ...}` and one of
  `"status": 503`, `"cut_after": bytes of the body`, or `"stall_after": bytes of the body`; an empty list clears all;
- `POST /_control/release` lets stalled requests go on;
- `POST /_control/gate` with `{"repo": "owner/name"}` gates a model repo;
- `GET /_control/log` lists the requests and the stalls so far.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

# token -> (user, may write)
USERS = {
    "hf_token_of_me": ("me", True),
    "hf_token_of_a_reader": ("me", False),
    "hf_token_of_someone": ("someone", True),
}
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin")
CHUNK = 1 << 20


@dataclass(frozen=True)
class Blob:
    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def entry(self, path: str) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


Tree = dict[str, Blob]


@dataclass
class Repo:
    """Commits are whole trees that never change; branches, tags and pull requests name them."""

    kind: str
    name: str
    private: bool
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def add(self, tree: Tree) -> str:
        key = json.dumps([len(self.commits), self.name, {path: blob.etag for path, blob in tree.items()}])
        sha = hashlib.sha1(key.encode()).hexdigest()
        self.commits[sha] = tree
        return sha

    def resolve(self, revision: str) -> str | None:
        if revision in self.commits:
            return revision
        if match := re.fullmatch(r"refs/pr/(\d+)", revision):
            number = int(match[1])
            return self.requests[number - 1] if 0 < number <= len(self.requests) else None
        return self.branches.get(revision) or self.tags.get(revision)


class Refusal(Exception):
    """An answer that is an error, with the headers by which the client tells errors apart."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: str) -> None:
        self.status, self.body = status, body
        self.headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        super().__init__(message)


class Cut(Exception):
    """The connection is to break off here."""


class Hub:
    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.log: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.released = threading.Event()
        self.lock = threading.RLock()

    def fault(self, method: str, path: str) -> dict[str, Any]:
        """The first fault ordered for this request, used up once."""
        with self.lock:
            for fault in self.faults:
                if method in fault["method"].split() and re.search(fault["path"], path) and fault["times"]:
                    fault["times"] -= 1
                    return fault
        return {}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), parse_qs(parts.query)
        self.fault: dict[str, Any] = {}
        try:
            if not self.route.startswith("/_control/"):
                self.fault = self.hub.fault(self.command, self.route)
                self.note("request", range=self.headers.get("Range"))
            body = self.read_body()
            if "status" in self.fault:
                raise Refusal(self.fault["status"], "ordered by the test")
            for methods, pattern, answer in ROUTES:
                if self.command in methods.split() and (match := re.fullmatch(pattern, self.route)):
                    answer(self, body, *match.groups())
                    return
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            self.send(refusal.status, {"error": str(refusal), **refusal.body}, refusal.headers)
        except (Cut, ConnectionError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def note(self, event: str, **more: object) -> None:
        with self.hub.lock:
            self.hub.log.append({"event": event, "method": self.command, "path": self.route, **more})

    # bodies, whole or as ordered

    def read_body(self) -> bytes:
        body = bytearray()
        for piece in self.pieces():
            body += piece
            self.hold(len(body))
        return bytes(body)

    def pieces(self):
        """What the client sends, as it comes."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().strip() or b"0", 16):
                yield self.read_whole(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            yield self.read_whole(min(left, CHUNK))
            left -= min(left, CHUNK)

    def read_whole(self, size: int) -> bytes:
        piece = self.rfile.read(size)
        if len(piece) < size:
            self.note("incomplete body")
            raise Cut
        return piece

    def write_body(self, body: bytes) -> None:
        first = min(self.fault.get("stall_after", self.fault.get("cut_after", len(body))), len(body))
        self.wfile.write(body[:first])
        self.wfile.flush()
        self.hold(first)
        self.wfile.write(body[first:])

    def hold(self, done: int) -> None:
        """Stalls or cuts when that many bytes of the body are through, once, if that was ordered."""
        if done >= self.fault.get("cut_after", done + 1):
            raise Cut
        if done >= self.fault.get("stall_after", done + 1):
            self.fault = {}
            self.note("stalled")
            self.hub.released.wait(60)

    def send(self, status: int, body: object, headers: dict[str, str] | None = None) -> None:
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.write_body(body)
        elif self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass

    # who asks for what

    def user(self) -> tuple[str | None, bool]:
        """Name of the user and whether the token may write; refuses tokens that are none."""
        header = self.headers.get("Authorization")
        if header is None:
            return None, False
        if (token := header.removeprefix("Bearer ")) not in USERS:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return USERS[token]

    def repo(self, kind: str, name: str, *, content: bool = False) -> Repo:
        """A repo that the user can see; like the Hub it does not tell private ones from those that are not there."""
        user, _ = self.user()
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and repo.owner != user):
            raise Refusal(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if content and repo.gated and repo.owner != user:
            message = f"Access to model {name} is restricted."
            raise Refusal(401 if user is None else 403, message, "GatedRepo")
        return repo

    def writer(self, owner: str) -> None:
        user, writes = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if user != owner or not writes:
            raise Refusal(403, "You don't have the rights to do this")

    def tree(self, repo: Repo, revision: str) -> tuple[str, Tree]:
        sha = repo.resolve(revision)
        if sha is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, repo.commits[sha]

    # the API

    def whoami(self, body: bytes) -> None:
        user, _ = self.user()
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        self.send(200, {"type": "user", "name": user, "orgs": [], "auth": {}})

    def validate_yaml(self, body: bytes) -> None:
        content = json.loads(body)["content"]
        errors = []
        if match := re.match(r"---\n(.*?)\n---", content, re.DOTALL):
            try:
                if not isinstance(yaml.safe_load(match[1]), dict):
                    errors = [{"message": "metadata must be a mapping"}]
            except yaml.YAMLError as error:
                errors = [{"message": str(error)}]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def create_repo(self, body: bytes) -> None:
        order = json.loads(body)
        user, _ = self.user()
        name, kind = f"{order.get('organization') or user}/{order['name']}", order.get("type") or "model"
        self.writer(name.split("/")[0])
        url = f"{self.address}/{'datasets/' if kind == 'dataset' else ''}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repos:
                raise Refusal(409, "You already created this repo", url=url)
            private = order.get("visibility") == "private" or bool(order.get("private"))
            repo = self.hub.repos[kind, name] = Repo(kind, name, private)
            repo.branches["main"] = repo.add({".gitattributes": Blob(b"*.safetensors filter=lfs\n", False)})
        self.send(200, {"url": url, "name": name, "id": name})

    def create_ref(self, body: bytes, kind: str, name: str, what: str, ref: str) -> None:
        repo = self.repo(kind, name)
        self.writer(repo.owner)
        order = json.loads(body)
        refs, new = (repo.branches, ref) if what == "branch" else (repo.tags, order.get("tag"))
        if new in refs:
            raise Refusal(409, "Reference already exists")
        refs[new], _ = self.tree(repo, order.get("startingPoint", "main") if what == "branch" else ref)
        self.send(200, {})

    def refs(self, body: bytes, kind: str, name: str) -> None:
        repo = self.repo(kind, name)
        lists = {
            key: [
                {"name": ref, "ref": f"refs/{kind}/{ref}", "targetCommit": sha} for ref, sha in refs.items()
            ]
            for key, kind, refs in (("branches", "heads", repo.branches), ("tags", "tags", repo.tags))
        }
        self.send(200, {**lists, "converts": []})

    def info(self, body: bytes, kind: str, name: str, revision: str | None) -> None:
        repo = self.repo(kind, name)
        sha, tree = self.tree(repo, revision or "main")
        card = tree.get("README.md", Blob(b"", False)).content.decode()
        match = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
        self.send(
            200,
            {
                "id": name,
                "modelId": name,
                "sha": sha,
                "private": repo.private,
                "gated": repo.gated,
                "tags": [],
                "cardData": yaml.safe_load(match[1]) if match else {},
                "siblings": [{"rfilename": path} for path in sorted(tree)],
            },
        )

    def list_tree(self, body: bytes, kind: str, name: str, revision: str, folder: str | None) -> None:
        _, tree = self.tree(self.repo(kind, name), revision)
        prefix = f"{folder.strip('/')}/" if folder else ""
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(path for path in tree if path.startswith(prefix)):
            steps = path[len(prefix) :].split("/")
            for depth in range(1, len(steps) if deep else min(len(steps), 2)):
                parent = prefix + "/".join(steps[:depth])
                found[parent] = {"type": "directory", "path": parent, "size": 0, "oid": "0" * 40}
            if deep or len(steps) == 1:
                found[path] = tree[path].entry(path)
        if prefix and not found:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        self.send(200, list(found.values()))

    def paths_info(self, body: bytes, kind: str, name: str, revision: str) -> None:
        _, tree = self.tree(self.repo(kind, name), revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        paths = (json.loads(body) if is_json else parse_qs(body.decode())).get("paths", [])
        self.send(200, [tree[path].entry(path) for path in paths if path in tree])

    def preupload(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        if "create_pr" not in self.query:
            self.writer(repo.owner)
        _, tree = self.tree(repo, revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": False,
                "oid": tree[file["path"]].etag if file["path"] in tree else None,
            }
            for file in json.loads(body)["files"]
        ]
        self.send(200, {"files": files})

    def large_batch(self, body: bytes, kind: str | None, name: str) -> None:
        self.repo("dataset" if kind else "model", name)
        objects = []
        for item in json.loads(body)["objects"]:
            href = {"href": f"{self.address}/lfs/{item['oid']}", "header": {}}
            known = item["oid"] in self.hub.large
            objects.append(
                {"oid": item["oid"], "size": item["size"]} | ({} if known else {"actions": {"upload": href}})
            )
        self.send(200, {"transfer": "basic", "objects": objects})

    def large_put(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content does not have this hash")
        self.hub.large[oid] = body
        self.send(200, b"")

    def commit(self, body: bytes, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        propose = "create_pr" in self.query
        if not propose:
            self.writer(repo.owner)
        elif self.user()[0] is None:
            raise Refusal(401, "Invalid username or password.")
        with self.hub.lock:
            _, parent = self.tree(repo, revision)
            sha = repo.add(self.changed(dict(parent), [json.loads(line) for line in body.splitlines()]))
            if propose:
                repo.requests.append(sha)
            elif revision in repo.branches:
                repo.branches[revision] = sha
            else:
                repo.requests[int(revision.rpartition("/")[2]) - 1] = sha
        url = f"{self.address}/{'datasets/' if kind == 'dataset' else ''}{name}"
        request = f"{url}/discussions/{len(repo.requests)}" if propose else None
        self.send(
            200,
            {
                "success": True,
                "commitOid": sha,
                "commitUrl": f"{url}/commit/{sha}",
                "pullRequestUrl": request,
            },
        )

    def changed(self, tree: Tree, operations: list[dict[str, Any]]) -> Tree:
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                tree[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.large:
                    raise Refusal(400, f"the content of {value['path']} was never uploaded")
                tree[value["path"]] = Blob(self.hub.large[value["oid"]], True)
            elif operation["key"] == "deletedFile":
                del tree[value["path"]]
            elif operation["key"] != "header":
                raise Refusal(400, f"unknown operation {operation['key']}")
        return tree

    def resolve(self, body: bytes, kind: str | None, name: str, revision: str, path: str) -> None:
        repo = self.repo("dataset" if kind else "model", name, content=True)
        sha, tree = self.tree(repo, revision)
        if path not in tree:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        blob = tree[path]
        headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:  # as on the Hub, large files lie on another host, which gets no token
            headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
            elsewhere = f"http://localhost:{self.server.server_address[1]}"
            self.send(302, b"", {**headers, "Location": f"{elsewhere}/lfs/{blob.sha256}"})
            return
        self.send_range(blob.content, headers)

    def large_get(self, body: bytes, oid: str) -> None:
        if oid not in self.hub.large:
            raise Refusal(404, "no such object")
        if "Authorization" in self.headers:
            raise Refusal(400, "a token was sent to the host of the large files")
        self.send_range(self.hub.large[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def send_range(self, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if self.command == "HEAD":
            self.send(200, b"", {**headers, "Content-Length": str(len(content))})
        elif wanted:
            start, end = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            span = f"bytes {start}-{end}/{len(content)}"
            self.send(206, content[start : end + 1], {**headers, "Content-Range": span})
        else:
            self.send(200, content, headers)

    # for tests only

    def control(self, body: bytes, what: str) -> None:
        hub = self.hub
        with hub.lock:
            if what == "faults":
                hub.faults = [{"times": -1, **fault} for fault in json.loads(body)]
                hub.released.clear()
            elif what == "release":
                hub.released.set()
            elif what == "gate":
                hub.repos["model", json.loads(body)["repo"]].gated = True
            self.send(200, hub.log if what == "log" else {})

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"


KIND, NAME, REVISION = "(model|dataset)s", "([^/]+/[^/]+?)", "(refs/pr/[0-9]+|[^/]+)"
API = f"/api/{KIND}/{NAME}"
ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", "/api/repos/create", Handler.create_repo),
    ("POST", f"{API}/(branch|tag)/{REVISION}", Handler.create_ref),
    ("GET", f"{API}/refs", Handler.refs),
    ("GET", f"{API}(?:/revision/{REVISION})?", Handler.info),
    ("GET", f"{API}/tree/{REVISION}(/.*)?", Handler.list_tree),
    ("POST", f"{API}/paths-info/{REVISION}", Handler.paths_info),
    ("POST", f"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", f"{API}/commit/{REVISION}", Handler.commit),
    ("POST", f"/(datasets/)?{NAME}\\.git/info/lfs/objects/batch", Handler.large_batch),
    ("PUT", "/lfs/([0-9a-f]{64})", Handler.large_put),
    ("GET HEAD", "/lfs/([0-9a-f]{64})", Handler.large_get),
    ("GET HEAD", f"/(datasets/)?{NAME}/resolve/{REVISION}/(.+)", Handler.resolve),
    ("GET POST", "/_control/(faults|release|gate|log)", Handler.control),
]


def main() -> None:
    Handler.hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"address": f"http://127.0.0.1:{server.server_address[1]}"}), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
