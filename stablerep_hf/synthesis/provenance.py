"""What a finished folder says about itself: the facts of its card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..captions import read_history
from ..errors import InputError
from ..files.sealing import unseal
from ..files.shards import CAPTIONS, PLAN, PROVENANCE, shard_path
from .plan import parse_plan


@dataclass(frozen=True)
class Provenance:
    """How the images of a folder came to be.

    Attributes:
        settings: The plan: `generator` (a dict), `captions` (`number`, `digest`), `images_per_caption`,
            `prompt_templates`, `base_seed`, `image_format`, `stored_size`, `captions_per_shard`.
        shards: The records of the finished shards, in order.
        caption_history: How the captions came to be, see `CaptionSet.history`: what `stablerep captions` dropped and
            audited. Empty if they came straight from a source.
    """

    settings: Mapping[str, Any]
    shards: tuple[Mapping[str, Any], ...]
    caption_history: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_shards(self) -> int:
        """How many shards the plan has; `len(shards)` of them are finished."""
        return -(-int(self.settings["captions"]["number"]) // int(self.settings["captions_per_shard"]))

    @property
    def num_images(self) -> int:
        """Rows in the finished shards."""
        return sum(record["rows"] for record in self.shards)

    @property
    def num_captions(self) -> int:
        """Captions that have rows in the finished shards."""
        return sum(record["captions"] for record in self.shards)

    @property
    def num_truncated(self) -> int:
        """Prompts whose end the text encoder did not read."""
        return sum(record["truncated_prompts"] for record in self.shards)

    @property
    def num_bytes(self) -> int:
        """Size of the finished shards."""
        return sum(record["bytes"] for record in self.shards)

    @property
    def num_redrawn(self) -> int:
        """Frames that carried no picture, or resembled a sibling, and were drawn again."""
        return sum(record["redrawn"] for record in self.shards)

    @property
    def num_near_siblings(self) -> int:
        """Those of them that were nearer to a sibling than `min_sibling_distance`."""
        return sum(record.get("near_siblings", 0) for record in self.shards)

    @property
    def failed_captions(self) -> tuple[int, ...]:
        """Ids of the captions that got no rows."""
        return tuple(caption_id for record in self.shards for caption_id in record["failed_captions"])

    def num_unscored(self, columns: Iterable[str]) -> int:
        """Rows in the finished shards that lack one of these scores."""
        wanted = set(columns)
        return sum(record["rows"] for record in self.shards if not wanted <= record.get("scores", {}).keys())

    @property
    def seconds(self) -> float:
        """Time that workers spent on drawing, added up."""
        return float(sum(record["seconds"] for record in self.shards))


def read_provenance(folder: str | Path) -> Provenance:
    """Read the plan and the shard records of a folder; the shards themselves are not checked.

    Raises:
        InputError: The folder is none that `synthesize` wrote, or the plan or a record was damaged.
    """
    root = Path(folder) / PROVENANCE
    try:
        settings = parse_plan((root / PLAN).read_bytes())
    except OSError as error:
        raise InputError(
            f"The folder {str(folder)!r} has no readable {PROVENANCE}/{PLAN} ({error.strerror}), so nothing says how "
            "its images were made: give a folder that `stablerep generate` drew into."
        ) from error
    records = []
    shared: dict[str, Any] = {}
    for path in sorted(root.glob("shard-*.json")):
        try:
            record = unseal(path.read_bytes())
            record.pop("coming", None)
            # Nearly always the same in every shard: one object serves all, at a third of the memory.
            for name in ("versions", "scores"):
                if name in record:
                    record[name] = shared.setdefault(repr(record[name]), record[name])
            records.append(record)
        except (OSError, ValueError) as error:
            raise InputError(
                f"The record {path.name!r} is damaged ({error}); draw again into the folder, which repairs it."
            ) from error
    return Provenance(settings, tuple(records), read_history(root / CAPTIONS))


def sample_captions(folder: str | Path, number: int) -> dict[str, list[Image.Image]]:
    """At most `number` captions, spread over a folder, with their images; a few shards are read, whatever its size."""
    provenance = read_provenance(folder)
    ends = np.cumsum([record["captions"] for record in provenance.shards])
    total = int(ends[-1]) if len(ends) else 0
    chosen = np.unique(np.linspace(0, total - 1, min(number, total)).round().astype(np.int64))
    result: dict[str, list[Image.Image]] = {}
    for place, record in enumerate(provenance.shards):
        start = int(ends[place]) - record["captions"]
        here = chosen[(chosen >= start) & (chosen < ends[place])] - start
        if len(here):
            table = pq.read_table(shard_path(Path(folder), record["shard"], provenance.num_shards))
            ids = table["caption_id"].to_numpy()
            first = np.sort(np.unique(ids, return_index=True)[1])  # siblings are adjacent
            for row in table.filter(pa.array(np.isin(ids, ids[first[here]]))).to_pylist():
                result.setdefault(row["caption"], []).append(Image.open(BytesIO(row["image"]["bytes"])))
    return result
