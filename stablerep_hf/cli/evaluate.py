"""`stablerep evaluate`: any encoder, measured on images with labels, captions, or the hands that drew them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..runs.evaluation import NO_CACHE as NO_CACHE, EvaluateCommand as EvaluateCommand, run as run
from .parsing import Command

COMMAND = Command(
    "evaluate",
    "Measure an encoder on images.",
    [EvaluateCommand],
    {
        "ENCODER": "'embedded' or 'embedded-stablerep', a folder or Hub id of transformers, or timm/NAME, "
        "hf-hub:OWNER/NAME or a folder of timm."
    },
)


def main(argv: Sequence[str]) -> None:
    """Parse, run, print the table."""
    encoder, command = COMMAND.parse(argv)
    from ..evaluation import results_table

    results = run(encoder, command)
    sys.stdout.write(results_table(results, measures_as_rows=True))
