"""Repositories on disk: one JSON file each, contents by their sha256 beside them.

STATE/repos/models/alice/encoder.json    settings, references, commits (each with its whole tree)
STATE/contents/ab/abcdef...              bytes of files, git blobs and large files alike
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from .protocol import Refusal

TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}  # in addresses -> in bodies
NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9][\w.-]{0,95}")
GITATTRIBUTES = "".join(f"*.{end} filter=lfs diff=lfs merge=lfs -text\n" for end in ("bin", "parquet", "safetensors"))


@dataclass
class Entry:
    """A file in a tree.

    Attributes:
        oid: Of the git blob: the file's, or for a large file its pointer's.
        sha256: Of the bytes.
        size: Of the bytes.
        large: Whether git holds only a pointer to it.
        commit: That last changed it.
    """

    oid: str
    sha256: str
    size: int
    large: bool
    commit: str = ""


@dataclass
class Commit:
    id: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    tree: dict[str, Entry]


@dataclass
class Pull:
    """A pull request; its number is its place in the list and one."""

    title: str
    description: str
    author: str
    date: str
    commit: str


@dataclass
class Repository:
    """A repository.

    Attributes:
        type: As in addresses.
        objects: sha256 of the large files that were uploaded to it, committed or not.
        variables: Of a Space, as `secrets` are.
    """

    type: str
    id: str
    private: bool = False
    sdk: str | None = None
    created: str = ""
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: list[Pull] = field(default_factory=list)
    commits: dict[str, Commit] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    variables: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.partition("/")[0]

    @property
    def prefix(self) -> str:
        """Before the id in the address of a page or file."""
        return "" if self.type == "models" else f"{self.type}/"

    def pull(self, reference: str) -> Pull | None:
        """The pull request that "refs/pr/N" names."""
        match = re.fullmatch(r"refs/pr/([1-9]\d*)", reference)
        return self.pulls[int(match[1]) - 1] if match and int(match[1]) <= len(self.pulls) else None

    def find(self, revision: str) -> Commit:
        """The commit that a branch, tag, pull request, (short) commit id or HEAD names."""
        short = re.sub("^refs/(heads|tags)/", "", "main" if revision == "HEAD" else revision)
        commit = self.branches.get(short) or self.tags.get(short)
        if pull := self.pull(revision):
            commit = pull.commit
        if commit is None and re.fullmatch(r"[0-9a-f]{7,40}", revision):
            commit = next((known for known in self.commits if known.startswith(revision)), None)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[commit]

    def head(self, reference: str) -> str:
        """The commit id of a branch or pull request, which is what may be committed to."""
        if reference not in self.branches and self.pull(reference) is None:
            raise Refusal(404, f"{reference} is not a branch", "RevisionNotFound")
        return self.find(reference).id

    def move(self, reference: str, commit: str) -> None:
        if pull := self.pull(reference):
            pull.commit = commit
        else:
            self.branches[reference] = commit

    def add_commit(self, parent: str | None, tree: dict[str, Entry], title: str, message: str, author: str) -> Commit:
        facts = [self.type, self.id, parent, title, author, len(self.commits), {p: e.sha256 for p, e in tree.items()}]
        commit_id = hashlib.sha1(json.dumps(facts).encode()).hexdigest()
        for entry in tree.values():
            entry.commit = entry.commit or commit_id
        commit = Commit(commit_id, parent, title, message, author, now(), dict(sorted(tree.items())))
        self.commits[commit_id] = commit
        return commit

    def history(self, commit: Commit | None) -> list[Commit]:
        commits = []
        while commit is not None:
            commits.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return commits


_JSON = TypeAdapter(Repository)


class Store:
    """All repositories; every change is on disk, whole, before it is answered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.contents = folder / "contents"
        self.contents.mkdir(parents=True, exist_ok=True)
        kept = [_JSON.validate_json(path.read_bytes()) for path in sorted(folder.glob("repos/*/*/*.json"))]
        self.repositories = {(repository.type, repository.id): repository for repository in kept}

    def create(self, repository: Repository) -> Repository:
        if not all(NAME.fullmatch(part) for part in repository.id.split("/")):
            raise Refusal(400, f"Invalid repo name: {repository.id}")
        repository.created = now()
        tree = {".gitattributes": self.put_file(GITATTRIBUTES.encode())}
        repository.branches["main"] = repository.add_commit(None, tree, "initial commit", "", "system").id
        self.repositories[repository.type, repository.id] = repository
        self.save(repository)
        return repository

    def delete(self, repository: Repository) -> None:
        del self.repositories[repository.type, repository.id]
        self._path(repository).unlink()

    def save(self, repository: Repository) -> None:
        path = self._path(repository)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(_JSON.dump_json(repository))
        temporary.replace(path)

    def content_path(self, sha256: str) -> Path:
        return self.contents / sha256[:2] / sha256

    def keep_content(self, temporary: Path, sha256: str) -> None:
        """Take a finished file, whose sha256 the caller has computed."""
        path = self.content_path(sha256)
        path.parent.mkdir(exist_ok=True)
        temporary.replace(path)

    def read(self, entry: Entry) -> bytes:
        return self.content_path(entry.sha256).read_bytes()

    def put_file(self, content: bytes) -> Entry:
        """Store a file as a git blob."""
        sha256 = hashlib.sha256(content).hexdigest()
        temporary = self.contents / f"{sha256}.tmp"
        temporary.write_bytes(content)
        self.keep_content(temporary, sha256)
        return Entry(_git_blob_id(content), sha256, len(content), large=False)

    def put_pointer(self, sha256: str) -> Entry:
        """Refer to a large file that was uploaded before."""
        size = self.content_path(sha256).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return Entry(_git_blob_id(pointer.encode()), sha256, size, large=True)

    def _path(self, repository: Repository) -> Path:
        return self.folder / "repos" / repository.type / f"{repository.id}.json"


def _git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
