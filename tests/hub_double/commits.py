"""Changing a repository: preupload, commits, branches, tags, pull requests."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .accounts import readable, require_account, writable
from .cards import check_card
from .refusals import Refusal, json_body, only_keys, only_parameters
from .storage import Storage
from .store import TYPES, Commit, Entry, Repository, Store, now

LARGE_ENDINGS = (".bin", ".parquet", ".safetensors", ".gz", ".zip", ".arrow")
MOST_REGULAR_BYTES = 10_000_000
MOST_FILES_IN_A_REQUEST = 256


class Commits:
    def __init__(self, store: Store, storage: Storage, endpoint: str) -> None:
        self.store, self.storage, self.endpoint = store, storage, endpoint

    def routes(self) -> list[Route]:
        one = "/api/{type}/{namespace}/{name}"
        return [
            Route(f"{one}/preupload/{{revision:escaped}}", self.preupload, methods=["POST"]),
            Route(f"{one}/commit/{{revision:escaped}}", self.commit, methods=["POST"]),
            Route(f"{one}/commits/{{revision:escaped}}", self.history),
            Route(f"{one}/refs", self.references),
            Route(f"{one}/branch/{{reference:escaped}}", self.branch, methods=["POST", "DELETE"]),
            Route(f"{one}/tag/{{reference:escaped}}", self.tag, methods=["POST", "DELETE"]),
            Route(f"{one}/discussions", self.discussions, methods=["GET", "POST"]),
            Route(f"{one}/discussions/{{number:int}}", self.discussion),
            Route(f"{one}/discussions/{{number:int}}/status", self.change_status, methods=["POST"]),
            Route(f"{one}/discussions/{{number:int}}/merge", self.merge, methods=["POST"]),
        ]

    async def preupload(self, request: Request) -> Response:
        """Say of each file how it is to be sent, and what is there under its name."""
        only_parameters(request, {"create_pr"})
        repository = readable(request, self.store)
        self._check_may_commit(request, repository, request.path_params["revision"])
        body = await json_body(request, {"files"}, {"gitIgnore", "gitAttributes"})
        if len(body["files"]) > MOST_FILES_IN_A_REQUEST:
            raise Refusal(413, f"more than {MOST_FILES_IN_A_REQUEST} files in a request")
        tree = repository.find(request.path_params["revision"]).tree
        ignored = [line for line in body.get("gitIgnore", "").splitlines() if line and not line.startswith("#")]
        files = []
        for file in body["files"]:
            only_keys(file, {"path", "size", "sample"}, {"sha256"})
            path, sample = file["path"], base64.b64decode(file["sample"], validate=True)
            large = path.endswith(LARGE_ENDINGS) or file["size"] > MOST_REGULAR_BYTES or b"\0" in sample
            answer = {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": any(fnmatch.fnmatch(path, pattern) for pattern in ignored),
            }
            if path in tree:
                answer["oid"] = tree[path].sha256 if tree[path].large else tree[path].oid
            files.append(answer)
        return JSONResponse({"files": files})

    async def commit(self, request: Request) -> Response:
        """All of it or nothing: a refused line leaves the repository as it was."""
        only_parameters(request, {"create_pr"})
        account = require_account(request)
        repository = readable(request, self.store)
        reference = request.path_params["revision"]
        proposing = request.query_params.get("create_pr") == "1"
        self._check_may_commit(request, repository, reference)
        lines = [_parsed(line) for line in (await request.body()).splitlines() if line.strip()]
        header, operations = _header(lines), lines[1:]
        parent = repository.head(reference)
        if header.get("parentCommit") and not parent.startswith(header["parentCommit"]):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(repository.commits[parent].tree)
        for operation in operations:
            self._apply(tree, operation, TYPES[repository.type])
        commit = repository.add_commit(parent, tree, header["summary"], header.get("description", ""), account.name)
        number = None
        if proposing:
            number = self._open_pull(repository, account.name, header["summary"], header.get("description", ""))
            repository.move(f"refs/pr/{number}", commit.id)
        else:
            repository.move(reference, commit.id)
        self.store.save(repository)
        page = f"{self.endpoint}/{repository.prefix}{repository.id}"
        answer: dict[str, Any] = {
            "success": True,
            "commitOid": commit.id,
            "commitUrl": f"{page}/commit/{commit.id}",
            "hookOutput": "",
        }
        if number is not None:
            answer["pullRequestUrl"] = f"{page}/discussions/{number}"
        return JSONResponse(answer)

    def _apply(self, tree: dict[str, Entry], operation: dict[str, Any], kind: str) -> None:
        key, value = operation["key"], operation["value"]
        if key == "file":
            only_keys(value, {"path", "content"}, {"encoding"})
            content = _content(value)
            if len(content) > MOST_REGULAR_BYTES:
                raise Refusal(400, f"{value['path']} is larger than {MOST_REGULAR_BYTES} bytes: use LFS")
            if value["path"] == "README.md":
                errors, _ = check_card(content.decode(), kind)
                if errors:
                    raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
            _put(tree, value["path"], self.store.put_file(content))
        elif key == "lfsFile":
            only_keys(value, {"path", "algo", "oid"}, {"size"})
            if value["algo"] != "sha256" or not self.storage.has(value["oid"], value.get("size", 0)):
                raise Refusal(400, f"{value['path']}: there is no LFS object {value['oid']}; upload it first")
            entry = self.store.put_pointer(value["oid"])
            if value.get("size", entry.size) != entry.size:
                raise Refusal(400, f"{value['path']}: the object has {entry.size} bytes, not {value['size']}")
            _put(tree, value["path"], entry)
        elif key == "deletedFile":
            if only_keys(value, {"path"})["path"] not in tree:
                raise Refusal(404, f"A file with this name doesn't exist: {value['path']}", "EntryNotFound")
            del tree[value["path"]]
        elif key == "deletedFolder":
            folder = only_keys(value, {"path"})["path"].rstrip("/") + "/"
            inside = [path for path in tree if path.startswith(folder)]
            if not inside:
                raise Refusal(404, f"A folder with this name doesn't exist: {folder}", "EntryNotFound")
            for path in inside:
                del tree[path]
        else:
            raise Refusal(400, f"unknown operation {key!r}")

    def _check_may_commit(self, request: Request, repository: Repository, reference: str) -> None:
        """Anybody may propose; the rest is the owner's, and a proposal its author's too."""
        account = require_account(request)
        repository.find(reference)
        own = reference.startswith("refs/pr/") and repository.pulls[int(reference.split("/")[-1]) - 1]["author"]
        if request.query_params.get("create_pr") != "1" and own != account.name:
            writable(request, self.store)

    async def history(self, request: Request) -> Response:
        only_parameters(request, {"expand[]", "limit", "p"})
        repository = readable(request, self.store)
        commits = repository.history(repository.find(request.path_params["revision"]))
        return JSONResponse([_described(commit) for commit in commits])

    async def references(self, request: Request) -> Response:
        only_parameters(request, {"include_prs"})
        repository = readable(request, self.store)
        listed: dict[str, Any] = {"converts": []}
        for kind, folder, values in (("branches", "heads", repository.branches), ("tags", "tags", repository.tags)):
            listed[kind] = [
                {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit}
                for name, commit in values.items()
            ]
        if "include_prs" in request.query_params:
            listed["pullRequests"] = [
                {"name": str(n), "ref": f"refs/pr/{n}", "targetCommit": pull["commit"]}
                for n, pull in enumerate(repository.pulls, 1)
            ]
        return JSONResponse(listed)

    async def branch(self, request: Request) -> Response:
        repository = writable(request, self.store)
        name = request.path_params["reference"]
        if request.method == "DELETE":
            if name == "main" or name not in repository.branches:
                raise Refusal(404, f"There is no branch {name} to delete", "RevisionNotFound")
            del repository.branches[name]
        else:
            body = await json_body(request, set(), {"startingPoint", "emptyBranch", "overwrite"})
            if name in repository.branches:
                raise Refusal(409, f"Reference already exists: refs/heads/{name}")
            repository.branches[name] = repository.find(body.get("startingPoint", "main")).id
        self.store.save(repository)
        return JSONResponse({})

    async def tag(self, request: Request) -> Response:
        repository = writable(request, self.store)
        reference = request.path_params["reference"]
        if request.method == "DELETE":
            if repository.tags.pop(reference, None) is None:
                raise Refusal(404, f"There is no tag {reference}", "RevisionNotFound")
        else:
            body = await json_body(request, {"tag"}, {"message"})
            if body["tag"] in repository.tags:
                raise Refusal(409, f"Tag reference exists already: {body['tag']}")
            repository.tags[body["tag"]] = repository.find(reference).id
        self.store.save(repository)
        return JSONResponse({})

    async def discussions(self, request: Request) -> Response:
        repository = readable(request, self.store)
        if request.method == "POST":
            account = require_account(request)
            body = await json_body(request, {"title", "description", "pullRequest"})
            if body["pullRequest"] is not True or len(body["title"]) < 3:
                raise Refusal(400, "only pull requests with a title are modelled here")
            number = self._open_pull(repository, account.name, body["title"], body["description"])
            self.store.save(repository)
            return JSONResponse({"num": number, "pullRequest": True})
        only_parameters(request, {"type", "status", "author", "p"})
        asked = request.query_params
        wanted = {"open": ("open", "draft"), "closed": ("closed", "merged")}.get(asked.get("status", ""), ())
        found = [
            self._described_pull(repository, number)
            for number, pull in enumerate(repository.pulls, 1)
            if asked.get("author", pull["author"]) == pull["author"]
            and (not wanted or pull["status"] in wanted)
            and asked.get("type") != "discussion"
        ]
        return JSONResponse({"discussions": found, "count": len(found), "start": 0})

    async def discussion(self, request: Request) -> Response:
        only_parameters(request, {"diff"})
        repository = readable(request, self.store)
        return JSONResponse(self._described_pull(repository, self._number(request, repository)))

    async def change_status(self, request: Request) -> Response:
        repository = writable(request, self.store)
        body = await json_body(request, {"status"}, {"comment"})
        repository.pulls[self._number(request, repository) - 1]["status"] = body["status"]
        self.store.save(repository)
        author = {"name": require_account(request).name}
        event = {"id": "1", "type": "status-change", "createdAt": now(), "author": author, "data": body}
        return JSONResponse({"newStatus": event})

    async def merge(self, request: Request) -> Response:
        repository = writable(request, self.store)
        pull = repository.pulls[self._number(request, repository) - 1]
        ancestors = {commit.id for commit in repository.history(repository.commits[pull["commit"]])}
        if repository.branches["main"] not in ancestors:
            raise Refusal(409, "The pull request has conflicts")
        pull["status"] = "merged"
        repository.branches["main"] = pull["commit"]
        self.store.save(repository)
        return JSONResponse({"success": True})

    def _number(self, request: Request, repository: Repository) -> int:
        number: int = request.path_params["number"]
        if not 0 < number <= len(repository.pulls):
            raise Refusal(404, f"There is no discussion {number}")
        return number

    def _open_pull(self, repository: Repository, author: str, title: str, description: str) -> int:
        pull = {
            "title": title,
            "description": description,
            "author": author,
            "status": "draft",
            "date": now(),
            "commit": repository.branches["main"],
        }
        repository.pulls.append(pull)
        return len(repository.pulls)

    def _described_pull(self, repository: Repository, number: int) -> dict[str, Any]:
        pull = repository.pulls[number - 1]
        return {
            "num": number,
            "title": pull["title"],
            "author": {"name": pull["author"]},
            "createdAt": pull["date"],
            "status": pull["status"],
            "repo": {"name": repository.id, "type": TYPES[repository.type]},
            "isPullRequest": True,
            "changes": {"base": "refs/heads/main"},
            "filesWithConflicts": [],
            "events": [],
        }


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        return only_keys(json.loads(line), {"key", "value"})
    except ValueError as error:
        raise Refusal(400, "a line of the commit is not JSON") from error


def _header(lines: list[dict[str, Any]]) -> dict[str, Any]:
    if not lines or lines[0]["key"] != "header" or any(line["key"] == "header" for line in lines[1:]):
        raise Refusal(400, "a commit begins with its header, and has one")
    header = only_keys(lines[0]["value"], {"summary"}, {"description", "parentCommit"})
    if not header["summary"]:
        raise Refusal(400, "a commit needs a summary")
    return header


def _content(value: dict[str, Any]) -> bytes:
    if value.get("encoding", "utf-8") == "utf-8":
        return str(value["content"]).encode()
    try:
        return base64.b64decode(value["content"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{value['path']} is not base64") from error


def _put(tree: dict[str, Entry], path: str, entry: Entry) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts):
        raise Refusal(400, f"{path!r} is no path of a repository")
    if any("/".join(parts[:end]) in tree for end in range(1, len(parts))) or any(
        other.startswith(f"{path}/") for other in tree
    ):
        raise Refusal(400, f"{path!r} is both a file and a folder")
    if path not in tree or tree[path].sha256 != entry.sha256:
        tree[path] = entry


def _described(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "date": commit.date,
        "authors": [{"user": commit.author}],
    }
