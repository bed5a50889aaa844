"""`stablerep adapt-generator`: a text-to-image pipeline and a few captioned images to a LoRA of their domain."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.adaptation import AdaptCommand as AdaptCommand, run as run
from ..synthesis.adaptation_settings import AdaptationSettings
from .parsing import Command

COMMAND = Command(
    "adapt-generator",
    "Adapt a text-to-image pipeline to captioned images of yours by a LoRA. The same command goes on after an "
    "interruption.",
    [AdaptCommand, AdaptationSettings],
    titles=("images and output", "the LoRA and its training"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, run, say how to draw with it."""
    command, settings = COMMAND.parse(argv)
    run(command, settings)
    print(
        f"The LoRA stands in {command.output}: stablerep generate --generator {command.generator} "
        f"--lora {command.output} --prompt-templates {command.prompt_template!r}"
    )
