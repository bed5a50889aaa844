"""`stablerep index`: the images of any data set, findable by any encoder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from ..errors import InputError
from ..runs.indexing import IndexCommand as IndexCommand, run as run


def main(argv: Sequence[str]) -> None:
    """Parse, run, say what came of it."""
    from .parsing import leading_names, parse_command

    names, flags = leading_names(argv)
    (command,) = parse_command(
        [IndexCommand],
        flags,
        name="index DATASET ENCODER",
        description="Encode every image and index the vectors, for the "
        "search page and for `stablerep_hf.retrieval`. Either may be 'embedded'; 'embedded-stablerep' is an encoder, "
        "too. Started again, it goes on.",
    )
    if len(names) != 2:
        raise InputError(
            f"{len(names)} names stand before the options and two are needed: a data set, then an encoder, as in "
            "`index me/images me/encoder`."
        )
    index = run(names[0], names[1], command)
    for name, part in (("features", index.features), ("embeds", index.embeds)):
        if part is not None:
            facts = part.facts
            how = "exact" if facts.kind == "exact" else f"HNSW, recall@10 {facts.recall:.3f} of exact"
            print(f"{name:<9} {facts.count:>11,} x {facts.dimensions}  {how}")
    if command.subset is None:  # which the page could not be told
        print(f"{command.output}: search it in a browser with `{_page_command(names[0], names[1], command)}`")


def _page_command(data: str, encoder: str, command: IndexCommand) -> str:
    """How the search page opens the index: with the images and the encoder that it was made of."""
    words = ["stablerep", "demo-app", "--index", command.output, "--dataset", data, "--split", command.split]
    words += ["--encoder", encoder]
    if command.image_column != "image":
        words += ["--image_column", command.image_column]
    if command.revision is not None:
        words += ["--encoder_revision", command.revision]
    if command.trust_remote_code:
        words.append("--trust_remote_code")
    return shlex.join(words)
