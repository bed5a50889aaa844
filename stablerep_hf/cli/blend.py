"""`stablerep blend`: an encoder between a start and what it was adapted to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.blending import BlendingSettings, blend
from ..setting import setting
from .parsing import Command


@dataclass
class BlendFlags:
    """Flags of `stablerep blend` beside its settings."""

    output: str = setting("blended", "Folder of the chosen encoder and of the curve.")


COMMAND = Command(
    "blend",
    "Measure encoders between START and ADAPTED on a domain and on the rest, and write the best that forgets little.",
    [BlendFlags, BlendingSettings],
    {
        "START": "Encoder before its adaptation: a folder, a Hub id, 'embedded' or 'embedded-stablerep'.",
        "ADAPTED": "The encoder after it, as `stablerep train --init_from START` wrote it.",
    },
    ["output", "data and choice"],
)


def main(argv: Sequence[str]) -> None:
    """Parse, blend, print the curve."""
    start, adapted, flags, settings = COMMAND.parse(argv)
    blending = blend(start, adapted, flags.output, settings)
    sys.stdout.write(blending.table())
    print(f"The encoder with share {blending.chosen.weight:g} was saved to {flags.output}.")
