"""Reading a repository: trees, paths, and files by way of a second host, as from a content network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from .protocol import REPOSITORY, Asked, Refusal, read, route, shape
from .store import Commit, Entry

if TYPE_CHECKING:
    from .running import HubDouble

PAGE = 50
TREE = f"{REPOSITORY}/tree/{{revision:escaped}}"
FILE = "/{namespace}/{name}/resolve/{revision:escaped}/{path:file}"


PATHS = shape(paths=list[str], expand=(bool, False))


@route("GET", TREE, f"{TREE}/{{path:file}}", by="reader", parameters="recursive expand limit cursor")
def tree(hub: HubDouble, asked: Asked) -> Response:
    query, commit = asked.query, asked.repository.find(asked.path["revision"])
    recursive, expand = (query.get(name, "").lower() in ("true", "1") for name in ("recursive", "expand"))
    folder = asked.path.get("path", "").strip("/")
    inside = f"{folder}/" if folder else ""
    listed: dict[str, dict[str, Any]] = {}
    for path in commit.tree:
        if not path.startswith(inside):
            continue
        parts = path[len(inside) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            parent = inside + "/".join(parts[:depth])
            listed.setdefault(parent, _folder(parent))
        if recursive or len(parts) == 1:
            listed[path] = _described(hub, asked, commit.tree[path], path, expand)
    if folder and not listed:
        raise _no_entry(folder, commit)
    start, size = int(query.get("cursor", 0)), min(int(query.get("limit", PAGE)), PAGE)
    headers = {}
    if start + size < len(listed):
        url = asked.request.url
        following = url.include_query_params(cursor=start + size).query
        headers["Link"] = f'<{hub.endpoint}{quote(url.path, safe="/%")}?{following}>; rel="next"'
    return JSONResponse(list(listed.values())[start : start + size], headers=headers)


@route("POST", f"{REPOSITORY}/paths-info/{{revision:escaped}}", by="reader")
async def paths_info(hub: HubDouble, asked: Asked) -> Any:
    """Of a form or of JSON: clients send either."""
    if asked.request.headers.get("content-type", "").startswith("application/json"):
        body = read(PATHS, await asked.request.body())
    else:
        form = await asked.request.form()
        lists: dict[str, Any] = {name: form.getlist(name) for name in form}
        if "expand" in lists:
            lists["expand"] = lists["expand"] in (["true"], ["True"])
        body = read(PATHS, lists)
    commit, found = asked.repository.find(asked.path["revision"]), []
    for path in dict.fromkeys(path.strip("/") for path in body.paths):
        if path in commit.tree:
            found.append(_described(hub, asked, commit.tree[path], path, body.expand))
        elif any(name.startswith(f"{path}/") for name in commit.tree):
            found.append(_folder(path))
    return found


@route("GET", "/{type}" + FILE, FILE, by="reader", parameters="download")
def resolve(hub: HubDouble, asked: Asked) -> Response:
    if asked.path.get("type") == "models":
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")
    commit, repository = asked.repository.find(asked.path["revision"]), asked.repository
    entry = commit.tree.get(asked.path["path"])
    if entry is None:
        raise _no_entry(asked.path["path"], commit)
    headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
    if not entry.large:
        return FileResponse(hub.store.content_path(entry.sha256), headers=headers | {"ETag": f'"{entry.oid}"'})
    headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    if hub.xet is not None and (xet := hub.xet.hash_of(repository, entry.sha256)):
        token = f"{hub.endpoint}/api/{repository.type}/{repository.id}/xet-read-token/{commit.id}"
        headers |= {"X-Xet-Hash": xet, "Link": f'<{token}>; rel="xet-auth"'}
    return RedirectResponse(hub.large.address("download", repository, entry.sha256), 302, headers=headers)


def _described(hub: HubDouble, asked: Asked, entry: Entry, path: str, expand: bool) -> dict[str, Any]:
    described: dict[str, Any] = {"type": "file", "path": path, "oid": entry.oid, "size": entry.size}
    if entry.large:
        described["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}
        if hub.xet is not None and (xet := hub.xet.hash_of(asked.repository, entry.sha256)):
            described["xetHash"] = xet
    if expand:
        changed = asked.repository.commits[entry.commit]
        described["lastCommit"] = {"id": changed.id, "title": changed.title, "date": changed.date}
    return described


def _folder(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}


def _no_entry(path: str, commit: Commit) -> Refusal:
    return Refusal(404, f"Entry not found: {path}", "EntryNotFound", **{"X-Repo-Commit": commit.id})
