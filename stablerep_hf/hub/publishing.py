"""Pushing a folder to the Hub: all of it in one commit, or nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    RepoCard,
    constants,
    get_session,
    get_token,
)
from huggingface_hub.errors import (
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined]

from ..errors import InputError
from ..evaluation.results import EvaluationResult
from ..files.hub_client import client_error
from .publication import Publication, describe_kind, kind_of, plan_publication
from .refusals import readable_refusals, retrying

# Xet registers what it has sent at the end of a session: what a kill interrupts within one is sent again.
_SESSION_BYTES = 256_000_000
_MADE_HERE = "By `stablerep publish`."  # in the description of each commit

T = TypeVar("T")


def publish(
    publication: Publication | str | Path,
    repository: str,
    *,
    results: Sequence[EvaluationResult] = (),
    private: bool = False,
    create_pr: bool = False,
    tag: str | None = None,
    variables: Mapping[str, str] | None = None,
) -> str:
    """Upload to the Hub, in one commit.

    Large files go first, each streamed from disk; the commit that names them comes last. Killed at any moment, the
    repository is as it was, and the same call goes on: what has arrived is not sent again (over Xet, files are sent
    some 256 MB at a time, and those that a kill interrupts start anew). A new version takes the place of the old one:
    what `Publication.replaced` names is removed in the same commit. The tag comes last; with one that names this very
    version already, the call does what is left to do.

    Args:
        publication: The folder, or what `plan_publication` says of it.
        results: With a folder: measured numbers of a model, for its published card.
        repository: "owner/name"; made if it is not there.
        private: If it is made, whether it is hidden from others.
        create_pr: Propose the change instead of making it.
        tag: Name of this version, such as "v1".
        variables: Of a Space: name -> value.

    Returns:
        Address of the commit or pull request.

    Raises:
        InputError: The Hub cannot be reached or refuses, or the repository holds something else.
    """
    if not isinstance(publication, Publication):
        publication = plan_publication(publication, results)
    if tag and create_pr:
        raise InputError(f"tag={tag} names a version and `create_pr` only proposes one: tag it once it is merged.")
    if variables and publication.kind != "space":
        raise InputError(f"{describe_kind(publication.kind)} has no variables, only a Space has: leave them out.")
    with readable_refusals(repository, OSError, ValueError, RuntimeError):
        if get_token() is None:
            raise InputError(f"Publishing {repository} needs a token: run `hf auth login` or set HF_TOKEN.")
        if missing := missing_on_hub(publication):
            raise InputError(
                f"{missing[0]}, which the Space shows, is not on the Hub, or your token may not read it: publish it "
                "first."
            )
        api = HfApi()
        retrying(partial(_check_card, publication, repository))
        _prepare(api, publication, repository, private=private, create_pr=create_pr, tag=tag)
        title = f"Publish {publication.folder.resolve().name}"
        revision, address = "main", ""
        if create_pr:
            revision, address = retrying(partial(_proposal, api, publication, repository, title))
        additions = _additions(publication, repository)
        commit = retrying(lambda: _commit(api, publication, additions, repository, revision, title))
        for name, value in (variables or {}).items():
            retrying(partial(api.add_space_variable, repository, name, value))
        if tag:
            repo_type = publication.repo_type
            retrying(
                partial(api.create_tag, repository, tag=tag, revision=commit.oid, repo_type=repo_type, exist_ok=True)
            )
    return address or str(commit.commit_url)


def push_folder(
    folder: str | Path,
    repository: str,
    message: str = "End of training",
    *,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
) -> CommitInfo:
    """Commit a model to a repository of one's own, as a training run does: nothing is asked and nothing tried again.

    Args:
        folder: Holds the model and its card.
        repository: "name" or "owner/name"; created if it does not exist.
        message: Title of the commit.
        token: Token of the Hub; the machine's own by default.
        revision: Branch; "main" by default.
        private: Whether a repository that is created is private.

    Raises:
        InputError: See `plan_publication`.
    """
    publication, api = plan_publication(folder), HfApi(token=token)
    repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
    additions = _additions(publication, repository)
    return _commit(api, publication, additions, repository, revision or "main", message)


def _check_card(publication: Publication, repository: str) -> None:
    """Ask the Hub whether it takes the card.

    Not by `RepoCard.validate`: huggingface_hub 1.x asks huggingface.co there, whatever HF_ENDPOINT says.
    """
    card = {"repoType": publication.repo_type, "content": str(RepoCard(publication.card(repository)))}
    plain = {"Accept": "text/plain"}
    response = get_session().post(f"{constants.ENDPOINT}/api/validate-yaml", json=card, headers=plain)
    if response.status_code == 400:
        reason = _card_errors(response.text)
        raise InputError(f"Publishing {repository} stopped: the Hub refuses its card: {reason}; correct README.md.")
    hf_raise_for_status(response)


def missing_on_hub(publication: Publication) -> list[str] | None:
    """Which encoders and data sets the card of a Space names and the Hub does not have; None if it cannot be asked."""
    if publication.kind != "space":
        return []
    missing = []
    unreachable: tuple[type[Exception], ...] = (HFValidationError, OfflineModeIsEnabled, client_error())
    for repo_type in ("model", "dataset"):
        for name in publication.metadata.get(f"{repo_type}s") or []:
            try:
                retrying(partial(HfApi().repo_info, name, repo_type=repo_type))
            except RepositoryNotFoundError:
                missing.append(name)
            except unreachable:
                return None
    return missing


def find_replaced(publication: Publication, repository: str, *, create_pr: bool = False) -> list[str] | None:
    """Files of the repository that publishing would remove, as it is now; None if the Hub cannot be asked.

    Raises:
        InputError: The repository holds something else.
    """
    api = HfApi()
    unreachable: tuple[type[Exception], ...] = (HFValidationError, OfflineModeIsEnabled, client_error())
    try:
        return publication.replaced(_refuse_others_work(api, publication, repository, create_pr=create_pr))
    except RepositoryNotFoundError:
        return []
    except unreachable:
        return None


def _refuse_others_work(api: HfApi, publication: Publication, repository: str, *, create_pr: bool) -> list[str]:
    """The files of a repository that this publication may change."""
    kind, repo_type = publication.kind, publication.repo_type
    info = api.repo_info(repository, repo_type=repo_type)
    there = api.list_repo_files(repository, repo_type=repo_type)
    other = kind_of(there)
    if other is not None and other != kind:
        raise InputError(
            f"{repository} holds {describe_kind(other)}, and this is {describe_kind(kind)}: choose another name."
        )
    made_here = "stablerep" in (getattr(info, "tags", None) or [])  # every card made here has this tag
    if other is None or create_pr or made_here:
        return there
    if not any(_MADE_HERE in commit.message for commit in api.list_repo_commits(repository, repo_type=repo_type)):
        raise InputError(
            f"{repository} holds {describe_kind(kind)} that was not published with `stablerep publish` and would be "
            "replaced: choose another name, propose the change with `create_pr`, or delete that repository first."
        )
    return there


def _prepare(
    api: HfApi, publication: Publication, repository: str, *, private: bool, create_pr: bool, tag: str | None
) -> None:
    """Make the repository, or see that the one which is there takes this publication."""
    kind, repo_type = publication.kind, publication.repo_type
    try:
        info = retrying(lambda: api.repo_info(repository, repo_type=repo_type))
    except RepositoryNotFoundError:
        if create_pr:
            raise InputError(
                f"There is no {repo_type} {repository} to propose a change to: leave out `create_pr` to make it."
            ) from None
        sdk = publication.metadata.get("sdk") if kind == "space" else None
        make = partial(api.create_repo, repository, repo_type=repo_type, space_sdk=sdk, exist_ok=True)
        retrying(partial(make, private=private or None))
        return
    retrying(partial(_refuse_others_work, api, publication, repository, create_pr=create_pr))
    if private and not info.private:
        raise InputError(
            f"{repository} is there already and public, so `private` cannot hide it: change its settings on the Hub, "
            "or choose another name."
        )
    versions = retrying(partial(api.list_repo_refs, repository, repo_type=repo_type)).tags if tag else []
    tagged = next((known.target_commit for known in versions if known.name == tag), None)
    if tagged and not (tagged == info.sha and retrying(partial(_holds, api, publication, repository, tagged))):
        raise InputError(
            f"{repository} has a version {tag!r} already, which must stay what it is: choose another tag."
        )


def _holds(api: HfApi, publication: Publication, repository: str, revision: str) -> bool:
    """Whether a commit is what publishing would make."""
    tree = api.list_repo_tree(repository, recursive=True, repo_type=publication.repo_type, revision=revision)
    there = {file.path: file for file in tree if isinstance(file, RepoFile)}
    if publication.replaced(there):
        return False
    for addition in _additions(publication, repository):
        file = there.get(addition.path_in_repo)
        if file is None or file.size != addition.upload_info.size:
            return False
        with addition.as_file() as stream:
            if file.lfs:
                digest = hashlib.file_digest(stream, "sha256")  # type: ignore[arg-type]  # a file or BytesIO
                same = digest.hexdigest() == file.lfs.sha256
            else:
                same = hashlib.sha1(b"blob %d\0" % file.size + stream.read()).hexdigest() == file.blob_id
        if not same:
            return False
    return True


def _additions(publication: Publication, repository: str) -> list[CommitOperationAdd]:
    return [
        CommitOperationAdd(
            name, publication.card(repository).encode() if name == "README.md" else publication.folder / name
        )
        for name, _ in publication.files
    ]


def _commit(
    api: HfApi,
    publication: Publication,
    additions: Sequence[CommitOperationAdd],
    repository: str,
    revision: str,
    title: str,
) -> CommitInfo:
    """Upload what is missing and name all of it in one commit; once that is there, do nothing."""
    head = api.repo_info(repository, repo_type=publication.repo_type, revision=revision).sha
    there = api.list_repo_files(repository, repo_type=publication.repo_type, revision=head)
    additions = [copy(addition) for addition in additions]  # hashed once; what was sent is asked of the Hub anew
    for session in _sessions(additions, [size for _, size in publication.files]):
        api.preupload_lfs_files(
            repository, session, repo_type=publication.repo_type, revision=revision, free_memory=False
        )
    operations: list[Any] = [*additions, *map(CommitOperationDelete, publication.replaced(there))]
    return api.create_commit(
        repository,
        operations,
        commit_message=title,
        commit_description=_MADE_HERE,
        repo_type=publication.repo_type,
        revision=revision,
        parent_commit=head,
    )


def _sessions(additions: Sequence[T], sizes: Sequence[int]) -> Iterator[list[T]]:
    """Files in order, in parts of `_SESSION_BYTES` or a little more."""
    part: list[T] = []
    num_bytes = 0
    for addition, size in zip(additions, sizes, strict=True):
        part.append(addition)
        num_bytes += size
        if num_bytes >= _SESSION_BYTES:
            yield part
            part, num_bytes = [], 0
    if part:
        yield part


def _proposal(api: HfApi, publication: Publication, repository: str, title: str) -> tuple[str, str]:
    """Reference and address of our open pull request, so that a second try goes on with the first one's."""
    repo_type = publication.repo_type
    author = api.whoami()["name"]
    for known in api.get_repo_discussions(
        repository, author=author, discussion_type="pull_request", repo_type=repo_type
    ):
        if known.title == title and known.status in ("draft", "open"):
            return str(known.git_reference), known.url
    made = api.create_pull_request(repository, title=title, repo_type=repo_type)
    return str(made.git_reference), made.url


def _card_errors(answer: str) -> str:
    """The messages in the JSON that the validation of a card answers."""
    try:
        return "; ".join(entry["message"] for entry in json.loads(answer)["errors"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.split()).rstrip(".")
