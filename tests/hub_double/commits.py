"""Changing a repository: preupload, commits, branches, tags, pull requests."""

from __future__ import annotations

import base64
import binascii
import fnmatch
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from .cards import check_card
from .protocol import REPOSITORY, Asked, Refusal, Sha256, read, route, shape
from .store import TYPES, Entry, Pull, Repository, now

if TYPE_CHECKING:
    from .running import HubDouble

LARGE_ENDINGS = (".bin", ".parquet", ".safetensors", ".gz", ".zip", ".arrow")
MOST_REGULAR_BYTES = 10_000_000


CANDIDATE = shape(path=str, size=int, sample=str, sha256=(Sha256, ""))
CANDIDATES = shape(
    files=Annotated[list[CANDIDATE], Field(max_length=256)],  # type: ignore[valid-type]
    gitIgnore=(str, ""),
    gitAttributes=(str, ""),
)
HEADER = shape(summary=Annotated[str, Field(min_length=1)], description=(str, ""), parentCommit=(str | None, None))
DELETED = shape(path=str)
LINES = {
    "file": shape(path=str, content=str, encoding=(Literal["utf-8", "base64"], "utf-8")),
    "lfsFile": shape(path=str, algo=Literal["sha256"], oid=Sha256, size=(int | None, None)),
    "deletedFile": DELETED,
    "deletedFolder": DELETED,
}
LINE = shape(key=Literal["header", *LINES], value=dict[str, Any])  # type: ignore[valid-type]
BRANCH = shape(startingPoint=(str, "main"), emptyBranch=(bool, False), overwrite=(bool, False))
TAG = shape(tag=str, message=(str | None, None))
PULL = shape(title=Annotated[str, Field(min_length=3)], description=str, pullRequest=Literal[True])


@route("POST", f"{REPOSITORY}/preupload/{{revision:escaped}}", by="proposer", parameters="create_pr", body=CANDIDATES)
def preupload(hub: HubDouble, asked: Asked) -> Any:
    """Say of each file how it is to be sent, and what is there under its name."""
    check_may_change(asked, asked.path["revision"])
    tree = asked.repository.find(asked.path["revision"]).tree
    ignored = [line for line in asked.body.gitIgnore.splitlines() if line and not line.startswith("#")]
    files = []
    for file in asked.body.files:
        large = _must_be_large(file.path, file.size, _decoded(file.path, file.sample))
        answer = {
            "path": file.path,
            "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": any(fnmatch.fnmatch(file.path, pattern) for pattern in ignored),
        }
        if known := tree.get(file.path):
            answer["oid"] = known.sha256 if known.large else known.oid
        files.append(answer)
    return {"files": files}


@route("POST", f"{REPOSITORY}/commit/{{revision:escaped}}", by="proposer", parameters="create_pr")
async def commit(hub: HubDouble, asked: Asked) -> Any:
    """All of it or nothing: a refused line leaves the repository as it was."""
    repository, reference = asked.repository, asked.path["revision"]
    check_may_change(asked, reference)
    if asked.request.headers.get("content-type") != "application/x-ndjson":
        raise Refusal(400, "a commit is application/x-ndjson")
    lines = [read(LINE, line) for line in (await asked.request.body()).splitlines() if line.strip()]
    if [line.key for line in lines[:1]] != ["header"] or any(line.key == "header" for line in lines[1:]):
        raise Refusal(400, "a commit begins with its header, and has one")
    header = read(HEADER, lines[0].value)
    parent = repository.head(reference)
    if header.parentCommit and not parent.startswith(header.parentCommit):
        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(repository.commits[parent].tree)
    added: set[str] = set()
    for line in lines[1:]:
        _apply(hub, repository, tree, line, added)
    made = repository.add_commit(parent, tree, header.summary, header.description, asked.account.name)
    page = f"{hub.endpoint}/{repository.prefix}{repository.id}"
    answer = {"success": True, "commitOid": made.id, "commitUrl": f"{page}/commit/{made.id}", "hookOutput": ""}
    if asked.query.get("create_pr") == "1":
        number = _open_pull(asked, header.summary, header.description)
        reference = f"refs/pr/{number}"
        answer["pullRequestUrl"] = f"{page}/discussions/{number}"
    repository.move(reference, made.id)
    hub.store.save(repository)
    return answer


def check_may_change(asked: Asked, reference: str) -> None:
    """Anybody may propose; the rest is the owner's, and a proposal its author's too."""
    asked.repository.find(reference)
    pull = asked.repository.pull(reference)
    if asked.query.get("create_pr") != "1" and (pull is None or pull.author != asked.account.name):
        asked.account.check_may_write(asked.repository.namespace)


def _apply(hub: HubDouble, repository: Repository, tree: dict[str, Entry], line: Any, added: set[str]) -> None:
    file = read(LINES[line.key], line.value)
    if line.key == "file":
        content = _decoded(file.path, file.content) if file.encoding == "base64" else file.content.encode()
        if _must_be_large(file.path, len(content), content[:512]):
            raise Refusal(400, f"{file.path} is binary, or larger than {MOST_REGULAR_BYTES} bytes: use LFS")
        if file.path == "README.md" and (errors := check_card(content.decode(), TYPES[repository.type])[0]):
            raise Refusal(400, f"Invalid metadata in README.md: {'; '.join(errors)}")
        _put(tree, file.path, hub.store.put_file(content), added)
    elif line.key == "lfsFile":
        if not hub.large.has(repository, file.oid, file.size or 0):
            raise Refusal(400, f"{file.path}: there is no LFS object {file.oid}; upload it first")
        entry = hub.store.put_pointer(file.oid)
        if file.size not in (None, entry.size):
            raise Refusal(400, f"{file.path}: the object has {entry.size} bytes, not {file.size}")
        _put(tree, file.path, entry, added)
    else:
        folder = f"{file.path.rstrip('/')}/"
        gone = [path for path in tree if path.startswith(folder)] if line.key == "deletedFolder" else [file.path]
        if not gone or not tree.keys() >= set(gone):
            raise Refusal(404, f"There is no {file.path} to delete", "EntryNotFound")
        for path in gone:
            del tree[path]


