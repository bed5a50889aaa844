"""`stablerep index`: the images of any data set, findable by any encoder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..runs.indexing import IndexingSettings, index_dataset
from .parsing import Command
from .wording import PART_DONE

COMMAND = Command(
    "index",
    "Encode every image and index the vectors, for the search page and for `stablerep_hf.retrieval`. Started again, "
    "it goes on.",
    [IndexingSettings],
    {
        "DATASET": "Folder or Hub id of a data set, or 'embedded'.",
        "ENCODER": "Folder or Hub id of an encoder, 'embedded' or 'embedded-stablerep'.",
    },
)


def main(argv: Sequence[str]) -> None:
    """Parse, index, say what came of it."""
    data, encoder, settings = COMMAND.parse(argv)
    index = index_dataset(data, encoder, settings)
    if index is None:
        print(PART_DONE)
        return
    for name, part in (("features", index.features), ("embeds", index.embeds)):
        if part is not None:
            facts = part.facts
            how = "exact" if facts.kind == "exact" else f"HNSW, recall@10 {facts.recall:.3f} of exact"
            print(f"{name:<9} {facts.count:>11,} x {facts.dimensions}  {how}")
    if settings.subset is None:  # for which the page has no setting
        print(f"{settings.output}: search it in a browser with `{_page_command(data, encoder, settings)}`")


def _page_command(data: str, encoder: str, settings: IndexingSettings) -> str:
    """How the search page opens the index: with the images and the encoder that it was made of."""
    words = ["stablerep", "demo-app", "--index", settings.output, "--dataset", data, "--split", settings.split]
    words += ["--encoder", encoder]
    if settings.image_column != "image":
        words += ["--image-column", settings.image_column]
    if settings.revision is not None:
        words += ["--encoder-revision", settings.revision]
    if settings.trust_remote_code:
        words.append("--trust-remote-code")
    return shlex.join(words)
