"""A stand-in Hub: the mirror's protocol with accounts, a separate storage host, a record of requests, and faults.

    with HubServer() as hub:
        repo = hub.add_repo("owner/tiny-GGUF", {"tiny-Q4_K_M.gguf": path, "README.md": "# Tiny"}, license="mit")
        hub.endpoint                       # for HF_ENDPOINT, or Hub(hub.endpoint)
        repo.commit                        # what `main` means now

Like the real Hub it responds to `resolve` of an LFS file with a 302 to a signed link on another host (another port
here, `hub.storage_endpoint`), and of a small file with a 307 to a path of its own. The storage host refuses a request
that carries a token, and has an ETag of its own.

Accounts: `hub.add_token("hf_x", name="ann", access={"owner/gated"})` gives a token; `access` lists the gated repos it
was granted and the private repos it sees. An unknown token is refused everywhere.

Record: `hub.requests` holds every `Request` (side, method, path, headers, status, bytes sent); `hub.count("tiny")`,
`hub.sent("tiny")`; `hub.wait_until(lambda: hub.sent("tiny") > 1000)` waits for it to become true, without polling.

Faults: `hub.fault(Reset(after=1000), on="tiny-Q4_K_M.gguf", side="storage", times=2)` applies to the next `times`
requests (None: to all until `hub.clear()`) whose path contains `on`. Several may apply to one request. The faults are
defined in hub_faults.py and can be imported from here. `hub.latency` (seconds) delays every response of the Hub, and
`hub.expire_links()` ends every link given so far.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import ipaddress
import json
import os
import shutil
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from typing_extensions import Self

from llm_hf_models.hub.refs import RepoId
from llm_hf_models.servers.catalog import ServedFile, ServedRepo
from llm_hf_models.servers.http_errors import HttpResponseError
from llm_hf_models.servers.hub_mirror import build_file_headers, find_file
from llm_hf_models.system.hashing import compute_digests
from tests.support.http_handler import BaseHttpHandler, BaseHttpServer
from tests.support.hub_faults import (
    Compress,
    Delay,
    EditJson,
    Fault,
    FlipBit,
    Headers,
    IgnoreRange,
    LieAboutRange,
    Page,
    Reset,
    Stall,
    Status,
    Throttle,
    Truncate,
)
from tests.support.hub_handler import HubHandler

if TYPE_CHECKING:
    import pytest  # the benchmarks use this server without it

__all__ = [
    "BLOCK_BYTES",
    "Account",
    "Compress",
    "Delay",
    "EditJson",
    "Fault",
    "FlipBit",
    "Headers",
    "HubServer",
    "IgnoreRange",
    "LieAboutRange",
    "Page",
    "Request",
    "Reset",
    "Side",
    "Stall",
    "Status",
    "Throttle",
    "Truncate",
]

Side = Literal["hub", "storage"]
BLOCK_BYTES = 16 * 1024  # how much is sent at once if a fault may apply,
CALM_BYTES = 1 << 20  # and if none does
LFS_ENDINGS = (".gguf", ".safetensors", ".bin")


@dataclass
class Request:
    """One received request and its response. `headers` has lower-case names."""

    side: Side
    method: str
    path: str  # with its query, not unquoted
    headers: dict[str, str]
    status: int = 0
    sent: int = 0  # bytes of the body


@dataclass(frozen=True)
class Account:
    """The owner of a token."""

    name: str = "ann"
    kind: Literal["read", "write", "fineGrained"] = "read"
    token_name: str = "laptop"
    organisations: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()  # permissions of a fine-grained token
    access: frozenset[str] = frozenset()  # gated repos granted, private repos seen


@dataclass
class _PlannedFault:
    fault: Fault
    on: str
    side: Side | None
    method: str | None
    times: int | None


class HubServer:
    """A stand-in Hub; a context manager. See the module's docstring.

    Args:
        storage: LFS files are on a host of their own; False serves them from the Hub itself.
        tls: Both hosts use HTTPS with a certificate that only `ca_file` verifies.
        latency: Delay in seconds of every response of the Hub (not of the storage host).
    """

    def __init__(self, *, storage: bool = True, tls: bool = False, latency: float = 0.0) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hub-"))
        self.latency = latency
        self.closing = threading.Event()
        self.ca_file = self.folder / "ca.pem"
        self._repos: list[ServedRepo] = []
        self.collections: dict[str, dict[str, object]] = {}
        self._accounts: dict[str, Account] = {}
        self._requests: list[Request] = []
        self._faults: list[_PlannedFault] = []
        self._stalls: list[Stall] = []
        self._changed = threading.Condition()
        self._other_names: dict[str, tuple[str, bool]] = {}
        self._links_from, self._secret, self._tls = 0, os.urandom(16), tls
        context = write_certificate(self.ca_file) if tls else None
        self._hub = _listen(self, _HubSide, context)
        self._storage = _listen(self, _StorageSide, context) if storage else None

    @property
    def endpoint(self) -> str:
        """The Hub's address, for HF_ENDPOINT."""
        return self._address(self._hub)

    @property
    def storage_endpoint(self) -> str:
        """The storage host's address; the Hub's own if there is none."""
        return self._address(self._storage or self._hub)

    def _address(self, server: BaseHttpServer) -> str:
        # Another port is another origin to every client; `localhost` would be another name of the same one.
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{server.server_address[1]}"

    def __enter__(self) -> Self:
        for server in self._servers():
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.clear()
        for server in self._servers():
            server.shutdown()
            server.server_close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _servers(self) -> list[BaseHttpServer]:
        return [self._hub, *([self._storage] if self._storage else [])]

    # Its content

    def list_repos(self) -> list[ServedRepo]:
        """Return every commit of every repo, the newest first, as the mirror's catalogue."""
        with self._changed:
            return list(self._repos)

    def add_repo(
        self, repo_id: str, files: Mapping[str, bytes | str | Path], *, lfs: Collection[str] | None = None, **about: Any
    ) -> ServedRepo:
        """Add a repo, or a new commit of one: `main` moves to it, the older commit keeps its other names.

        Args:
            repo_id: owner/name.
            files: By path; a Path is served in place, text and bytes are written to a folder of the Hub.
            lfs: Paths that are LFS files; by default those that end in .gguf, .safetensors or .bin.
            about: More fields of ServedRepo: task, tags, license, gated, private, downloads, gguf, base_models, …
        """
        served = tuple(self._served(path, data, lfs) for path, data in sorted(files.items()))
        content = json.dumps([repo_id, len(self.list_repos()), [(file.path, file.etag) for file in served]])
        commit = hashlib.sha1(content.encode()).hexdigest()
        repo = replace(ServedRepo(repo_id, commit, served, updated=time.time()), **about)
        with self._changed:
            older = [self._without_main(old) if old.id == repo_id else old for old in self._repos]
            self._repos = [repo, *older]
        return repo

    @staticmethod
    def _without_main(repo: ServedRepo) -> ServedRepo:
        return replace(repo, revisions=tuple(name for name in repo.revisions if name != "main"))

    def _served(self, path: str, data: bytes | str | Path, lfs: Collection[str] | None) -> ServedFile:
        if not isinstance(data, Path):
            location = Path(tempfile.mkdtemp(dir=self.folder)) / "file"
            location.write_bytes(data.encode() if isinstance(data, str) else data)
            data = location
        digests = compute_digests(data)
        is_lfs = path.endswith(LFS_ENDINGS) if lfs is None else path in lfs
        sha256 = digests.sha256 if is_lfs else None
        return ServedFile(path, data, data.stat().st_size, sha256, None if is_lfs else digests.git_sha1)

    def add_collection(self, slug: str, items: Collection[object], *, title: str = "", description: str = "") -> None:
        """Add or replace a collection.

        Args:
            slug: owner/title-ID.
            items: Each is a pair of kind and id, or three with a note, or any JSON value, which is sent as it is.
            title: Its title.
            description: Its description.
        """
        self.collections[slug] = {
            "slug": slug, "title": title, "description": description, "owner": {"name": slug.partition("/")[0]},
            "items": [_make_collection_item(number, item) for number, item in enumerate(items)],
            "lastUpdated": "2026-01-01T00:00:00.000Z", "position": 0, "private": False, "theme": "blue", "upvotes": 3,
        }  # fmt: skip

    def change_file(self, repo: ServedRepo, path: str, data: bytes) -> ServedRepo:
        """Change the bytes at the same commit and path, which a real Hub never does and a client must not mix."""
        changed = tuple(self._served(path, data, None) if file.path == path else file for file in repo.files)
        return self.change_repo(repo, files=changed)

    def report(self, repo: ServedRepo, path: str, status: str, **scanners: str) -> ServedRepo:
        """Set the scan results of a file: the summary, and each scanner's by the Hub's name, as `status` or `status:
        words`."""
        words = []
        for name, output in scanners.items():
            word, _, message = output.partition(": ")
            words.append((name, word, message))
        changed = [
            replace(file, scan=status, scanners=tuple(words)) if file.path == path else file for file in repo.files
        ]
        return self.change_repo(repo, files=tuple(changed))

    def change_repo(self, repo: ServedRepo, **about: Any) -> ServedRepo:
        """Change facts about the same commit."""
        new = replace(repo, **about)
        with self._changed:
            self._repos = [new if old.commit == repo.commit else old for old in self._repos]
        return new

    def remove_repo(self, repo_id: str) -> None:
        """Remove a repo."""
        with self._changed:
            self._repos = [repo for repo in self._repos if repo.id != repo_id]

    def add_other_name(self, other: str, repo_id: str, *, redirect: bool) -> None:
        """Serve a repo under another name too: an earlier one, or one in other capitals.

        Args:
            other: The other name.
            repo_id: The repo's name in the responses.
            redirect: Redirect with 307, instead of responding at once.
        """
        self._other_names[other] = repo_id, redirect

    def find_other_name(self, name: str) -> tuple[str, bool] | None:
        """Return the name of the repo with another name, and whether requests for it are redirected."""
        return self._other_names.get(name)

    def rename_repo(self, old: str, new: str) -> None:
        """Rename a repo. The old name redirects to the new one."""
        with self._changed:
            self._repos = [replace(repo, id=new) if repo.id == old else repo for repo in self._repos]
        self._other_names.pop(new, None)
        self.add_other_name(old, new, redirect=True)

    def add_token(self, token: str = "hf_test_token", **account: Any) -> str:
        """Add a token that the Hub accepts. `account` are fields of Account; `access` any collection of repo ids."""
        access = frozenset(account.pop("access", ()))
        self._accounts[token] = Account(access=access, **account)
        return token

    def revoke_token(self, token: str) -> None:
        """Stop accepting a token."""
        del self._accounts[token]

    def account_of(self, authorization: str | None) -> Account | None:
        """Return the account of a header's token; None without a header.

        Raises:
            RefusedError: The token is unknown.
        """
        if authorization is None:
            return None
        account = self._accounts.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise HttpResponseError(401, None, "Invalid credentials in Authorization header")
        return account

    # Record

    @property
    def requests(self) -> list[Request]:
        """Every request so far, in the order of arrival."""
        with self._changed:
            return list(self._requests)

    def matching(self, on: str = "", *, side: Side | None = None, method: str | None = None) -> list[Request]:
        """Return the requests whose unquoted path contains `on`."""
        return [
            request
            for request in self.requests
            if on in unquote(request.path) and side in (None, request.side) and method in (None, request.method)
        ]

    def count(self, on: str = "", *, side: Side | None = None, method: str | None = None) -> int:
        """Return the number of requests."""
        return len(self.matching(on, side=side, method=method))

    def sent(self, on: str = "", *, side: Side | None = None) -> int:
        """Return the number of body bytes sent to them."""
        return sum(request.sent for request in self.matching(on, side=side))

    def forget_requests(self) -> None:
        """Clear the record."""
        with self._changed:
            self._requests.clear()

    def wait_until(self, true: Callable[[], bool], seconds: float = 20) -> None:
        """Wait until a condition on the record is true, checked whenever a request or a block of bytes has moved."""
        with self._changed:
            assert self._changed.wait_for(true, seconds), "the condition on the Hub's requests was not met in time"

    # Faults

    def fault(
        self, fault: Fault, *, on: str = "", side: Side | None = None, method: str | None = None, times: int | None = 1
    ) -> None:
        """Plan a fault for the next `times` requests (None: for all) whose unquoted path contains `on`."""
        with self._changed:
            self._faults.append(_PlannedFault(fault, on, side, method, times))

    def clear(self) -> None:
        """Remove all planned faults, and continue stalled responses."""
        with self._changed:
            self._faults.clear()
            stalls, self._stalls = self._stalls, []
        for stall in stalls:
            stall.release.set()

    def expire_links(self) -> None:
        """Expire every link to the storage host given so far."""
        with self._changed:
            self._links_from += 1

    # For the handlers below

    def signed(self, repo: ServedRepo, file: ServedFile) -> str:
        """Return a link to the storage host that expires."""
        path = quote(f"/{repo.id}/{repo.commit}/{file.path}")
        return f"{self.storage_endpoint}{path}?{urlencode(self._signature(path, self._links_from))}"

    def _signature(self, path: str, number: int) -> dict[str, str]:
        signature = hmac.new(self._secret, f"{path} {number}".encode(), "sha256").hexdigest()
        return {"Expires": str(number), "Signature": signature}

    def check_link(self, url: str) -> None:
        """Raise RefusedError if a link is unknown or has expired."""
        parts = urlsplit(url)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if given != self._signature(parts.path, self._links_from):
            raise HttpResponseError(403, None, "Request has expired")

    def arrived(self, request: Request) -> list[Fault]:
        """Record a request; return its faults."""
        faults: list[Fault] = []
        with self._changed:
            self._requests.append(request)
            for planned in self._faults:
                suggested = planned.on in unquote(request.path) and planned.side in (None, request.side)
                if suggested and planned.method in (None, request.method) and planned.times != 0:
                    planned.times = planned.times and planned.times - 1
                    faults.append(planned.fault)
            self._stalls += [fault for fault in faults if isinstance(fault, Stall)]
            self._changed.notify_all()
        return faults

    def moved(self, request: Request, count: int) -> None:
        """Record sent bytes."""
        with self._changed:
            request.sent += count
            self._changed.notify_all()


