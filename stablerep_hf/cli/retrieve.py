"""`stablerep retrieve`: real images of captions, as a caption-grouped data set."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.retrieval import RetrievalSettings, retrieve
from .generate import loading_line
from .parsing import Command

COMMAND = Command(
    "retrieve",
    "Write the real images nearest to each caption into a caption-grouped data set. Started again, it goes on.",
    [RetrievalSettings],
    titles=("captions, data and output",),
)


def main(argv: Sequence[str]) -> None:
    """Parse, retrieve, say what was found."""
    (settings,) = COMMAND.parse(argv)
    found = retrieve(settings)
    print(f"{found.num_images:,} images of {found.num_captions:,} captions.")
    if found.num_fewer or found.num_without:
        print(
            f"{found.num_fewer:,} captions have fewer than {settings.per_caption}, and {found.num_without:,} have "
            "none and were left out."
        )
    for name, number in found.num_excluded.items():
        print(f"{number:,} images of the data resemble one of {name} and were left out.")
    if not found.is_complete:
        print("This process has written its part; others still write theirs.")
    print(f"The data set is in {settings.output}: {loading_line(settings.output)}")
