"""`stablerep verify`: is a data set folder what its plan says?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..setting import setting
from ..synthesis.settings import SigningSettings
from .parsing import Command
from .score import print_missing_scores

_SHOWN = 20


@dataclass
class VerifyFlags:
    """Flags of `stablerep verify`, beside the folder."""

    repair: bool = setting(False, "Remove what is wrong and draw it again.")
    decode: bool = setting(True, "Decode every image.")
    generator: str | None = setting(None, "With --repair: where the pipeline that drew it is, if not on the Hub.")
    lora: str | None = setting(None, "With --repair: where its LoRA is, if not on the Hub.")
    batch_size: int | None = setting(None, "With --repair: images drawn at once.")
    max_failed_captions: int = setting(0, "With --repair: captions that may get no picture.")


COMMAND = Command(
    "verify",
    "Check every file, row and image of a data set against its plan.",
    [VerifyFlags, SigningSettings],
    {"DIR": "Folder of a data set."},
    titles=("checks and repair", "signing of repaired images"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, verify, print what is wrong, and repair it if asked."""
    folder, flags, signing = COMMAND.parse(argv)
    from ..runs.verification import repair
    from ..synthesis.verification import verify_store

    report = verify_store(folder, decode=flags.decode)
    for problem in report.problems[:_SHOWN]:
        print(f"{problem.kind:<24} {problem.where} {problem.detail}".rstrip())
    if len(report.problems) > _SHOWN:
        print(f"... and {len(report.problems) - _SHOWN:,} more")
    print(f"{report.num_images:,} images in {report.num_shards:,} shards: {report.listed}.")
    if report.is_sound:
        return
    if not flags.repair:
        raise InputError(
            f"{folder} is not what its plan says ({report.listed}): --repair removes that and draws it again."
        )
    repaired = repair(
        folder,
        report,
        generator=flags.generator,
        lora=flags.lora,
        batch_size=flags.batch_size,
        max_failed_captions=flags.max_failed_captions,
        signing=signing,
        decode=flags.decode,
    )
    print(f"Repaired: {repaired.report.num_images:,} images in {repaired.report.num_shards:,} shards.")
    print_missing_scores(folder, repaired.unscored)
