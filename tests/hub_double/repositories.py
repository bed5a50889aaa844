"""Making, describing, listing and removing repositories; accounts; cards; Spaces."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from starlette.responses import JSONResponse, Response

from .cards import check_card, front_matter
from .protocol import REPOSITORY, Asked, Refusal, route, shape
from .store import TYPES, Commit, Repository, Store

if TYPE_CHECKING:
    from .running import HubDouble

PAGE = 100
ADDRESSES = {one: many for many, one in TYPES.items()}
Type = Literal["model", "dataset", "space"]
Visibility = Literal["public", "private"]


CARD = shape(content=str, repoType=Type)
NAMED = {"name": str, "organization": (str | None, None), "type": (Type, "model")}
SDK = Literal["gradio", "docker", "static", "streamlit"]
NEW = shape(**NAMED, visibility=(Visibility, "public"), private=(bool, False), sdk=(SDK | None, None))
SETTINGS = shape(private=(bool | None, None), visibility=(Visibility | None, None))
VARIABLE = shape(key=str, value=str, description=(str, ""))


@route("GET", "/api/whoami-v2", by="account")
def whoami(hub: HubDouble, asked: Asked) -> Any:
    name, role = asked.account.name, asked.account.role
    organizations = [{"type": "org", "name": org, "roleInOrg": role} for org in asked.account.organizations]
    told = {"type": "user", "id": name, "name": name, "fullname": name, "email": f"{name}@example.org", "isPro": False}
    token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
    return {**told, "orgs": organizations, "auth": token}


@route("POST", "/api/validate-yaml", by="anyone", body=CARD)
def validate_yaml(hub: HubDouble, asked: Asked) -> Response:
    errors, warnings = check_card(asked.body.content, asked.body.repoType)
    answer = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
    return JSONResponse(answer, 400 if errors else 200)


@route("POST", "/api/repos/create", by="account", body=NEW)
def create(hub: HubDouble, asked: Asked) -> Any:
    new = asked.body
    if (new.type == "space") != (new.sdk is not None):
        raise Refusal(400, '"sdk" is needed for a Space, and for nothing else')
    private = new.private or new.visibility == "private"
    repository = Repository(ADDRESSES[new.type], _id(asked), private, sdk=new.sdk)
    url = f"{hub.endpoint}/{repository.prefix}{repository.id}"
    answer = {"url": url, "name": repository.id, "id": repository.id}
    if (repository.type, repository.id) in hub.store.repositories:
        return JSONResponse({"error": "You already created this repo"} | answer, 409)
    hub.store.create(repository)
    return answer


@route("DELETE", "/api/repos/delete", by="account", body=shape(**NAMED))
def delete(hub: HubDouble, asked: Asked) -> None:
    repository = hub.store.repositories.get((ADDRESSES[asked.body.type], _id(asked)))
    if repository is None:
        raise Refusal(404, "Repository not found", "RepoNotFound")
    hub.store.delete(repository)


def _id(asked: Asked) -> str:
    """Which repository is meant; refused if the account may not write there."""
    namespace = asked.body.organization or asked.account.name
    asked.account.check_may_write(namespace)
    return f"{namespace}/{asked.body.name}"


@route("PUT", f"{REPOSITORY}/settings", by="writer", body=SETTINGS)
def settings(hub: HubDouble, asked: Asked) -> Any:
    if asked.body.private is not None:
        asked.repository.private = asked.body.private
    if asked.body.visibility is not None:
        asked.repository.private = asked.body.visibility == "private"
    hub.store.save(asked.repository)
    return {"private": asked.repository.private}


@route("GET", REPOSITORY, f"{REPOSITORY}/revision/{{revision:escaped}}", by="reader", parameters="expand expand[]")
def info(hub: HubDouble, asked: Asked) -> Any:
    wanted = {*asked.query.getlist("expand"), *asked.query.getlist("expand[]")}
    described = describe(hub.store, asked.repository, asked.repository.find(asked.path.get("revision", "main")))
    return {key: value for key, value in described.items() if not wanted or key in wanted | {"id", "_id"}}


LISTING = "author owner search filter pipeline_tag limit sort direction full cardData config expand expand[]"


@route("GET", "/api/{type}", by="anyone", parameters=LISTING)
def list_all(hub: HubDouble, asked: Asked) -> Any:
    if asked.path["type"] not in TYPES:
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")
    query, found = asked.query, []
    for (type, id), repository in sorted(hub.store.repositories.items()):
        owned = asked.caller and asked.caller.owns(repository.namespace)
        described = describe(hub.store, repository, repository.find("main"))
        if (
            type == asked.path["type"]
            and (owned or not repository.private)
            and query.get("author", query.get("owner", repository.namespace)) == repository.namespace
            and query.get("search", "").lower() in id.lower()
            and query.get("pipeline_tag", described.get("pipeline_tag")) == described.get("pipeline_tag")
            and set(query.getlist("filter")) <= {*described["tags"], described.get("library_name")}
        ):
            found.append(described)
    return found[: int(query.get("limit", PAGE))]


def describe(store: Store, repository: Repository, commit: Commit) -> dict[str, Any]:
    """What the Hub tells about a repository at a commit, the card's tags among it."""
    card = _card(store, commit)
    tags = list(card.get("tags") or [])
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
        config = json.loads(store.read(commit.tree["config.json"])) if "config.json" in commit.tree else {}
        library, task = card.get("library_name"), card.get("pipeline_tag")
        described |= {"modelId": repository.id, "library_name": library, "pipeline_tag": task}
        described["config"] = {
            key: config[key] for key in ("architectures", "model_type", "auto_map") if key in config
        }
        described["model-index"] = card.get("model-index")
        tags += [tag for tag in (library, task) if tag]
    elif repository.type == "spaces":
        host = f"https://{repository.id.replace('/', '-')}.example.org"
        described |= {"sdk": repository.sdk, "host": host, "runtime": _runtime(store, repository)}
    return described | {"tags": list(dict.fromkeys(tags))}


