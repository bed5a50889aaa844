"""A study: what is missing in the records is run, then the report is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import progress
from ..errors import InputError
from ..setting import setting
from ..synthesis.workers import use_one_gpu
from .workers import run_tasks

if TYPE_CHECKING:
    from .cell_runner import CellRunner, Task
    from .claims import Claim
    from .records import Records
    from .world import World

RECORDS = "records.jsonl"


@dataclass
class StudySettings:
    """Settings of a study of the paper's claims."""

    world: str = setting(
        "embedded", "What the claims are tested on: 'embedded', 'photos', or a YAML file like theirs."
    )
    data: str | None = setting(None, "Folder that the world's relative paths start from; its own if not given.")
    generator: str | None = setting(
        None, "Pipeline, or folder of a data set that one drew, in place of the world's generator."
    )
    claims: list[int] | None = setting(None, "Which of them; all that the world can test if not given.")
    dry_run: bool = setting(False, "Check the world, say what would be trained and drawn, and for how long, and stop.")
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

    Returns:
        The report, a Markdown file; of a dry run nothing is written.

    Raises:
        InputError: The world or a number cannot work, or another process is at work on the same records.
    """
    use_one_gpu()
    from filelock import FileLock, Timeout

    from ..files.places import check_place
    from .cell_runner import CellRunner
    from .claims import make_claims
    from .records import Records
    from .report import Study, write_study
    from .world import read_world
    from .world_checks import check_world

    command = settings or StudySettings()
    world = at_scale(read_world(command.world, command.data, command.generator), command)
    claims = [claim for claim in make_claims(world) if command.claims is None or claim.number in command.claims]
    if unknown := set(command.claims or ()) - {claim.number for claim in claims}:
        known = ", ".join(str(claim.number) for claim in make_claims(world))
        drawn = min(unknown) in world.claims and not world.draws
        remedy = "name a pipeline as `generator`, as it compares how images are drawn, or " if drawn else ""
        raise InputError(
            f"claims={min(unknown)} cannot be tested in world={command.world}: {remedy}choose of {known}."
        )
    if command.jobs < 1:
        raise InputError(f"jobs={command.jobs} does nothing: give 1 or more.")
    output = Path(command.output)
    work = output / "work" if command.work is None else Path(command.work)
    check_place("output", output)
    runner = CellRunner(work, world, command.dtype)
    if not command.report_only:
        check_place("work", work)
        check_world(world)
        if command.dry_run:
            progress.say(estimate(claims, world, Records(output / RECORDS), runner))
            return output
        output.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(output / f".{RECORDS}.lock", timeout=0):
                records = Records(output / RECORDS)
                _run_missing(claims, world, records, runner, command.jobs)
        except Timeout as error:
            raise InputError(f"Another process is at work in {output}: let it finish, or stop it first.") from error
    study = Study(claims, world, Records(output / RECORDS), runner.key)
    return write_study(study, output, _as_typed(command))


def estimate(claims: Sequence[Claim], world: World, records: Records, runner: CellRunner) -> str:
    """What is missing, and how long it takes by the world's `core_seconds` (see there)."""
    from .cells import Cell
    from .image_sets import drawn_alike

    missing = [task for task in tasks(claims, world) if runner.key(task) not in records]
    cells = [task for task in missing if isinstance(task, Cell)]
    views = sum(cell.setting.steps * cell.setting.views for cell in cells)
    sets = [task.setting.images if isinstance(task, Cell) else task for task in missing]
    drawn = {drawn_alike(one): one for one in sets if one is not None and one.source == "synthetic"}
    images = sum(int(runner.sets.numbers(one).sum()) for one in drawn.values()) if world.draws else 0
    costs = world.core_seconds
    seconds = views * costs.get("view", 0) + images * costs.get("drawn", 0) + len(missing) * costs.get("measuring", 0)
    return (
        f"{world.name}: {len(cells):,} training runs and measurements to do, {views:,} views, "
        f"{images:,} images to draw, about {seconds / 3600:.1f} hours of one core."
    )


def _as_typed(command: StudySettings) -> str:
    """The command that makes the report, without paths and the number of processes."""
    from dataclasses import fields

    words = ["stablerep reproduce"]
    for entry in fields(command):
        value = getattr(command, entry.name)
        default = entry.default_factory() if callable(entry.default_factory) else entry.default
        if value == default or entry.name in ("output", "work", "jobs", "report_only", "dry_run", "data", "generator"):
            continue
        shown = "" if value is True else " " + " ".join(map(str, value)) if isinstance(value, list) else f" {value}"
        words.append(f"--{entry.name.replace('_', '-')}{shown}")
    return " ".join(words)


def at_scale(world: World, command: StudySettings) -> World:
    """The world at the scale that the settings ask for; `InputError` if a number cannot work."""
    from dataclasses import replace

    given: dict[str, Any] = {
        "captions": command.num_captions,
        "steps": command.max_steps,
        "views": command.views_per_batch,
        "seeds": command.num_seeds,
    }
    scale = world.quick if command.quick else world.scale
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})
    if scale.captions % 8 or scale.captions < 16:
        raise InputError(
            f"num_captions={scale.captions} cannot be parted: give a multiple of 8 from 16 on, since the smallest set "
            "is an eighth."
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
    return replace(world, scale=scale)


def tasks(claims: Sequence[Claim], world: World) -> Iterator[Task]:
    """All that has to be done, seed by seed and short runs first: an unfinished study says something of all."""
    from .cells import Cell
    from .claims import all_settings

    for seed in range(world.scale.seeds):
        for encoder in sorted(all_settings(claims), key=lambda one: one.steps):
            if seed == 0 or encoder.has_seeds:
                yield Cell(setting=encoder, seed=seed)
    yield from dict.fromkeys(images for claim in claims for images in claim.described_images)


def _run_missing(claims: Sequence[Claim], world: World, records: Records, runner: CellRunner, jobs: int) -> None:
    every = list(tasks(claims, world))
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
        f"{' '.join(filter(None, (row.get('variant'), row['protocol'])))} {100 * row['value']:.1f}"
        for row in record["results"]
        if row["metric"] in ("accuracy", "recall@1") and "frequency" not in row.get("variant", "")
    )
    what = f"{images['captions']} captions x {images['images_per_caption']}" if images else "no images"
    return f"{setting['objective']}, {what}, seed {record['seed']}: {scores} ({record['cpu_seconds']} s)"
