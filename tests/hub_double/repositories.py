"""Making, describing, listing and removing repositories; accounts; cards; Spaces."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .accounts import account_of, readable, require_account, require_write, writable
from .cards import check_card, front_matter
from .refusals import Refusal, json_body, only_parameters
from .store import TYPES, Commit, Repository, Store

VISIBILITIES = {"public": False, "private": True}
PAGE = 100


class Repositories:
    def __init__(self, store: Store, endpoint: str) -> None:
        self.store, self.endpoint = store, endpoint

    def routes(self) -> list[Route]:
        one = "/api/{type}/{namespace}/{name}"
        return [
            Route("/api/whoami-v2", self.whoami),
            Route("/api/validate-yaml", self.validate_yaml, methods=["POST"]),
            Route("/api/repos/create", self.create, methods=["POST"]),
            Route("/api/repos/delete", self.delete, methods=["DELETE"]),
            Route(f"{one}/settings", self.settings, methods=["PUT"]),
            Route(f"{one}/runtime", self.runtime),
            Route(f"{one}/variables", self.variables, methods=["GET", "POST", "DELETE"]),
            Route(f"{one}/secrets", self.secrets, methods=["GET", "POST", "DELETE"]),
            Route("/api/{type}", self.list_all),
            Route(one, self.info),
            Route(f"{one}/revision/{{revision:escaped}}", self.info),
        ]

    async def whoami(self, request: Request) -> Response:
        account = require_account(request)
        organizations = [
            {"type": "org", "name": name, "roleInOrg": account.role, "isEnterprise": False}
            for name in account.organizations
        ]
        token = {"displayName": "test", "role": account.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        return JSONResponse(
            {
                "type": "user",
                "id": account.name,
                "name": account.name,
                "fullname": account.name.title(),
                "email": f"{account.name}@example.org",
                "isPro": False,
                "orgs": organizations,
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    async def validate_yaml(self, request: Request) -> Response:
        body = await json_body(request, {"content", "repoType"})
        if body["repoType"] not in TYPES.values():
            raise Refusal(400, f"unknown repoType {body['repoType']!r}")
        errors, warnings = check_card(body["content"], body["repoType"])
        answer = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        return JSONResponse(answer, 400 if errors else 200)

    async def create(self, request: Request) -> Response:
        account = require_account(request)
        known = {"organization", "type", "visibility", "private", "sdk", "license", "hardware", "variables", "secrets"}
        body = await json_body(request, {"name"}, known | {"files"})
        type = next((many for many, one in TYPES.items() if one == body.get("type", "model")), None)
        visibility = body.get("visibility", "private" if body.get("private") else "public")
        if type is None or visibility not in VISIBILITIES:
            raise Refusal(400, f"unknown type {body.get('type')!r} or visibility {visibility!r}")
        if (type == "spaces") != ("sdk" in body):
            raise Refusal(400, '"sdk" is needed for a Space, and for nothing else')
        namespace = body.get("organization") or account.name
        require_write(account, namespace)
        repository = Repository(type, f"{namespace}/{body['name']}", VISIBILITIES[visibility], sdk=body.get("sdk"))
        answer = {"url": self._page(repository), "name": repository.id, "id": repository.id}
        if self.store.get(type, repository.id):
            return JSONResponse({"error": "You already created this repo"} | answer, 409)
        self.store.create(repository)
        return JSONResponse(answer)

    async def delete(self, request: Request) -> Response:
        account = require_account(request)
        body = await json_body(request, {"name"}, {"organization", "type"})
        namespace = body.get("organization") or account.name
        id, kind = f"{namespace}/{body['name']}", body.get("type", "model")
        repository = self.store.get(next((many for many, one in TYPES.items() if one == kind), ""), id)
        if repository is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        require_write(account, namespace)
        self.store.delete(repository)
        return JSONResponse({})

    async def settings(self, request: Request) -> Response:
        repository = writable(request, self.store)
        body = await json_body(request, set(), {"private", "visibility"})
        if "visibility" in body and body["visibility"] not in VISIBILITIES:
            raise Refusal(400, f"unknown visibility {body['visibility']!r}")
        repository.private = VISIBILITIES.get(body.get("visibility", ""), body.get("private", repository.private))
        self.store.save(repository)
        return JSONResponse({"private": repository.private})

    async def info(self, request: Request) -> Response:
        only_parameters(request, {"expand", "expand[]"})
        repository = readable(request, self.store)
        commit = repository.find(request.path_params.get("revision", "main"))
        wanted = {*request.query_params.getlist("expand"), *request.query_params.getlist("expand[]")}
        described = self.describe(repository, commit)
        return JSONResponse({k: v for k, v in described.items() if not wanted or k in wanted | {"id", "_id"}})

    async def list_all(self, request: Request) -> Response:
        known = {"author", "search", "filter", "limit", "sort", "direction", "full", "cardData", "config"}
        only_parameters(request, known | {"expand", "expand[]", "pipeline_tag", "owner"})
        if request.path_params["type"] not in TYPES:
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        asked, account = request.query_params, account_of(request)
        found = []
        for (type, id), repository in sorted(self.store.repositories.items()):
            owned = account and account.owns(repository.namespace)
            described = self.describe(repository, repository.find("main"))
            if (
                type == request.path_params["type"]
                and (owned or not repository.private)
                and asked.get("author", asked.get("owner", repository.namespace)) == repository.namespace
                and asked.get("search", "").lower() in id.lower()
                and asked.get("pipeline_tag", described.get("pipeline_tag")) == described.get("pipeline_tag")
                and set(asked.getlist("filter")) <= {*described["tags"], described.get("library_name")}
            ):
                found.append(described)
        return JSONResponse(found[: int(asked.get("limit", PAGE))])

    def describe(self, repository: Repository, commit: Commit) -> dict[str, Any]:
        """What the Hub tells about a repository at a commit, the card's tags among it."""
        card = self._card(commit)
        tags = [tag for tag in card.get("tags") or [] if isinstance(tag, str)]
        for name in ("license", "language"):
            values = card.get(name) or []
            tags += [f"{name}:{value}" for value in ([values] if isinstance(values, str) else values)]
        described: dict[str, Any] = {
            "_id": repository.id,
            "id": repository.id,
            "author": repository.namespace,
            "sha": commit.id,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "createdAt": repository.created,
            "lastModified": commit.date,
            "cardData": card or None,
            "siblings": [{"rfilename": path} for path in commit.tree],
        }
        if repository.type == "models":
            library = card.get("library_name")
            described |= {"modelId": repository.id, "library_name": library, "pipeline_tag": card.get("pipeline_tag")}
            described["config"] = self._config(commit)
            described["model-index"] = card.get("model-index")
            tags += [tag for tag in (library, card.get("pipeline_tag")) if tag]
        elif repository.type == "spaces":
            host = f"https://{repository.id.replace('/', '-')}.example.org"
            described |= {"sdk": repository.sdk, "host": host, "runtime": self._runtime(repository)}
        return described | {"tags": list(dict.fromkeys(tags))}

    async def runtime(self, request: Request) -> Response:
        return JSONResponse(self._runtime(self._space(request, readable)))

    async def variables(self, request: Request) -> Response:
        return await self._settings_of_space(request, "variables")

    async def secrets(self, request: Request) -> Response:
        return await self._settings_of_space(request, "secrets")

    async def _settings_of_space(self, request: Request, kind: str) -> Response:
        space = self._space(request, writable)
        values: dict[str, dict[str, Any]] = getattr(space, kind)
        if request.method == "POST":
            body = await json_body(request, {"key", "value"}, {"description"})
            values[body["key"]] = {**body, "updatedAt": space.find("main").date}
        elif request.method == "DELETE":
            values.pop((await json_body(request, {"key"}))["key"], None)
        self.store.save(space)
        hidden = {"value"} if kind == "secrets" else set()
        return JSONResponse(
            {key: {k: v for k, v in value.items() if k not in hidden} for key, value in values.items()}
        )

    def _space(self, request: Request, access: Any) -> Repository:
        space: Repository = access(request, self.store)
        if space.type != "spaces":
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        return space

    def _runtime(self, space: Repository) -> dict[str, Any]:
        """Nothing is ever built here."""
        app = self._card(space.find("main")).get("app_file", "app.py")
        stage = "BUILDING" if app in space.find("main").tree else "NO_APP_FILE"
        return {"stage": stage, "hardware": {"current": None, "requested": "cpu-basic"}, "storage": None}

    def _card(self, commit: Commit) -> dict[str, Any]:
        if "README.md" not in commit.tree:
            return {}
        return front_matter(self.store.read(commit.tree["README.md"]).decode())

    def _config(self, commit: Commit) -> dict[str, Any] | None:
        if "config.json" not in commit.tree:
            return None
        config = json.loads(self.store.read(commit.tree["config.json"]))
        return {name: config[name] for name in ("architectures", "model_type", "auto_map") if name in config}

    def _page(self, repository: Repository) -> str:
        return f"{self.endpoint}/{repository.prefix}{repository.id}"
