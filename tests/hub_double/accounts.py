"""Who may do what."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from .refusals import Refusal
from .store import Repository, Store


@dataclass(frozen=True)
class Account:
    name: str
    organizations: tuple[str, ...] = ()
    role: str = "write"

    def owns(self, namespace: str) -> bool:
        return namespace in (self.name, *self.organizations)

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and self.owns(namespace)


ACCOUNTS = {
    "hf_alice": Account("alice", ("lab",)),
    "hf_alice_reads": Account("alice", ("lab",), role="read"),
    "hf_bob": Account("bob"),
}


def account_of(request: Request) -> Account | None:
    """Whose token the request carries; None without a token."""
    header = request.headers.get("authorization")
    if header is None:
        return None
    account = ACCOUNTS.get(header.removeprefix("Bearer "))
    if account is None:
        raise Refusal(401, "Invalid credentials in Authorization header")
    return account


def require_account(request: Request) -> Account:
    if (account := account_of(request)) is None:
        raise Refusal(401, "Invalid username or password.")
    return account


def readable(request: Request, store: Store) -> Repository:
    """The repository in the address, if the caller may see it."""
    account = account_of(request)
    type = request.path_params.get("type", "models")
    id = f"{request.path_params['namespace']}/{request.path_params['name']}"
    repository = store.get(type, id)
    hidden = repository is not None and repository.private
    if repository is None or (
        hidden and not (account and repository.namespace in (account.name, *account.organizations))
    ):
        raise Refusal(404 if account else 401, "Repository not found", "RepoNotFound")
    return repository


def writable(request: Request, store: Store) -> Repository:
    """The repository in the address, if the caller may change it."""
    account = require_account(request)
    repository = readable(request, store)
    require_write(account, repository.namespace)
    return repository


def require_write(account: Account, namespace: str) -> None:
    if not account.may_write(namespace):
        raise Refusal(403, f"You don't have the rights to write to the namespace {namespace!r}")
