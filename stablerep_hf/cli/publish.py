"""`stablerep publish`: a finished folder to the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import InputError


@dataclass
class PublishCommand:
    """Flags of `stablerep publish`, beside the folder and the repository."""

    private: bool = field(default=False, metadata={"help": "If the repository is made now, hide it from others."})
    create_pr: bool = field(default=False, metadata={"help": "Propose the change instead of making it."})
    tag: str | None = field(default=None, metadata={"help": "Name this version, such as v1."})
    variables: list[str] = field(
        default_factory=list, metadata={"help": "Of a Space, as NAME=VALUE, such as ENCODER=me/my-encoder."}
    )
    dry_run: bool = field(default=False, metadata={"help": "List the files and print the card; upload nothing."})


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import leading_names, parse_command

    names, flags = leading_names(argv)
    (command,) = parse_command(
        [PublishCommand],
        flags,
        name="publish",
        description="stablerep publish FOLDER OWNER/NAME [options]: push a data set, a model, a generator or a Space "
        "to the Hub, in one commit. The same command goes on after an interruption.",
    )
    if len(names) != 2:
        raise InputError("Two names come first: the folder, then the repository, as in `publish encoder me/encoder`.")
    run(names[0], names[1], command)


def run(folder: str, repository: str, command: PublishCommand) -> None:
    """Upload, or say what would be uploaded.

    Raises:
        InputError: The folder is not finished, or the Hub cannot be reached or refuses.
    """
    from ..hub import plan_publication, publish

    variables = dict(_variable(text) for text in command.variables)
    publication = plan_publication(folder)
    for name, size in publication.files:
        print(f"{size:>14,}  {name}")
    print(f"{publication.num_bytes:>14,}  in {len(publication.files)} files, {publication.repo_type} {repository}")
    if publication.left_out:
        shown = ", ".join(publication.left_out[:3]) + (", ..." if len(publication.left_out) > 3 else "")
        print(f"{len(publication.left_out):>14,}  left out: {shown}")
    if command.dry_run:
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


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise InputError(f"--variables {text} is no NAME=VALUE: write, for example, ENCODER=me/my-encoder.")
    return name, value