@route("GET", f"{REPOSITORY}/runtime", by="reader")
def runtime(hub: HubDouble, asked: Asked) -> Any:
    return _runtime(hub.store, _space(asked))


VARIABLES = (f"{REPOSITORY}/variables", f"{REPOSITORY}/secrets")


@route("GET", *VARIABLES, by="writer")
def list_variables(hub: HubDouble, asked: Asked) -> Any:
    hidden = {"value"} if asked.request.url.path.endswith("/secrets") else set()
    kept = _variables(asked)
    return {key: {name: part for name, part in kept[key].items() if name not in hidden} for key in kept}


@route("POST", *VARIABLES, by="writer", body=VARIABLE)
def set_variable(hub: HubDouble, asked: Asked) -> None:
    now = asked.repository.find("main").date
    _variables(asked)[asked.body.key] = asked.body.model_dump() | {"updatedAt": now}
    hub.store.save(asked.repository)


@route("DELETE", *VARIABLES, by="writer", body=shape(key=str))
def delete_variable(hub: HubDouble, asked: Asked) -> None:
    _variables(asked).pop(asked.body.key, None)
    hub.store.save(asked.repository)


def _variables(asked: Asked) -> dict[str, dict[str, Any]]:
    space = _space(asked)
    return space.secrets if asked.request.url.path.endswith("/secrets") else space.variables


def _space(asked: Asked) -> Repository:
    if asked.repository.type != "spaces":
        raise Refusal(404, "Sorry, we can't find the page you are looking for.")
    return asked.repository


def _runtime(store: Store, space: Repository) -> dict[str, Any]:
    """Nothing is ever built here."""
    commit = space.find("main")
    stage = "BUILDING" if _card(store, commit).get("app_file", "app.py") in commit.tree else "NO_APP_FILE"
    return {"stage": stage, "hardware": {"current": None, "requested": "cpu-basic"}, "storage": None}


def _card(store: Store, commit: Commit) -> dict[str, Any]:
    return front_matter(store.read(commit.tree["README.md"]).decode()) if "README.md" in commit.tree else {}
