"""`stablerep evaluate`: any encoder, measured on images with labels, captions, or the hands that drew them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import InputError
from ..runs.evaluation import NO_CACHE as NO_CACHE, EvaluateCommand as EvaluateCommand, run as run


def main(argv: Sequence[str]) -> None:
    """Parse, run, print the table."""
    from ..evaluation import results_table
    from .parsing import parse_command

    encoder = argv[0] if argv and not argv[0].startswith("-") else None
    (command,) = parse_command(
        [EvaluateCommand],
        argv if encoder is None else argv[1:],
        name="evaluate ENCODER",
        description="Measure an encoder on images. ENCODER is 'embedded' or 'embedded-stablerep', a folder or Hub "
        "id of transformers, or timm/NAME, hf-hub:OWNER/NAME or a folder of timm.",
    )
    if encoder is None:
        raise InputError("No encoder was named: put its folder or Hub id first, as in `stablerep evaluate encoder`.")
    results = run(encoder, command)
    sys.stdout.write(results_table(results, measures_as_rows=True))
