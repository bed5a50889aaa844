"""`stablerep publish`: a finished folder to the Hub."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..setting import setting
from .parsing import Command

SPACE = "space"


@dataclass
class PublishSettings:
    """How a folder is published."""

    private: bool = setting(False, "If the repository is made now, hide it from others.")
    create_pr: bool = setting(False, "Propose the change instead of making it.")
    tag: str | None = setting(None, "Name this version, such as v1.")
    results: list[str] = setting(
        [], "Files that `stablerep evaluate --output` wrote, for the published card of a model."
    )
    variables: list[str] = setting(
        [],
        "Variables of a Space, as NAME=VALUE; with `publish space` the settings of the search page, such as "
        "ENCODER=me/my-encoder.",
    )
    dry_run: bool = setting(
        False, "List the files, and those that would go there, and print the card; upload nothing."
    )


COMMAND = Command(
    "publish",
    "Push a data set, a model, a generator, its LoRA or a Space to the Hub, in one commit. The same command goes on "
    "after an interruption. `stablerep publish space OWNER/NAME` assembles the search page with all it needs.",
    [PublishSettings],
    {"FOLDER": "What to push; 'space' is the search page.", "OWNER/NAME": "Repository to push to."},
)


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    folder, repository, command = COMMAND.parse(argv)
    run(folder, repository, command)


def run(folder: str, repository: str, command: PublishSettings) -> None:
    """List what belongs there and upload it, or say what would be uploaded.

    Args:
        folder: What to publish; "space", or the folder it is made of, is the search page.
        repository: Where to.
        command: How.

    Raises:
        InputError: The folder is not finished, or the Hub cannot be reached or refuses.
    """
    from ..hub import assemble_space
    from ..hub.space import is_space_source

    variables = dict(_variable(text) for text in command.variables)
    if folder != SPACE and not is_space_source(folder):
        _publish(folder, repository, command, variables)
        return
    with tempfile.TemporaryDirectory() as temporary:
        # the settings are in the folder's own file: a variable of the Space would outlive them
        _publish(str(assemble_space(Path(temporary) / SPACE, variables)), repository, command, {})


def _publish(folder: str, repository: str, command: PublishSettings, variables: dict[str, str]) -> None:
    from ..evaluation import load_results
    from ..hub import plan_publication, publish
    from ..hub.publishing import find_replaced, missing_on_hub

    results = [result for file in command.results for result in load_results(file)]
    publication = plan_publication(folder, results)
    for name, size in publication.files:
        print(f"{size:>14,}  {name}")
    print(f"{publication.num_bytes:>14,}  in {len(publication.files)} files, {publication.repo_type} {repository}")
    if publication.left_out:
        shown = ", ".join(publication.left_out[:3]) + (", ..." if len(publication.left_out) > 3 else "")
        print(f"{len(publication.left_out):>14,}  left out: {shown}")
    if command.dry_run:
        replaced = find_replaced(publication, repository, create_pr=command.create_pr)
        if replaced is None:
            print("               removed there: unknown, since the Hub cannot be asked")
        for name in replaced or []:
            print(f"       removed  {name}")
        missing = missing_on_hub(publication)
        if missing is None:
            print("               encoders and data sets of the Space: not looked for, since the Hub cannot be asked")
        for name in missing or []:
            print(f"       missing  {name}, which the Space shows: publish it first")
        print("\n" + publication.card(repository))
        return
    address = publish(
        publication,
        repository,
        private=command.private,
        create_pr=command.create_pr,
        tag=command.tag,
        variables=variables,
    )
    print(address)
    if not command.create_pr:
        print(f"Published: {address.partition('/commit/')[0]}")


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(
            f"--variables {text} is not of the form NAME=VALUE: write, for example, ENCODER=me/my-encoder."
        )
    return name, value
