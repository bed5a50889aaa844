"""`stablerep evaluate`: any encoder, measured on labelled images."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .generate import EMBEDDED

if TYPE_CHECKING:
    from ..evaluation import EvaluationResult, VisionEncoder


@dataclass
class EvaluateCommand:
    """Flags of `stablerep evaluate`, beside the encoder's name."""

    data: str = field(
        default=EMBEDDED, metadata={"help": "Labelled images: a folder, a Hub id, or 'embedded' (real pictograms)."}
    )
    protocols: list[str] | None = field(
        default=None,
        metadata={
            "help": "Some of knn, linear_probe (both need labels), retrieval (needs groups and artists); all whose "
            "columns are named if not given."
        },
    )
    train_split: str = field(default="train", metadata={"help": "Bank of kNN, training set of the probe."})
    split: str | None = field(default=None, metadata={"help": "What is scored; 'test' unless embedded."})
    label_column: str | None = field(default=None, metadata={"help": "What to predict; 'label' unless embedded."})
    group_column: str | None = field(
        default=None, metadata={"help": "Images that are not independent of each other, and what retrieval looks for."}
    )
    artist_column: str | None = field(default=None, metadata={"help": "Retrieval finds images by other artists only."})
    output: str | None = field(default=None, metadata={"help": "File of the results; none is written if not given."})
    batch_size: int = field(default=128, metadata={"help": "Images in a forward pass."})
    device: str | None = field(default=None, metadata={"help": "The fastest there is if not given."})
    max_bad_images: int = field(default=0, metadata={"help": "Images that may fail to decode before the run stops."})
    seed: int = field(default=0, metadata={"help": "Of the probe's split and the bootstrap."})

    def __post_init__(self) -> None:
        if self.data == EMBEDDED:
            self.split = self.split or "held_out_concepts"
            self.label_column = self.label_column or "group"
            self.group_column = self.group_column or "concept"
            self.artist_column = self.artist_column or "artist"
        self.split = self.split or "test"
        self.label_column = self.label_column or "label"
        if self.protocols is None:
            retrieval = ["retrieval"] if self.group_column and self.artist_column else []
            self.protocols = ["knn", "linear_probe", *retrieval]


def main(argv: Sequence[str]) -> None:
    """Parse, run, print the table."""
    from ..evaluation import results_table
    from .parsing import parse_command

    encoder = argv[0] if argv and not argv[0].startswith("-") else None
    (command,) = parse_command(
        [EvaluateCommand],
        argv if encoder is None else argv[1:],
        name="evaluate",
        description="stablerep evaluate ENCODER [options]: measure an encoder (folder or Hub id) on labelled images.",
    )
    if encoder is None:
        raise InputError("No encoder was named: put its folder or Hub id first, as in `stablerep evaluate encoder`.")
    results = run(encoder, command)
    sys.stdout.write(results_table(results))


def run(
    encoder: str | Path | VisionEncoder,
    command: EvaluateCommand,
    *,
    name: str | None = None,
    seeds: Sequence[int] = (),
) -> list[EvaluationResult]:
    """Measure an encoder by the chosen protocols.

    Args:
        encoder: Folder or Hub id, or an encoder that is loaded.
        command: What to measure on.
        name: What the results call it; its folder's name if not given.
        seeds: Of the training behind it.

    Returns:
        The results, which also stand in `command.output` if given.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit.
    """
    from .. import assets
    from ..evaluation import EvaluationSettings, evaluate_encoder, save_results
    from .loading import content_revision, load_images

    source = assets.pictograms_path() if command.data == EMBEDDED else command.data
    assert command.split is not None and command.protocols is not None  # filled in when the command was made
    supervised = {"knn", "linear_probe"} & set(command.protocols)
    train = load_images(source, command.train_split) if supervised else None
    test = load_images(source, command.split)
    results = evaluate_encoder(
        encoder,
        train,
        test,
        label_column=command.label_column if supervised else None,
        group_column=command.group_column,
        artist_column=command.artist_column,
        protocols=command.protocols,
        encoder_name=name,
        dataset_name="embedded pictograms" if command.data == EMBEDDED else command.data,
        dataset_revision=content_revision(source, test),
        train_split=command.train_split,
        split=command.split,
        seeds=seeds,
        settings=EvaluationSettings(seed=command.seed),
        batch_size=command.batch_size,
        device=command.device,
        max_bad_images=command.max_bad_images,
    )
    if command.output is not None:
        save_results(command.output, results)
    return results
