"""`stablerep adapt-generator`: a text-to-image pipeline and a few captioned images to a LoRA of their domain."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.adaptation import AdaptCommand as AdaptCommand, run as run


def main(argv: Sequence[str]) -> None:
    """Parse, run, say how to draw with it."""
    from ..synthesis.adaptation import AdaptationSettings
    from .parsing import parse_command

    command, settings = parse_command(
        [AdaptCommand, AdaptationSettings],
        argv,
        name="adapt-generator",
        description="Adapt a text-to-image pipeline to captioned images of yours by a LoRA. The same command goes on "
        "after an interruption.",
    )
    run(command, settings)
    print(
        f"The LoRA stands in {command.output}: stablerep generate --generator {command.generator} "
        f"--lora {command.output} --prompt_template {command.prompt_template!r}"
    )
