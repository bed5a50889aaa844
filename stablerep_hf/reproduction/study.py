"""A study: what is missing in the records is run, then the report is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import progress
from ..errors import InputError
from ..setting import setting
from .workers import run_tasks

if TYPE_CHECKING:
    from . import Claim, Records, Scale
    from .cell_runner import CellRunner, Task

RECORDS = "records.jsonl"


@dataclass
class StudySettings:
    """Settings of a study of the paper's claims."""

    claims: list[int] = setting([1, 2, 3, 4, 5, 6], "Which of the six; all if not given.")
    quick: bool = setting(False, "All of it at a scale for a first look: fewer captions, steps and seeds.")
    output: str = setting(
        "reproduction", "Folder of report, plots and records; the records are all that a run needs to go on."
    )
    work: str | None = setting(None, "Folder of drawn images, worth keeping while it runs; 'work' in the output.")
    jobs: int = setting(1, "Processes side by side, of one thread each.")
    report_only: bool = setting(False, "Write the report of what is recorded so far, and train nothing.")
    num_captions: int | None = setting(None, "Captions of the largest image set, a multiple of 8.")
    max_steps: int | None = setting(None, "Steps of each training run.")
    views_per_batch: int | None = setting(None, "Images seen in a step, a multiple of 8.")
    num_seeds: int | None = setting(None, "Training runs of each setting.")
    dtype: Literal["float32", "float16", "bfloat16"] = setting(
        "bfloat16", "Precision in which the generator draws; float32 where bfloat16 is slow."
    )


def run_study(settings: StudySettings | None = None) -> Path:
    """Run what is missing in the records, then write the report. Interrupted, the same call goes on.

    Args:
        settings: The defaults if not given.

    Returns:
        The report, a Markdown file.

    Raises:
        InputError: A number cannot work, or another process is at work on the same records.
    """
    from filelock import FileLock, Timeout

    from ..files.places import check_place
    from . import Records, Study, make_claims, write_study
    from .cell_runner import CellRunner

    command = settings or StudySettings()
    scale = scale_of(command)
    claims = [claim for claim in make_claims(scale) if claim.number in command.claims]
    if unknown := set(command.claims) - {claim.number for claim in claims}:
        raise InputError(f"There is no claim {min(unknown)}: choose of 1 to 6.")
    if command.jobs < 1:
        raise InputError(f"jobs={command.jobs} does nothing: give 1 or more.")
    output = Path(command.output)
    work = output / "work" if command.work is None else Path(command.work)
    check_place("output", output)
    runner = CellRunner(work, scale, command.dtype)
    if not command.report_only:
        check_place("work", work)
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / f".{RECORDS}.lock", timeout=0):
                records = Records(output / RECORDS)
                _run_missing(claims, scale, records, runner, command.jobs)
        except Timeout as error:
            raise InputError(f"Another process is at work in {output}: let it finish, or stop it first.") from error
    study = Study(claims, scale, Records(output / RECORDS), runner.key)
    return write_study(study, output, _as_typed(command))


def _as_typed(command: StudySettings) -> str:
    """The command that makes the report, but for where things lie and how many processes work."""
    from dataclasses import fields

    words = ["stablerep reproduce"]
    for entry in fields(command):
        value = getattr(command, entry.name)
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
        if value == default or entry.name in ("output", "work", "jobs", "report_only"):
            continue
        shown = "" if value is True else " " + " ".join(map(str, value)) if isinstance(value, list) else f" {value}"
        words.append(f"--{entry.name.replace('_', '-')}{shown}")
    return " ".join(words)


def scale_of(command: StudySettings) -> Scale:
    """The scale that the flags ask for.

    Raises:
        InputError: A number cannot work.
    """
    from dataclasses import replace

    from . import QUICK, Scale

    given: dict[str, Any] = {
        "captions": command.num_captions,
        "steps": command.max_steps,
        "views": command.views_per_batch,
        "seeds": command.num_seeds,
    }
    scale = replace(QUICK if command.quick else Scale(), **{name: v for name, v in given.items() if v is not None})
    if scale.captions % 8 or not 16 <= scale.captions <= 1312:
        raise InputError(
            f"num_captions={scale.captions} cannot be parted: give a multiple of 8 from 16 to 1312, since the "
            "smallest set is an eighth and there are 1,315 captions."
        )
    largest = scale.captions // 2  # of captions of four images, a quarter of the captions is the smallest set
    if scale.views % 8 or not 8 <= scale.views <= largest:
        raise InputError(
            f"views_per_batch={scale.views} with num_captions={scale.captions}: give a multiple of 8 from 8 to "
            f"{largest}, or a batch would need more captions than the smallest set has."
        )
    for name, least in (("steps", 1), ("seeds", 2)):
        if getattr(scale, name) < least:
            raise InputError(f"{name}={getattr(scale, name)} says nothing: give at least {least}.")
    return scale


def tasks(claims: Sequence[Claim], scale: Scale) -> Iterator[Task]:
    """All that has to be done, seed by seed, so that an unfinished run says something of every claim."""
    from . import Cell, all_settings

    for seed in range(scale.seeds):
        for encoder in all_settings(claims):
            if seed == 0 or encoder.has_seeds:
                yield Cell(setting=encoder, seed=seed)
    yield from dict.fromkeys(images for claim in claims for images in claim.described_images)


def _run_missing(claims: Sequence[Claim], scale: Scale, records: Records, runner: CellRunner, jobs: int) -> None:
    every = list(tasks(claims, scale))
    missing = [task for task in every if runner.key(task) not in records]
    done = len(every) - len(missing)
    progress.say(f"{done} of {len(every)} parts of the study are recorded.")
    for record in run_tasks(missing, runner, min(jobs, len(missing))):
        records.add(record)
        done += 1
        progress.say(f"[{done}/{len(every)}] {_line(record)}")


def _line(record: dict[str, Any]) -> str:
    """What was done, for the log."""
    if "setting" not in record:
        return f"images of {record['images']}: {record['num_images']:,} ({record['cpu_seconds']} s)"
    setting, images = record["setting"], record["setting"]["images"]
    scores = ", ".join(
        f"{row['protocol']} {100 * row['value']:.1f}"
        for row in record["results"]
        if row["metric"] in ("accuracy", "recall@1") and "frequency" not in row.get("variant", "")
    )
    what = f"{images['captions']} captions x {images['images_per_caption']}" if images else "no images"
    return f"{setting['objective']}, {what}, seed {record['seed']}: {scores} ({record['cpu_seconds']} s)"
