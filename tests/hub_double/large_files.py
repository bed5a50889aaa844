"""Large files: Git LFS batches, signed addresses on a second host, uploads in one part or several."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from starlette.responses import FileResponse, Response

from .protocol import Asked, Refusal, Sha256, route, shape
from .store import Repository

if TYPE_CHECKING:
    from .running import HubDouble

_BATCH = "/{namespace}/{name}.git/info/lfs/objects/batch"
CONTENT = "/storage/{operation}/{type}/{namespace}/{name}/{sha256}/{part:int}/{signature}"


OBJECT = shape(oid=Sha256, size=int)
BATCH = shape(
    operation=Literal["upload"],
    objects=list[OBJECT],  # type: ignore[valid-type]
    transfers=(list[str], []),
    hash_algo=(Literal["sha256", "sha_256"], "sha256"),
    ref=(dict[str, str] | None, None),
)
PARTS = shape(oid=Sha256, parts=list[shape(partNumber=int, etag=str)])  # type: ignore[misc]


class LargeFiles:
    """Large files of all repositories.

    Attributes:
        uploads: sha256 of every object that was received whole, once for each time.
        part_size: Bytes of a part where uploads come in several; None for one part.
    """

    def __init__(self, hub: HubDouble, endpoint: str) -> None:
        self.hub, self.endpoint = hub, endpoint
        self.uploads: list[str] = []
        self.part_size: int | None = None
        self._key = secrets.token_bytes(16)

    def has(self, repository: Repository, sha256: str, size: int) -> bool:
        """Whether an object has arrived in this repository, by whichever way."""
        if sha256 not in repository.objects and self.hub.xet is not None:
            temporary = self.temporary(f"{sha256}.xet")
            if self.hub.xet.fetch(repository, sha256, size, temporary):
                self.keep(repository, temporary, sha256)
        return sha256 in repository.objects

    def keep(self, repository: Repository, temporary: Path, sha256: str) -> None:
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            temporary.unlink()
            raise Refusal(400, f"BadDigest: the bytes have sha256 {digest}, not {sha256}")
        self.hub.store.keep_content(temporary, sha256)
        repository.objects.add(sha256)
        self.hub.store.save(repository)
        self.uploads.append(sha256)

    def temporary(self, name: str) -> Path:
        folder = self.hub.folder / "arriving"
        folder.mkdir(exist_ok=True)
        return folder / name

    def address(self, operation: str, repository: Repository, sha256: str, part: int = 0) -> str:
        what = f"{operation}/{repository.type}/{repository.id}/{sha256}/{part}"
        return f"{self.endpoint}/storage/{what}/{hmac.new(self._key, what.encode(), 'sha256').hexdigest()}"


@route("POST", "/{type}" + _BATCH, _BATCH, by="proposer", body=BATCH)
def batch(hub: HubDouble, asked: Asked) -> Any:
    part_size = hub.large.part_size if "multipart" in asked.body.transfers else None
    answers = []
    for wanted in asked.body.objects:
        answer: dict[str, Any] = wanted.model_dump()
        if wanted.oid not in asked.repository.objects:
            upload: dict[str, Any] = {"href": hub.large.address("upload", asked.repository, wanted.oid)}
            if part_size is not None and wanted.size > part_size:
                count = -(-wanted.size // part_size)
                upload["href"] = hub.large.address("complete", asked.repository, wanted.oid, count)
                addresses = {
                    n: hub.large.address("part", asked.repository, wanted.oid, n) for n in range(1, count + 1)
                }
                upload["header"] = {"chunk_size": str(part_size), **{str(n): href for n, href in addresses.items()}}
            verify = f"{hub.endpoint}/api/{asked.repository.type}/{asked.repository.id}/lfs-verify"
            answer["actions"] = {"upload": upload, "verify": {"href": verify}}
        answers.append(answer)
    return {"transfer": "basic" if part_size is None else "multipart", "objects": answers}


@route("PUT", CONTENT, by="anyone")
async def put(hub: HubDouble, asked: Asked) -> Response:
    repository = _signed(hub, asked, "upload", "part")
    sha256, part = asked.path["sha256"], asked.path["part"]
    temporary = hub.large.temporary(secrets.token_hex(8))
    digest = await _write(asked.request.stream(), temporary)
    if asked.path["operation"] == "part":
        temporary.replace(hub.large.temporary(f"{sha256}.{part}"))
        return Response(headers={"ETag": f'"{digest}"'})
    hub.large.keep(repository, temporary, sha256)
    return Response()


@route("POST", CONTENT, by="anyone", body=PARTS)
def complete(hub: HubDouble, asked: Asked) -> None:
    repository, sha256 = _signed(hub, asked, "complete"), asked.path["sha256"]
    contents = [hub.large.temporary(f"{sha256}.{n}").read_bytes() for n in range(1, asked.path["part"] + 1)]
    given = [part.etag.strip('"') for part in sorted(asked.body.parts, key=lambda part: part.partNumber)]
    if asked.body.oid != sha256 or given != [hashlib.sha256(content).hexdigest() for content in contents]:
        raise Refusal(400, "the parts are not those that were uploaded")
    temporary = hub.large.temporary(f"{sha256}.whole")
    temporary.write_bytes(b"".join(contents))
    hub.large.keep(repository, temporary, sha256)


@route("GET", CONTENT, by="anyone")
def get(hub: HubDouble, asked: Asked) -> Response:
    _signed(hub, asked, "download")
    if asked.caller is not None:
        raise Refusal(400, "a token was sent to the content network")
    sha256 = asked.path["sha256"]
    return FileResponse(hub.store.content_path(sha256), headers={"ETag": f'"{sha256}"'})


@route("POST", "/api/{type}/{namespace}/{name}/lfs-verify", by="proposer", body=OBJECT)
def verify(hub: HubDouble, asked: Asked) -> None:
    oid, size = asked.body.oid, asked.body.size
    if oid not in asked.repository.objects or hub.store.content_path(oid).stat().st_size != size:
        raise Refusal(422, f"object {oid} of {size} bytes has not arrived")


def _signed(hub: HubDouble, asked: Asked, *operations: str) -> Repository:
    """The repository in an address that this Hub gave out for one of these operations."""
    path = asked.path
    repository = hub.store.repositories.get((path["type"], f"{path['namespace']}/{path['name']}"))
    if repository is None or path["operation"] not in operations:
        raise Refusal(403, "SignatureDoesNotMatch")
    given_out = hub.large.address(path["operation"], repository, path["sha256"], path["part"])
    if not hmac.compare_digest(given_out.rpartition("/")[2], path["signature"]):
        raise Refusal(403, "SignatureDoesNotMatch")
    return repository


async def _write(stream: AsyncIterator[bytes], path: Path) -> str:
    """Write a body as it comes; a cut connection leaves nothing. Returns its sha256."""
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            async for chunk in stream:
                file.write(chunk)
                digest.update(chunk)
    except BaseException:
        path.unlink()
        raise
    return digest.hexdigest()
