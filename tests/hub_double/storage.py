"""The place of large files: Git LFS batches, signed addresses on a second host, uploads in one part or several."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .accounts import readable, require_account
from .refusals import Refusal, json_body, only_keys
from .store import Store
from .xet import Xet

SHA256 = re.compile(r"[0-9a-f]{64}")


class Storage:
    """Large files of all repositories.

    Attributes:
        uploads: sha256 of every object that was received whole, once for each time.
        part_size: Bytes of a part where uploads come in several; None for one part.
        xet: The Xet store, if clients shall use it.
    """

    def __init__(self, store: Store, endpoint: str, storage_endpoint: str, xet: Xet | None) -> None:
        self.store, self.endpoint, self.storage_endpoint, self.xet = store, endpoint, storage_endpoint, xet
        self.uploads: list[str] = []
        self.part_size: int | None = None
        self._key = secrets.token_bytes(16)
        self._parts = store.folder / "parts"

    def routes(self) -> list[Route]:
        batch = "/{namespace}/{name}.git/info/lfs/objects/batch"
        return [
            Route("/{type}" + batch, self.batch, methods=["POST"]),
            Route(batch, self.batch, methods=["POST"]),
            Route("/storage/{operation}/{sha256}/{part}/{signature}", self.put, methods=["PUT"]),
            Route("/storage/{operation}/{sha256}/{part}/{signature}", self.get, methods=["GET", "HEAD"]),
            Route("/storage/{operation}/{sha256}/{part}/{signature}", self.complete, methods=["POST"]),
            Route("/api/lfs/{sha256}/verify", self.verify, methods=["POST"]),
        ]

    def has(self, sha256: str, size: int) -> bool:
        """Whether an object has arrived, by whichever way."""
        if not self.store.has_content(sha256) and self.xet is not None:
            temporary = self.store.folder / f"{sha256}.xet"
            if self.xet.fetch(sha256, size, temporary):
                self._keep(temporary, sha256, hashlib.sha256(temporary.read_bytes()).hexdigest())
        return self.store.has_content(sha256)

    def download_address(self, sha256: str) -> str:
        return self._address("download", sha256, 0)

    async def batch(self, request: Request) -> Response:
        require_account(request)
        readable(request, self.store)
        keys = {"operation", "objects"}, {"transfers", "hash_algo", "ref"}
        body = await json_body(request, *keys)
        if body["operation"] != "upload" or body.get("hash_algo", "sha256") not in ("sha256", "sha_256"):
            raise Refusal(422, "only uploads by sha256")
        several = self.part_size is not None and "multipart" in body.get("transfers", [])
        answers = []
        for wanted in body["objects"]:
            sha256, size = only_keys(wanted, {"oid", "size"})["oid"], wanted["size"]
            if not SHA256.fullmatch(sha256):
                raise Refusal(422, f"{sha256} is not a sha256")
            answer = {"oid": sha256, "size": size}
            if not self.store.has_content(sha256):
                upload = {"href": self._address("upload", sha256, 0)}
                if several and size > self.part_size:
                    parts = -(-size // self.part_size)
                    upload["href"] = self._address("complete", sha256, parts)
                    addresses = {str(n): self._address("part", sha256, n) for n in range(1, parts + 1)}
                    upload["header"] = {"chunk_size": str(self.part_size), **addresses}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.endpoint}/api/lfs/{sha256}/verify"}}
            answers.append(answer)
        return JSONResponse({"transfer": "multipart" if several else "basic", "objects": answers})

    async def put(self, request: Request) -> Response:
        operation, sha256, part = self._checked(request, {"upload", "part"})
        self._parts.mkdir(exist_ok=True)
        path = self._parts / f"{sha256}.{part}"
        temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
        digest = await _write(request.stream(), temporary)
        if operation == "part":
            temporary.replace(path)
            return Response(headers={"ETag": f'"{digest}"'})
        self._keep(temporary, sha256, digest)
        return Response()

    async def complete(self, request: Request) -> Response:
        _, sha256, count = self._checked(request, {"complete"})
        body = await json_body(request, {"oid", "parts"})
        paths = [self._parts / f"{sha256}.{number}" for number in range(1, count + 1)]
        given = [only_keys(part, {"partNumber", "etag"})["etag"].strip('"') for part in body["parts"]]
        if body["oid"] != sha256 or given != [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]:
            raise Refusal(400, "the parts are not those that were uploaded")
        temporary = self._parts / f"{sha256}.whole"
        temporary.write_bytes(b"".join(path.read_bytes() for path in paths))
        self._keep(temporary, sha256, hashlib.sha256(temporary.read_bytes()).hexdigest())
        return JSONResponse({})

    async def get(self, request: Request) -> Response:
        _, sha256, _ = self._checked(request, {"download"})
        if "authorization" in request.headers:
            raise Refusal(400, "a token was sent to the content network")
        return FileResponse(self.store.content_path(sha256), headers={"ETag": f'"{sha256}"'})

    async def verify(self, request: Request) -> Response:
        require_account(request)
        body = await json_body(request, {"oid", "size"})
        path = self.store.content_path(body["oid"])
        if not path.is_file() or path.stat().st_size != body["size"]:
            raise Refusal(422, f"object {body['oid']} of {body['size']} bytes has not arrived")
        return JSONResponse({})

    def _keep(self, temporary: Path, sha256: str, digest: str) -> None:
        if digest != sha256:
            temporary.unlink()
            raise Refusal(400, f"BadDigest: the bytes have sha256 {digest}, not {sha256}")
        self.store.keep_content(temporary, sha256)
        self.uploads.append(sha256)

    def _address(self, operation: str, sha256: str, part: int) -> str:
        return f"{self.storage_endpoint}/storage/{operation}/{sha256}/{part}/{self._sign(operation, sha256, part)}"

    def _sign(self, operation: str, sha256: str, part: int) -> str:
        return hmac.new(self._key, f"{operation}/{sha256}/{part}".encode(), "sha256").hexdigest()

    def _checked(self, request: Request, operations: set[str]) -> tuple[str, str, int]:
        given = request.path_params
        operation, sha256, part = given["operation"], given["sha256"], int(given["part"])
        if operation not in operations or not hmac.compare_digest(
            given["signature"], self._sign(operation, sha256, part)
        ):
            raise Refusal(403, "SignatureDoesNotMatch")
        return operation, sha256, part


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
