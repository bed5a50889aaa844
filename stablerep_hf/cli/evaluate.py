"""`stablerep evaluate`: encoders side by side on images with labels, captions, or the hands that drew them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..evaluation.settings import EvaluationSettings
from ..runs.evaluation import MeasuringSettings, evaluate
from .parsing import Command
from .wording import PART_DONE

COMMAND = Command(
    "evaluate",
    "Measure encoders on images, side by side with the bare pixels.",
    [MeasuringSettings, EvaluationSettings],
    {
        "ENCODER...": "'embedded' or 'embedded-stablerep', a folder or Hub id of transformers, or timm/NAME, "
        "hf-hub:OWNER/NAME or a folder of timm; 'untrained' is the first one before its training."
    },
    ["data and output", "protocols"],
)


def main(argv: Sequence[str]) -> None:
    """Parse, measure, print the tables."""
    encoders, measuring, settings = COMMAND.parse(argv)
    from ..evaluation.tables import differences_table, results_table

    results = evaluate(encoders, measuring, settings)
    if not results:
        print(PART_DONE)
        return
    sys.stdout.write(results_table(results, measures_as_rows=True))
    sys.stdout.write(differences_table(results))