def _make_collection_item(position: int, item: object) -> object:
    """Return an item of a collection as the Hub sends it. A collection's `id` is not its slug."""
    if not isinstance(item, tuple):
        return item
    kind, name, *note = item
    names = {"id": f"{position:024x}", "slug": name} if kind == "collection" else {"id": name}
    notes = {"note": {"html": f"<p>{note[0]}</p>", "text": note[0]}} if note else {}
    return {"_id": f"{position:024x}", "type": kind, "position": position, **names, **notes}


class _Server(BaseHttpServer):
    def __init__(self, hub: HubServer, handler: type[_FaultHandler]) -> None:
        self.hub = hub
        super().__init__(("127.0.0.1", 0), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that ends a TLS handshake is expected; any other error is a bug that should be seen."""
        if not isinstance(sys.exc_info()[1], ssl.SSLError | ConnectionError):
            super().handle_error(request, client_address)


class _HubHandler(BaseHttpHandler):
    @property
    def hub(self) -> HubServer:
        server = self.server
        assert isinstance(server, _Server)
        return server.hub


class _FaultHandler(_HubHandler):
    """A handler that records every request and applies faults before and during the response."""

    side: Side
    request_record: Request
    faults: list[Fault]

    def respond(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.request_record = Request(self.side, self.command, self.path, headers)
        self.faults = self.hub.arrived(self.request_record)
        if self.side == "hub" and self.hub.latency:
            self.hub.closing.wait(self.hub.latency)
        for fault in self.faults:
            self._before(fault)
        if not self.request_record.status:
            super().respond()

    def _before(self, fault: Fault) -> None:
        if isinstance(fault, Delay):
            self.hub.closing.wait(fault.seconds)
        elif isinstance(fault, Stall) and fault.after is None:
            fault.release.wait()
        elif isinstance(fault, Reset) and fault.after is None:
            self._reset()
        elif isinstance(fault, Status):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))  # the next request follows it
            self.send_bytes(fault.code, fault.body, {"Content-Type": fault.content_type, **fault.headers})
        elif isinstance(fault, Page):
            self.send_bytes(200, fault.body, {"Content-Type": "text/html"})
        elif isinstance(fault, IgnoreRange):
            del self.headers["Range"]

    def _reset(self) -> None:
        self.connection.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        raise ConnectionResetError

    def send_response(self, code: int, message: str | None = None) -> None:
        self.request_record.status = code
        super().send_response(code, message)

    def send_header(self, keyword: str, value: str) -> None:
        for fault in self.faults:
            if isinstance(fault, Headers):
                replaced = {name.lower(): new for name, new in fault.values.items()}
                value = replaced.get(keyword.lower(), value).replace("{n}", str(self.hub.count()))
                if keyword == "Content-Length" and not value:
                    self.close_connection = True  # the end of the connection is the end of the body
            if isinstance(fault, LieAboutRange) and keyword == "Content-Range" and "-" in value:
                span, total = value.removeprefix("bytes ").split("/")
                first, last = (int(number) + fault.by for number in span.split("-"))
                value = f"bytes {first}-{last}/{total}"
        if value:
            super().send_header(keyword, value)

    def send_file(self, path: Path, size: int, etag: str, headers: Mapping[str, str]) -> None:
        compress = next((fault for fault in self.faults if isinstance(fault, Compress)), None)
        if compress is None:
            super().send_file(path, size, etag, headers)
        elif compress.only_claim:
            super().send_file(path, size, etag, {**headers, "Content-Encoding": "gzip"})
        else:
            body = gzip.compress(path.read_bytes(), 1)
            self.send_bytes(200, body, {**headers, "Content-Encoding": "gzip", "ETag": f'W/"{etag}"'})

    def send_json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        edits = [fault.edit for fault in self.faults if isinstance(fault, EditJson)]
        if edits:
            self.send_bytes(200, edits[-1](value), {"Content-Type": "application/json", **(headers or {})})
        else:
            super().send_json(value, headers)

    def send_bytes(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.hub.moved(self.request_record, 0 if self.command == "HEAD" else len(body))
        super().send_bytes(status, body, headers)

    def send_range(self, file: BinaryIO, start: int, length: int) -> None:
        faults = any(isinstance(fault, Reset | Truncate | Stall | Throttle | FlipBit) for fault in self.faults)
        sent = 0
        while sent < length:
            self._at(sent)
            size = min(self._next_stop(sent, length) - sent, BLOCK_BYTES if faults else CALM_BYTES)
            # Recorded first: a client that has the bytes may read the record at once.
            self.hub.moved(self.request_record, size)
            if faults:
                self.wfile.write(self._weathered(file, start + sent, size))
            elif isinstance(self.connection, ssl.SSLSocket):
                file.seek(start + sent)
                self.wfile.write(file.read(size))  # in records of full size, as storage hosts do; sendfile halves them
            else:
                super().send_range(file, start + sent, size)
            sent += size

    def _next_stop(self, sent: int, length: int) -> int:
        stops = [fault.after for fault in self.faults if isinstance(fault, Reset | Truncate | Stall)]
        return min([stop for stop in stops if stop is not None and sent < stop < length], default=length)

    def _weathered(self, file: BinaryIO, at: int, size: int) -> bytes:
        file.seek(at)
        block = bytearray(file.read(size))
        for fault in self.faults:
            if isinstance(fault, FlipBit) and at <= fault.at < at + size:
                block[fault.at - at] ^= 1 << fault.bit
            if isinstance(fault, Throttle):
                self.hub.closing.wait(size / fault.bytes_per_second)
        return bytes(block)

    def _at(self, done: int) -> None:
        for fault in self.faults:
            if isinstance(fault, Stall) and fault.after == done:
                fault.release.wait()
            if isinstance(fault, Reset) and fault.after == done:
                self._reset()
            if isinstance(fault, Truncate) and fault.after == done:
                raise ConnectionAbortedError


class _HubSide(_FaultHandler, HubHandler):
    side: Side = "hub"

    def dispatch(self, parts: list[str]) -> None:
        self.hub.account_of(self.headers.get("Authorization"))
        position = 2 if parts[:2] == ["api", "models"] else 0
        name = "/".join(parts[position : position + 2])
        if other := self.hub.find_other_name(name):
            if other[1]:
                location = self.path.replace(f"/{name}", f"/{other[0]}", 1)
                self.send_bytes(307, b"Temporary Redirect", {"Location": location, "Connection": "close"})
                self.close_connection = True
                return
            parts = [*parts[:position], *other[0].split("/"), *parts[position + 2 :]]
        match parts:
            case ["api", "resolve-cache", "models", owner, name, commit, *path]:
                repo = self.find_repo(owner, name, commit)
                self._send_here(repo, find_file(repo, "/".join(path)))
            case _:
                super().dispatch(parts)

    def _account(self) -> Account | None:
        return self.hub.account_of(self.headers.get("Authorization"))

    def _sees(self, repo: ServedRepo) -> bool:
        account = self._account()
        return not repo.private or (account is not None and repo.id in account.access)

    def find_commits(self, repo: RepoId) -> list[ServedRepo]:
        return [served for served in self.hub.list_repos() if served.id == str(repo) and self._sees(served)]

    def list_repos(self) -> list[ServedRepo]:
        return [served for served in self.hub.list_repos() if self._sees(served)]

    def make_repo_not_found_error(self) -> HttpResponseError:
        if self._account() is None:  # the Hub does not reveal to a stranger what exists
            return HttpResponseError(401, "RepoNotFound", "Invalid username or password.")
        return super().make_repo_not_found_error()

    def send_account(self) -> None:
        account = self._account()
        if account is None:
            raise HttpResponseError(401, None, "Invalid username or password.")
        scoped = [{"entity": {"type": "user", "name": account.name}, "permissions": list(account.scopes)}]
        token: dict[str, object] = {"displayName": account.token_name, "role": account.kind}
        if account.kind == "fineGrained":
            token["fineGrained"] = {"global": [], "scoped": scoped}
        orgs = [{"type": "org", "name": name} for name in account.organisations]
        self.send_json({
            "type": "user", "name": account.name, "orgs": orgs, "auth": {"type": "access_token", "accessToken": token},
        })  # fmt: skip

    def send_collection(self, slug: str) -> None:
        found = self.hub.collections.get(slug)
        if found is None:
            raise HttpResponseError(404, None, "Collection not found")
        self.send_json(found)

    def send_repo_file(self, repo: ServedRepo, file: ServedFile) -> None:
        self._check_gate(repo)
        linked = {**build_file_headers(repo, file), "X-Linked-Etag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
        if file.sha256 and self.hub._storage:
            self.send_bytes(302, b"Found", {**linked, "Location": self.hub.signed(repo, file)})
        elif file.sha256:
            self._send_here(repo, file)
        else:
            path = quote(f"/api/resolve-cache/models/{repo.id}/{repo.commit}/{file.path}")
            self.send_bytes(307, b"Temporary Redirect", {**linked, "Location": path})

    def _send_here(self, repo: ServedRepo, file: ServedFile) -> None:
        self._check_gate(repo)
        self.send_file(file.location, file.size, file.etag, build_file_headers(repo, file))

    def _check_gate(self, repo: ServedRepo) -> None:
        account = self._account()
        if not repo.gated or (account and repo.id in account.access):
            return
        start = f"Access to model {repo.id} is restricted"
        if account is None:
            raise HttpResponseError(401, "GatedRepo", f"{start}. You must have access to it and be authenticated.")
        raise HttpResponseError(403, "GatedRepo", f"{start} and you are not in the authorized list.")


class _Storage(_HubHandler):
    def respond(self) -> None:
        if "Authorization" in self.headers:  # as S3 does: a test sees a leaked token at once
            raise HttpResponseError(400, None, "Only one auth mechanism allowed")
        self.hub.check_link(self.path)
        owner, name, commit, path = unquote(urlsplit(self.path).path).split("/", 4)[1:]
        for repo in self.hub.list_repos():
            if (repo.id, repo.commit) == (f"{owner}/{name}", commit) and (file := repo.find_file(path)):
                own_etag = hashlib.sha1(file.etag.encode()).hexdigest()[:32] + "-2"
                self.send_file(file.location, file.size, own_etag, {})
                return
        raise HttpResponseError(404, None, "NoSuchKey")


class _StorageSide(_FaultHandler, _Storage):
    side: Side = "storage"


@contextmanager
def run_hub(monkeypatch: pytest.MonkeyPatch, **settings: str) -> Iterator[HubServer]:
    """Provide a Hub that the environment points to, with settings for this test by their names."""
    with HubServer() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        for name, value in settings.items():
            monkeypatch.setenv(f"LLM_HF_{name.upper()}", value)
        yield hub


@contextmanager
def stall_after(hub: HubServer, file: str, count: int) -> Iterator[threading.Event]:
    """Let the storage host stall after `count` bytes of a file; the event is set then."""
    hub.forget_requests()
    hub.fault(Stall(after=count), on=file, side="storage", times=None)
    fell = threading.Event()
    watcher = threading.Thread(
        target=lambda: (hub.wait_until(lambda: hub.sent(file, side="storage") >= count), fell.set())
    )
    watcher.start()
    yield fell
    watcher.join()
    hub.clear()


def _listen(hub: HubServer, handler: type[_FaultHandler], context: ssl.SSLContext | None) -> BaseHttpServer:
    server = _Server(hub, handler)
    if context is not None:
        # The handshake runs in the connection's own thread: a client that refuses must not block the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    return server


def write_certificate(path: Path) -> ssl.SSLContext:
    """Write a self-signed certificate for 127.0.0.1 and localhost to `path`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "the tests' Hub")])
    names = [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path = path.with_name("key.pem")
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, key_path)
    return context
