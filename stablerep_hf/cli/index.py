"""`stablerep index`: the images of any data set, findable by any encoder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InputError
from .evaluate import NO_CACHE
from .generate import EMBEDDED

if TYPE_CHECKING:
    from ..retrieval import ImageIndex


@dataclass
class IndexCommand:
    """Flags of `stablerep index`, beside the data set and the encoder."""

    output: str = field(default="index", metadata={"help": "Folder of the index."})
    split: str = field(default="train", metadata={"help": "Of the data set; several as a+b."})
    subset: str | None = field(default=None, metadata={"help": "Of a data set that has several."})
    image_column: str = field(default="image", metadata={"help": "The pictures."})
    exact_below: int = field(
        default=200_000, metadata={"help": "So many images and more get a graph (HNSW) instead of an exact scan."}
    )
    revision: str | None = field(default=None, metadata={"help": "Of an encoder on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run the code that comes with the encoder."})
    cache: str | None = field(
        default=None,
        metadata={
            "help": "Folder that keeps features, so that a killed run goes on; a folder in HF_HOME if not given, "
            f"'{NO_CACHE}' for none."
        },
    )
    batch_size: int = field(default=128, metadata={"help": "Images in a forward pass."})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})
    device: str | None = field(default=None, metadata={"help": "The fastest there is if not given."})
    max_bad_images: int = field(default=0, metadata={"help": "Images that may fail to decode before the run stops."})


def main(argv: Sequence[str]) -> None:
    """Parse, run, say what came of it."""
    from .parsing import leading_names, parse_command

    names, flags = leading_names(argv)
    (command,) = parse_command(
        [IndexCommand],
        flags,
        name="index DATASET ENCODER",
        description="Encode every image and index the vectors, for the "
        "search page and for `stablerep_hf.retrieval`. Either may be 'embedded'. Started again, it goes on.",
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
    words += ["--encoder", "embedded-stablerep" if encoder == EMBEDDED else encoder]
    if command.image_column != "image":
        words += ["--image_column", command.image_column]
    if command.revision is not None:
        words += ["--encoder_revision", command.revision]
    if command.trust_remote_code:
        words.append("--trust_remote_code")
    return shlex.join(words)


def run(data: str, encoder: str, command: IndexCommand) -> ImageIndex:
    """Build or open the index.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit, or the folder holds another index.
    """
    from .. import assets
    from ..evaluation import load_encoder
    from ..evaluation.feature_cache import default_cache_dir
    from ..evaluation.tables import public_name
    from ..models import StableRepModel  # noqa: F401  # importing it makes the pre-training model known to transformers
    from ..retrieval import index_images
    from .loading import load_images
    from .places import check_place

    cache = None if command.cache == NO_CACHE else command.cache or default_cache_dir()
    check_place("--output", command.output)
    if cache is not None:
        check_place("--cache", cache)
    dataset = load_images(assets.pictograms_path() if data == EMBEDDED else data, command.split, command.subset)
    vision = load_encoder(
        assets.encoder_path() if encoder == EMBEDDED else encoder,
        revision=command.revision,
        trust_remote_code=command.trust_remote_code,
        device=command.device,
    )
    return index_images(
        vision,
        dataset,
        command.output,
        image_column=command.image_column,
        names={  # travels with the index, so no path of this machine
            "encoder": public_name(encoder),
            "dataset": public_name(data),
            "split": command.split,
            "subset": command.subset or "",
        },
        exact_below=command.exact_below,
        cache_dir=cache,
        batch_size=command.batch_size,
        num_workers=command.num_workers,
        device=command.device,
        max_bad_images=command.max_bad_images,
    )