def _put(tree: dict[str, Entry], path: str, entry: Entry, added: set[str]) -> None:
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts):
        raise Refusal(400, f"{path!r} is no path of a repository")
    parents = {"/".join(parts[:end]) for end in range(1, len(parts))}
    if parents & tree.keys() or any(other.startswith(f"{path}/") for other in tree):
        raise Refusal(400, f"{path!r} is both a file and a folder")
    if path in added:
        raise Refusal(400, f"{path!r} is there twice")
    added.add(path)
    if path not in tree or tree[path].sha256 != entry.sha256:
        tree[path] = entry


def _must_be_large(path: str, size: int, start: bytes) -> bool:
    return path.endswith(LARGE_ENDINGS) or size > MOST_REGULAR_BYTES or b"\0" in start


def _decoded(path: str, content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{path} is not base64") from error


@route("GET", f"{REPOSITORY}/commits/{{revision:escaped}}", by="reader", parameters="expand[] limit p")
def history(hub: HubDouble, asked: Asked) -> Any:
    return [
        {
            "id": commit.id,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        for commit in asked.repository.history(asked.repository.find(asked.path["revision"]))
    ]


@route("GET", f"{REPOSITORY}/refs", by="reader", parameters="include_prs")
def references(hub: HubDouble, asked: Asked) -> Any:
    repository = asked.repository
    pulls = {f"refs/pr/{number}": pull.commit for number, pull in enumerate(repository.pulls, 1)}
    listed = {
        "branches": [_reference(name, f"refs/heads/{name}", sha) for name, sha in repository.branches.items()],
        "tags": [_reference(name, f"refs/tags/{name}", sha) for name, sha in repository.tags.items()],
        "converts": [],
    }
    if "include_prs" in asked.query:
        listed["pullRequests"] = [_reference(name.rpartition("/")[2], name, sha) for name, sha in pulls.items()]
    return listed


def _reference(name: str, full: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": full, "targetCommit": commit}


@route("POST", f"{REPOSITORY}/branch/{{reference:escaped}}", by="writer", body=BRANCH)
def make_branch(hub: HubDouble, asked: Asked) -> None:
    _new_reference(hub, asked, asked.repository.branches, asked.path["reference"], asked.body.startingPoint)


@route("POST", f"{REPOSITORY}/tag/{{revision:escaped}}", by="writer", body=TAG)
def make_tag(hub: HubDouble, asked: Asked) -> None:
    _new_reference(hub, asked, asked.repository.tags, asked.body.tag, asked.path["revision"])


def _new_reference(hub: HubDouble, asked: Asked, known: dict[str, str], name: str, revision: str) -> None:
    if name in known:
        raise Refusal(409, f"Reference already exists: {name}")
    known[name] = asked.repository.find(revision).id
    hub.store.save(asked.repository)


@route("DELETE", f"{REPOSITORY}/branch/{{reference:escaped}}", f"{REPOSITORY}/tag/{{reference:escaped}}", by="writer")
def delete_reference(hub: HubDouble, asked: Asked) -> None:
    tags = "/tag/" in asked.request.url.path
    known, name = asked.repository.tags if tags else asked.repository.branches, asked.path["reference"]
    if name not in known or (name == "main" and not tags):
        raise Refusal(404, f"There is no {name} to delete", "RevisionNotFound")
    del known[name]
    hub.store.save(asked.repository)


@route("POST", f"{REPOSITORY}/discussions", by="proposer", body=PULL)
def propose(hub: HubDouble, asked: Asked) -> Any:
    number = _open_pull(asked, asked.body.title, asked.body.description)
    hub.store.save(asked.repository)
    return {"num": number, "pullRequest": True}


@route("GET", f"{REPOSITORY}/discussions", by="reader", parameters="type status author p")
def discussions(hub: HubDouble, asked: Asked) -> Any:
    """Nothing but pull requests that are open: nobody closes any here."""
    found = [
        _described(asked.repository, number)
        for number, pull in enumerate(asked.repository.pulls, 1)
        if asked.query.get("author", pull.author) == pull.author
        and asked.query.get("status") != "closed"
        and asked.query.get("type") != "discussion"
    ]
    return {"discussions": found, "count": len(found), "start": 0}


@route("GET", f"{REPOSITORY}/discussions/{{number:int}}", by="reader", parameters="diff")
def discussion(hub: HubDouble, asked: Asked) -> Any:
    if asked.repository.pull(f"refs/pr/{asked.path['number']}") is None:
        raise Refusal(404, f"There is no discussion {asked.path['number']}")
    return _described(asked.repository, asked.path["number"])


def _open_pull(asked: Asked, title: str, description: str) -> int:
    """Its number."""
    main = asked.repository.branches["main"]
    asked.repository.pulls.append(Pull(title, description, asked.account.name, now(), main))
    return len(asked.repository.pulls)


def _described(repository: Repository, number: int) -> dict[str, Any]:
    pull = repository.pulls[number - 1]
    return {
        "num": number,
        "title": pull.title,
        "author": {"name": pull.author},
        "createdAt": pull.date,
        "status": "draft",
        "repo": {"name": repository.id, "type": TYPES[repository.type]},
        "isPullRequest": True,
        "changes": {"base": "refs/heads/main"},
        "filesWithConflicts": [],
        "events": [],
    }
