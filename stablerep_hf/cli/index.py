"""`stablerep index`: the images of any data set, findable by any encoder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..runs.indexing import IndexCommand as IndexCommand, run as run
from .parsing import Command

COMMAND = Command(
    "index",
    "Encode every image and index the vectors, for the search page and for `stablerep_hf.retrieval`. Started again, "
    "it goes on.",
    [IndexCommand],
    {
        "DATASET": "Folder or Hub id of a data set, or 'embedded'.",
        "ENCODER": "Folder or Hub id of an encoder, 'embedded' or 'embedded-stablerep'.",
    },
)


def main(argv: Sequence[str]) -> None:
    """Parse, run, say what came of it."""
    data, encoder, command = COMMAND.parse(argv)
    index = run(data, encoder, command)
    for name, part in (("features", index.features), ("embeds", index.embeds)):
        if part is not None:
            facts = part.facts
            how = "exact" if facts.kind == "exact" else f"HNSW, recall@10 {facts.recall:.3f} of exact"
            print(f"{name:<9} {facts.count:>11,} x {facts.dimensions}  {how}")
    if command.subset is None:  # which the page could not be told
        print(f"{command.output}: search it in a browser with `{_page_command(data, encoder, command)}`")


def _page_command(data: str, encoder: str, command: IndexCommand) -> str:
    """How the search page opens the index: with the images and the encoder that it was made of."""
    words = ["stablerep", "demo-app", "--index", command.output, "--dataset", data, "--split", command.split]
    words += ["--encoder", encoder]
    if command.image_column != "image":
        words += ["--image-column", command.image_column]
    if command.revision is not None:
        words += ["--encoder-revision", command.revision]
    if command.trust_remote_code:
        words.append("--trust-remote-code")
    return shlex.join(words)
