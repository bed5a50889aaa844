"""`stablerep adapt-generator`: a text-to-image pipeline and a few captioned images to a LoRA of their domain."""

from __future__ import annotations

from collections.abc import Sequence

from ..synthesis.adaptation_settings import AdaptationInputs, AdaptationSettings
from .parsing import Command

COMMAND = Command(
    "adapt-generator",
    "Adapt a text-to-image pipeline to captioned images of yours by a LoRA. The same command goes on after an "
    "interruption.",
    [AdaptationInputs, AdaptationSettings],
    titles=("images and output", "the LoRA and its training"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, run, say how to draw with it."""
    inputs, settings = COMMAND.parse(argv)
    from ..runs.adaptation import adapt

    adapt(inputs, settings)
    print(
        f"The LoRA is in {inputs.output}: stablerep generate --generator {inputs.generator} "
        f"--lora {inputs.output} --prompt-templates {inputs.prompt_template!r}"
    )
