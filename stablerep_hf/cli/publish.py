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
    dry_run: bool = field(default=False, metadata={"help": "List the files and print the card; upload nothing."})


def main(argv: Sequence[str]) -> None:
    """Parse and run."""
    from .parsing import leading_names, parse_command

    names, flags = leading_names(argv)
    (command,) = parse_command(
        [PublishCommand],
        flags,
        name="publish",
        description="stablerep publish FOLDER OWNER/NAME [options]: push a data set or an encoder to the Hub.",
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

    publication = plan_publication(folder)
    for name, size in publication.files:
        print(f"{size:>14,}  {name}")
    print(f"{publication.num_bytes:>14,}  in {len(publication.files)} files, {publication.repo_type} {repository}")
    if command.dry_run:
        print("\n" + (publication.folder / "README.md").read_text("utf-8"))
        return
    print(publish(publication, repository, private=command.private, create_pr=command.create_pr))
