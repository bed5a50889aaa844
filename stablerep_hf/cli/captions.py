"""`stablerep captions`: text from anywhere to a clean, balanced, audited caption set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..captions import CaptionSettings
from ..errors import InputError
from ..setting import setting
from .parsing import Command

if TYPE_CHECKING:
    from ..captions import PreparedCaptions


@dataclass
class Output:
    """Where the set is written."""

    output: str = setting("captions.parquet", "Parquet file for the caption set; its audit is written beside it.")


COMMAND = Command(
    "captions",
    "Clean, balance and audit the captions of a file, a folder or a Hub id; with --classes, without a SOURCE, write "
    "captions of class names.",
    [CaptionSettings, Output],
    {"[SOURCE]": "Captions: a file, a folder or a Hub id."},
    titles=("source", "output"),
)


def main(argv: Sequence[str]) -> None:
    """Prepare captions, save them, and print what was dropped."""
    source, settings, place = COMMAND.parse(argv)
    if (source is None) == (settings.classes is None):
        raise InputError("Name one source of captions, as in `stablerep captions my.csv`, or none and --classes.")
    from ..captions import prepare_captions
    from ..captions.preparing import caption_file
    from ..files.places import check_apart, check_place

    path = caption_file(place.output)
    if source is not None:
        check_apart(path, source)
    check_place("output", path, is_file=True)
    prepared = prepare_captions(source, settings, answers=path.with_suffix(".answers.jsonl"))
    files = prepared.save(path)
    print(_report(prepared, files, settings))


def _report(prepared: PreparedCaptions, files: Sequence[Path], settings: CaptionSettings) -> str:
    captions = prepared.captions
    lines = [f"read      {prepared.num_read:>12,} captions, {prepared.num_equal:,} of them equal to another"]
    if prepared.num_empty:
        lines.append(f"dropped   {prepared.num_empty:>12,} empty")
    lines += [f"dropped   {number:>12,} {reason}" for reason, number in prepared.dropped.items()]
    lines.append(f"kept      {len(captions):>12,}")
    for name, number in prepared.missing.items():
        lines.append(f"missing   {number:>12,} of {settings.per_class} captions of the class {name!r}")
    if captions.num_images is not None:
        by = captions.history["allocation"] or "the source"
        lines.append(f"images    {int(captions.num_images.sum()):>12,} by {by}")
    path, *audit = files
    return "\n".join(
        [
            *lines,
            "",
            prepared.audit.to_markdown(),
            f"The audit is in {', '.join(map(str, audit))}.",
            f"The captions are in {path}: stablerep generate --captions {path} --generator REPO",
        ]
    )
