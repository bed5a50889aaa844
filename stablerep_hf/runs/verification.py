"""`stablerep verify`: is a data set folder what its plan says?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import InputError
from .generation import SigningFlags, open_signer
from .scoring import say_unscored

if TYPE_CHECKING:
    from ..synthesis import VerificationReport

_SHOWN = 20


@dataclass
class VerifyCommand:
    """Flags of `stablerep verify`, beside the folder."""

    repair: bool = field(default=False, metadata={"help": "Remove what is wrong and draw it again."})
    decode: bool = field(default=True, metadata={"help": "Decode every image."})
    generator: str | None = field(
        default=None,
        metadata={"help": "With --repair: where the pipeline that drew it is, if not on the Hub."},
    )
    lora: str | None = field(default=None, metadata={"help": "With --repair: where its LoRA is, if not on the Hub."})
    batch_size: int | None = field(default=None, metadata={"help": "With --repair: images drawn at once."})
    max_failed_captions: int = field(default=0, metadata={"help": "With --repair: captions that may get no picture."})


def run(folder: str, command: VerifyCommand, signing: SigningFlags | None = None) -> VerificationReport:
    """Verify, print what is wrong, and repair if asked.

    Raises:
        InputError: The folder is no data set of this package, is not sound and was not to be repaired, or is not sound
            even so.
    """
    from ..synthesis import check_parts, generator_of, open_store, remove_problems, synthesize, verify_store
    from . import cards

    report = verify_store(folder, decode=command.decode)
    for problem in report.problems[:_SHOWN]:
        print(f"{problem.kind:<24} {problem.where} {problem.detail}".rstrip())
    if len(report.problems) > _SHOWN:
        print(f"... and {len(report.problems) - _SHOWN:,} more")
    counts = _listed(report)
    print(f"{report.num_images:,} images in {report.num_shards:,} shards: {counts}.")
    if report.is_sound:
        return report
    if not command.repair:
        raise InputError(f"{folder} is not what its plan says ({counts}): --repair removes that and draws it again.")
    store = open_store(folder)
    generator, signer = generator_of(store.plan, command.generator, command.lora), open_signer(signing)
    check_parts(store.plan, generator, signer)
    scored = store.scored_columns()
    remove_problems(folder, report)
    synthesize(
        store.plan,
        generator,
        folder,
        batch_size=command.batch_size or generator.default_batch_size,
        max_failed_captions=command.max_failed_captions,
        truncate_prompts=True,  # they were accepted when the folder was drawn
        signer=signer,
    )
    report = verify_store(folder, decode=command.decode)
    if not report.is_sound:
        raise InputError(
            f"{folder} was drawn again where it was wrong, and still is not what its plan says ({_listed(report)}): "
            "look at the disk and at what else writes there, and repair it again."
        )
    cards.renew_data_card(folder)
    print(f"Repaired: {report.num_images:,} images in {report.num_shards:,} shards.")
    say_unscored(folder, scored)
    return report


def _listed(report: VerificationReport) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in report.counts.items()) or "nothing is wrong"
