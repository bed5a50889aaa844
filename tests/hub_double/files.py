"""Reading a repository: trees, paths, and files by way of a second host, as from a content network."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from .accounts import readable
from .refusals import Refusal, only_parameters
from .storage import Storage
from .store import Commit, Entry, Repository, Store

PAGE = 50


class Files:
    def __init__(self, store: Store, storage: Storage, endpoint: str) -> None:
        self.store, self.storage, self.endpoint = store, storage, endpoint

    def routes(self) -> list[Route]:
        one = "/api/{type}/{namespace}/{name}"
        file = "/{namespace}/{name}/resolve/{revision:escaped}/{path:file}"
        return [
            Route(f"{one}/tree/{{revision:escaped}}", self.tree),
            Route(f"{one}/tree/{{revision:escaped}}/{{path:file}}", self.tree),
            Route(f"{one}/paths-info/{{revision:escaped}}", self.paths_info, methods=["POST"]),
            Route("/{type}" + file, self.resolve, methods=["GET", "HEAD"]),
            Route(file, self.resolve, methods=["GET", "HEAD"]),
        ]

    async def tree(self, request: Request) -> Response:
        only_parameters(request, {"recursive", "expand", "limit", "cursor"})
        repository = readable(request, self.store)
        commit = repository.find(request.path_params["revision"])
        folder = request.path_params.get("path", "").strip("/")
        inside = f"{folder}/" if folder else ""
        entries = self._entries(repository, commit, inside, _true(request, "recursive"), _true(request, "expand"))
        if folder and not entries:
            raise _no_entry(folder, commit)
        start = int(request.query_params.get("cursor", 0))
        size = min(int(request.query_params.get("limit", PAGE)), PAGE)
        headers = {}
        if start + size < len(entries):
            following = request.url.include_query_params(cursor=start + size)
            headers["Link"] = f'<{self.endpoint}{quote(request.url.path, safe="/%")}?{following.query}>; rel="next"'
        return JSONResponse(entries[start : start + size], headers=headers)

    async def paths_info(self, request: Request) -> Response:
        if request.headers.get("content-type", "").startswith("application/json"):
            body = await request.json()
            paths, expand = body["paths"], bool(body.get("expand"))
        else:
            form = await request.form()
            paths, expand = form.getlist("paths"), str(form.get("expand")).lower() == "true"
        repository = readable(request, self.store)
        commit = repository.find(request.path_params["revision"])
        found = []
        for path in dict.fromkeys(str(path).strip("/") for path in paths):
            if path in commit.tree:
                found.append(self._entry(repository, commit, path, expand))
            elif any(name.startswith(f"{path}/") for name in commit.tree):
                found.append(_folder(path))
        return JSONResponse(found)

    async def resolve(self, request: Request) -> Response:
        if request.path_params.get("type") == "models":
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        repository = readable(request, self.store)
        commit = repository.find(request.path_params["revision"])
        path = request.path_params["path"]
        entry = commit.tree.get(path)
        if entry is None:
            raise _no_entry(path, commit)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if not entry.large:
            headers["ETag"] = f'"{entry.oid}"'
            return FileResponse(self.store.content_path(entry.sha256), headers=headers)
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        if self.storage.xet is not None and (xet := self.storage.xet.hash_of(entry.sha256)):
            token = f"{self.endpoint}/api/{repository.type}/{repository.id}/xet-read-token/{commit.id}"
            headers |= {"X-Xet-Hash": xet, "Link": f'<{token}>; rel="xet-auth"'}
        return RedirectResponse(self.storage.download_address(entry.sha256), 302, headers=headers)

    def _entries(
        self, repository: Repository, commit: Commit, inside: str, recursive: bool, expand: bool
    ) -> list[dict[str, Any]]:
        listed: dict[str, dict[str, Any]] = {}
        for path in commit.tree:
            if not path.startswith(inside):
                continue
            parts = path[len(inside) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                parent = inside + "/".join(parts[:depth])
                listed.setdefault(parent, _folder(parent))
            if recursive or len(parts) == 1:
                listed[path] = self._entry(repository, commit, path, expand)
        return list(listed.values())

    def _entry(self, repository: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
        entry: Entry = commit.tree[path]
        described: dict[str, Any] = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size}
        if entry.large:
            described["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}
            if self.storage.xet is not None and (xet := self.storage.xet.hash_of(entry.sha256)):
                described["xetHash"] = xet
        if expand:
            changed = repository.commits[entry.commit]
            described["lastCommit"] = {"id": changed.id, "title": changed.title, "date": changed.date}
        return described


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _no_entry(path: str, commit: Commit) -> Refusal:
    return Refusal(404, f"Entry not found: {path}", "EntryNotFound", **{"X-Repo-Commit": commit.id})


def _true(request: Request, name: str) -> bool:
    return request.query_params.get(name, "").lower() in ("true", "1")
