"""The folder that a plan is drawn into: shards, and beside each the record that proves it (see `files.shards`)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BufferedRandom
from pathlib import Path
from typing import Any

from ..captions import CaptionSet, read_captions
from ..errors import InputError
from ..files.atomic import readable_disk_errors, remove_leftovers, write_at_once
from ..files.sealing import seal, unseal
from ..files.shards import CAPTIONS, DATA, PLAN, PROVENANCE, read_record, record_path, shard_path
from .drawing import DrawnShard
from .plan import SynthesisPlan, describe_difference, parse_plan, settings_of_another
from .schema import write_rows
from .versions import library_versions


class ShardStore:
    """The files of one plan in one folder. Any number of processes may use the same folder at once."""

    def __init__(self, folder: str | Path, plan: SynthesisPlan) -> None:
        """Look at a folder; nothing is written.

        The store's `plan` is the given one, but where there are shards, the generator's licence is what these say.

        Raises:
            InputError: It holds another plan's shards, or is no place to write to.
        """
        self.folder = Path(folder)
        self.plan = plan
        with readable_disk_errors(self.folder):
            for place in (self.folder, *self.folder.parents):
                if place.is_file():
                    raise InputError(
                        f"The output {str(folder)!r} cannot be written: {place.name!r} is a file; name another folder."
                    )
            settings = self._refuse_other_plan(claimed=False)
        if settings is not None and settings["generator"] != plan.settings["generator"]:
            self.plan = replace(plan, generator=settings["generator"])

    def shard_path(self, shard: int) -> Path:
        """Where a shard's rows are."""
        return shard_path(self.folder, shard, self.plan.num_shards)

    def record_path(self, shard: int) -> Path:
        """Where a shard's record is."""
        return record_path(self.folder, shard)

    def claim(self) -> None:
        """Make the folder this plan's: write the plan and its captions if they are not there whole.

        Raises:
            InputError: It holds another plan's shards, cannot be written to, or the disk is full.
        """
        self._refuse_other_plan(claimed=False)
        plan_path = self.folder / PROVENANCE / PLAN
        captions_path = self.folder / PROVENANCE / CAPTIONS
        text = self.plan.to_json()
        for name in (PROVENANCE, DATA):  # first what tells whose folder it is
            with readable_disk_errors(self.folder / name):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
                remove_leftovers(self.folder / name, even_fresh=False)
        if not self._has_captions():
            write_at_once(captions_path, self.plan.captions.write_parquet)
        with readable_disk_errors(plan_path):
            if not plan_path.exists() or plan_path.read_bytes() != text.encode():
                write_at_once(plan_path, lambda file: file.write(text.encode()))

    def _has_captions(self) -> bool:
        try:
            return stored_captions(self.folder).digest == self.plan.captions.digest
        except InputError:  # missing or damaged
            return False

    def find_record(self, shard: int) -> dict[str, Any] | None:
        """The record of a shard that is whole, by size and sha256; None if it is not, or is another plan's.

        Raises:
            InputError: A file of the shard cannot be read.
        """
        try:
            return read_record(self.folder, shard, self.plan.num_shards, self.plan.hash)
        except InputError:  # a shard that cannot be read may be whole
            raise
        except ValueError:
            return None

    def is_damaged(self, shard: int) -> bool:
        """Say whether something of a shard is there, given that `find_record` found none."""
        return self.shard_path(shard).exists() or self.record_path(shard).exists()

    def write_shard(
        self, shard: int, drawn: DrawnShard, seconds: float, scores: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Write a shard and then its record, each at once.

        Args:
            shard: Its number.
            drawn: Its rows.
            seconds: What drawing it took.
            scores: What measured the scores in its rows, by column.

        Raises:
            InputError: The disk is full, or another plan took the folder meanwhile.
        """
        self._refuse_other_plan(claimed=True)
        facts = write_at_once(
            self.shard_path(shard), lambda file: _write_and_digest(file, drawn.rows), _size(drawn.rows)
        )
        record = {
            "plan_hash": self.plan.hash,
            "shard": shard,
            **facts,
            "rows": len(drawn.rows),
            "captions": drawn.num_captions,
            "redrawn": drawn.num_redrawn,
            "near_siblings": drawn.num_near,
            "truncated_prompts": drawn.num_truncated,
            "failed_captions": drawn.failed_captions,
            "seconds": round(seconds, 3),
            "versions": library_versions(),
        }
        if scores:
            record["scores"] = dict(scores)
        self._write_record(shard, record)
        return record

    def replace_rows(
        self, shard: int, record: Mapping[str, Any], rows: list[dict[str, Any]], facts: Mapping[str, Any]
    ) -> None:
        """Write a whole shard anew with other values in its rows; whenever it is killed, the shard is whole.

        The record names the coming file before that takes its place, so one of the two is always the record's. `facts`
        are added to the record. Raises `InputError` if the disk is full.
        """

        def write(file: BufferedRandom) -> dict[str, Any]:
            coming = {**_write_and_digest(file, rows), **facts}
            self._write_record(shard, {**record, "coming": coming})
            return coming

        self._write_record(shard, {**record, **write_at_once(self.shard_path(shard), write, _size(rows))})

    def _write_record(self, shard: int, record: Mapping[str, Any]) -> None:
        write_at_once(self.record_path(shard), lambda file: file.write(seal(record).encode()))

    def tidy(self) -> None:
        """Remove what killed writers left, once every shard is there: who still scores one writes it again."""
        if all(self.record_path(shard).exists() for shard in range(self.plan.num_shards)):
            for name in (DATA, PROVENANCE):
                remove_leftovers(self.folder / name, even_fresh=True)

    def _refuse_other_plan(self, *, claimed: bool) -> dict[str, Any] | None:
        """Give the settings that are there; raise if another plan drew shards here or, once claimed, is the folder's.

        A plan of which nothing was drawn yet may be replaced (nothing is lost), and so may a damaged one if the shard
        records say that it was this one.
        """
        shards = _any_file(self.folder / DATA, ".parquet") or _any_file(self.folder / PROVENANCE, ".json", but=PLAN)
        if not (shards or claimed):
            return None
        try:
            settings = parse_plan((self.folder / PROVENANCE / PLAN).read_bytes())
        except (OSError, InputError) as error:
            if {record["plan_hash"] for record in self._records()} == {self.plan.hash}:
                return None
            raise InputError(
                f"The folder {str(self.folder)!r} holds files, but its {PROVENANCE}/{PLAN} is missing or damaged, so "
                "nothing says whose they are; name another folder."
            ) from error
        if difference := describe_difference(settings, self.plan.settings):
            given = settings_of_another(settings, self.plan.settings)
            remedy = f"give {given}" if given else "use the settings it was made with"
            raise InputError(
                f"The folder {str(self.folder)!r} holds images of another plan: {difference}; {remedy}, or name "
                "another folder."
            )
        return settings

    def scored_columns(self) -> list[str]:
        """The score columns that records say were measured, of damaged shards too."""
        return sorted({column for record in self._records() for column in record.get("scores", {})})

    def _records(self) -> Iterator[dict[str, Any]]:
        for path in (self.folder / PROVENANCE).glob("shard-*.json"):
            try:
                yield unseal(path.read_bytes())
            except (OSError, ValueError):  # a torn record says nothing
                continue


def _size(rows: list[dict[str, Any]]) -> int:
    """About how many bytes rows take: their images do."""
    return sum(len(row["image"]["bytes"]) for row in rows)


def _write_and_digest(file: BufferedRandom, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Write rows, and say the size and sha256 of the file."""
    write_rows(file, rows)
    size = file.seek(0, 2)
    file.seek(0)
    return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": size}


def _any_file(folder: Path, suffix: str, but: str = "") -> bool:
    """Whether a folder has a visible file of this suffix; it is not listed to its end (it may hold 100,000)."""
    try:
        with os.scandir(folder) as entries:
            return any(e.name.endswith(suffix) and e.name != but and not e.name.startswith(".") for e in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False


def stored_captions(folder: Path) -> CaptionSet:
    """The captions that a store was made for; `InputError` if their file is missing or damaged."""
    try:
        return read_captions(folder / PROVENANCE / CAPTIONS)
    except (ValueError, NotImplementedError) as error:  # a flipped bit may name an encoding that there is not
        raise InputError(
            f"The folder {str(folder)!r} has no readable {PROVENANCE}/{CAPTIONS} ({error}): run the `stablerep "
            "generate` that drew it again, which restores that file."
        ) from error
