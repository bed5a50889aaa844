"""A data set that is not what its plan says, drawn again where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError
from ..files.locks import lock_folder
from ..synthesis.redrawing import generator_of
from ..synthesis.run import check_parts, synthesize
from ..synthesis.settings import SigningSettings
from ..synthesis.signing import make_signer
from ..synthesis.verification import VerificationReport, open_store, remove_problems, verify_store
from .cards import renew_data_card
from .scoring import UnscoredImages, find_unscored


@dataclass(frozen=True)
class Repair:
    """What `repair` did.

    Attributes:
        report: Of the folder as it is now.
        unscored: Images that lack scores which the folder had.
    """

    report: VerificationReport
    unscored: UnscoredImages


def repair(
    folder: str,
    report: VerificationReport,
    *,
    generator: str | None = None,
    lora: str | None = None,
    batch_size: int | None = None,
    max_failed_captions: int = 0,
    signing: SigningSettings | None = None,
    decode: bool = True,
    progress: bool = True,
) -> Repair:
    """Remove what a report found wrong, draw it again and nothing else, verify, and write the card again.

    Args:
        folder: The data set.
        report: What `verify_store` found.
        generator: Where the pipeline that drew it is, if not on the Hub.
        lora: Where its LoRA is, if not on the Hub.
        batch_size: Images drawn at once.
        max_failed_captions: Captions that may get no picture.
        signing: What signs the files, where the plan says so.
        decode: Whether to verify every image.
        progress: Whether to show a bar.

    Raises:
        InputError: The generator or signer is not the plan's, another process writes to the folder, or it is not sound
            afterwards.
    """
    store = open_store(folder)
    pipeline, signer = generator_of(store.plan, generator, lora), make_signer(signing)
    check_parts(store.plan, pipeline, signer)
    with lock_folder(folder):
        scored = store.scored_columns()
        remove_problems(folder, report)
        synthesize(
            store.plan,
            pipeline,
            folder,
            batch_size=batch_size,
            max_failed_captions=max_failed_captions,
            signer=signer,
            progress=progress,
        )
        report = verify_store(folder, decode=decode, progress=progress)
        if not report.is_sound:
            raise InputError(
                f"{folder} was drawn again where it was wrong, and still is not what its plan says ({report.listed}): "
                "look at the disk and at what else writes there, and repair it again."
            )
        renew_data_card(folder)
    return Repair(report, find_unscored(folder, scored))
