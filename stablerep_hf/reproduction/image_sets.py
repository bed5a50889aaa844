"""The image sets of a world: which captions, drawn how, and what the images are like."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow.parquet as pq
from filelock import FileLock

from .. import assets
from ..assets import EMBEDDED
from ..captions import CaptionSet, caption_id, read_captions
from ..errors import InputError
from ..evaluation import bootstrap_interval
from ..evaluation.images import load_images
from ..models import StableRepModel  # noqa: F401  # makes the judge's type known to transformers
from ..runs.content import content_revision
from ..runs.data import find_data
from ..runs.generation import GenerationRun
from ..runs.training import TrainingRun
from ..synthesis import AlignmentScorer, DiversityScorer, GenerationSettings
from ..synthesis.pipeline_folder import content_digest
from .cells import ImageSet
from .claims import all_settings, make_claims
from .world import RealImages, World

Dtype = Literal["float32", "float16", "bfloat16"]
_JUDGE_SEED = 1000  # of the encoder that judges alignment: no seed of a table


class ImageSets:
    """Draws what is asked for when it is asked for. What is in its folder already is not made again.

    Args:
        work: Folder for drawn images and the judge of alignment; nothing in it is needed to go on from records.
        world: Whose images.
        dtype: In which the generator draws.
    """

    def __init__(self, work: Path, world: World, dtype: Dtype) -> None:
        self.work = work
        self.world = world
        self.dtype = dtype
        self._loaded: dict[str, datasets.Dataset] = {}

    def images(self, wanted: ImageSet, objective: str = "") -> datasets.Dataset:
        """The images of a set, drawn if they are not there; of real ones those that serve the objective."""
        places = self._places(wanted)
        chosen = self.captions.caption_ids[places]
        if wanted.source == "real":
            real = self.real_for(objective)
            return real.select(np.flatnonzero(np.isin(real["caption_id"][:], chosen)))
        if self.world.draws:
            parts = [part for part in self._parts if np.isin(places, np.arange(part.start, part.stop)).any()]
            drawn = datasets.concatenate_datasets([self._draw(wanted, part) for part in parts])
        else:
            drawn = self.drawn_before
        ids, indices = (np.asarray(drawn[name][:]) for name in ("caption_id", "image_index"))
        # a frame that showed nothing was drawn again under the next index, so an index may lie beyond the number
        rows = np.flatnonzero(np.isin(ids, chosen))
        rows = rows[_rank(ids[rows], indices[rows]) < wanted.drawn_per_caption]
        if wanted.aligned:
            alignment = self._alignment(drawn.select(rows))
            rows = rows[_rank(ids[rows], -alignment) < wanted.images_per_caption]
        return drawn.select(np.sort(rows))

    @cached_property
    def captions(self) -> CaptionSet:
        """All captions in the order of the study: by id, which is a hash and so as good as random."""
        source = self.world.captions
        if source == "real":
            captions = CaptionSet.from_texts(self.real["caption"][:])
        else:
            captions = read_captions(assets.captions_path() if source == EMBEDDED else source)
        return captions.select(np.argsort(captions.caption_ids))

    @cached_property
    def real(self) -> datasets.Dataset:
        """The world's real images: `image`, `caption`, `caption_id` and `image_index`."""
        return self._joined(self.world.real)

    def real_for(self, objective: str) -> datasets.Dataset:
        """The real images that an objective can learn from; for supcon with a column `label`."""
        if objective == "supcon":
            return self._joined([one for one in self.world.real if one.label_column is not None])
        if objective in ("stablerep", "stablerep+"):
            return self._joined([one for one in self.world.real if one.siblings])
        return self.real

    def _joined(self, parts: Sequence[RealImages]) -> datasets.Dataset:
        for one in parts:
            if repr(one) not in self._loaded:
                self._loaded[repr(one)] = captioned(one)
        loaded = [self._loaded[repr(one)] for one in parts]
        kept = set.intersection(*(set(part.column_names) for part in loaded))
        return datasets.concatenate_datasets([part.select_columns(sorted(kept)) for part in loaded])

    @cached_property
    def tails(self) -> dict[int, str]:
        """Caption id -> value of the column that says which captions are rare."""
        embedded = self.world.captions == EMBEDDED
        files = [assets.captions_path(), assets.captions_path("held_out")] if embedded else [self.world.captions]
        column = self.world.tail["column"]
        return {
            row["caption_id"]: row[column]
            for file in files
            for row in pq.read_table(file, columns=["caption_id", column]).to_pylist()
        }

    @cached_property
    def revisions(self) -> dict[str, str]:
        """What the real images, those measured without labels and the generator are, as digests or commits."""
        found = {
            f"real {place}": content_revision(find_data(one.data), load_images(find_data(one.data), one.split))
            for place, one in enumerate(self.world.real)
        }
        if self.world.label_free is not None:
            one = self.world.label_free
            found["label free"] = content_revision(find_data(one.data), load_images(find_data(one.data), one.split))
        if self.world.generator is not None:
            folder = assets.generator_path() if self.world.generator == EMBEDDED else Path(self.world.generator)
            found["generator"] = content_digest(folder) if folder.is_dir() else self.world.generator
        return found

    def _places(self, wanted: ImageSet) -> np.ndarray:
        """Which captions are in a set, as places in `captions`."""
        every = np.arange(len(self.captions))
        if not wanted.balanced:
            return every[: wanted.captions]
        # `balance_captions` thins by chance, which leaves another number each time; equal budgets need this very one
        names = np.array([self.tails[caption_id] for caption_id in self.captions.caption_ids.tolist()])
        return np.lexsort((every, _rank(names, every)))[: wanted.captions]

    @property
    def _parts(self) -> tuple[range, ...]:
        """Places of captions that are drawn together; small sets do not wait for the large ones that they lie in."""
        bounds = [0, self.world.scale.captions // 4, self.world.scale.captions // 2, len(self.captions)]
        return tuple(range(start, stop) for start, stop in itertools.pairwise(bounds))

    @cached_property
    def drawn_before(self) -> datasets.Dataset:
        """Images that were drawn elsewhere, counted within their captions."""
        drawn = captioned(RealImages(data=str(self.world.generator)))
        ids = np.asarray(drawn["caption_id"][:])
        return drawn.remove_columns("image_index").add_column("image_index", _rank(ids, np.arange(len(ids))))

    def numbers(self, like: ImageSet) -> np.ndarray:
        """(captions,) int64: how many images of each caption the study needs of this guidance and these steps."""
        numbers = np.zeros(len(self.captions), np.int64)
        for setting in all_settings(make_claims(self.world)):
            own = setting.images
            if own is not None and own.source == "synthetic" and drawn_alike(own) == drawn_alike(like):
                places = self._places(own)
                numbers[places] = np.maximum(numbers[places], own.drawn_per_caption)
        return numbers

    def _draw(self, wanted: ImageSet, part: range) -> datasets.Dataset:
        """Draw, or find drawn, all images of a part that the study needs of this guidance and these steps."""
        guidance = "-".join(f"{value:g}" for value in (wanted.guidance_scale, *(wanted.guidance_interval or ())))
        name = f"guidance-{guidance}-steps-{wanted.num_inference_steps}-captions-{part.start}"
        folder = self.work / f"captions-{self.world.scale.captions}" / f"{name}-{self.dtype}"
        if folder.name in self._loaded:
            return self._loaded[folder.name]
        numbers = self.numbers(wanted)
        folder.parent.mkdir(parents=True, exist_ok=True)
        captions = Path(f"{folder}.captions.parquet")
        with FileLock(f"{folder}.lock"):
            self.captions.select(part).with_num_images(numbers[part.start : part.stop]).write_parquet(captions)
            settings = GenerationSettings(
                captions=str(captions),
                generator=str(self.world.generator),
                guidance_scale=wanted.guidance_scale,
                guidance_interval=None if wanted.guidance_interval is None else list(wanted.guidance_interval),
                num_inference_steps=wanted.num_inference_steps,
                dtype=self.dtype,
                output=str(folder),
            )
            GenerationRun(settings).run()
        return self.load(folder.name, folder, "train")

    def describe(self, images: ImageSet) -> dict[str, Any]:
        """How well the images fit their captions, and how much siblings differ; means with bootstrap intervals."""
        dataset = self.images(images)
        rows = [{"caption_id": caption_id} for caption_id in dataset["caption_id"]]
        pictures = [image.convert("RGB") for image in dataset["image"]]
        scores = {
            "alignment": self._alignment(dataset),
            "diversity": np.asarray(DiversityScorer(str(self._judge))(pictures, rows)),
        }
        ids = np.asarray(dataset["caption_id"][:])
        described: dict[str, Any] = {"num_images": len(dataset)}
        for name, values in scores.items():
            low, high = bootstrap_interval(values, ids)
            described[name] = {
                key: round(float(v), 5)
                for key, v in zip(("value", "low", "high"), (values.mean(), low, high), strict=True)
            }
        return described

    def _alignment(self, dataset: datasets.Dataset) -> np.ndarray:
        """Cosine (N,) of each image with its caption, as the judge sees them."""
        scorer = AlignmentScorer(str(self._judge / "pretraining"))
        pictures = [image.convert("RGB") for image in dataset["image"]]
        return np.asarray(scorer(pictures, [{"prompt": caption} for caption in dataset["caption"]]))

    @property
    def judge_steps(self) -> int:
        """Of the judge's training; the preset's own number at full scale."""
        return 2 * self.world.scale.steps

    @cached_property
    def _judge(self) -> Path:
        """A StableRep+ of the real images: it learned what the captions look like."""
        folder = self.work / f"judge-{self.judge_steps}-{self.world.scale.views}"
        self.work.mkdir(parents=True, exist_ok=True)
        images = self.work / "real" / "train.parquet"
        with FileLock(f"{folder}.lock"):
            if not images.exists():
                images.parent.mkdir(exist_ok=True)
                partial = images.with_suffix(".partial")
                self.real.to_parquet(partial)
                partial.rename(images)
            TrainingRun.from_preset(
                self.world.recipes["stablerep+"],
                folder,
                data=str(images.parent),
                seed=_JUDGE_SEED,
                max_steps=self.judge_steps,
                disable_tqdm=True,
                captions_per_batch=self.world.scale.views // 4,
            ).run()
        return folder

    def load(self, name: str, folder: Path, split: str) -> datasets.Dataset:
        """A split of a folder, loaded once."""
        if name not in self._loaded:
            self._loaded[name] = load_images(folder, split)
        return self._loaded[name]


def drawn_alike(images: ImageSet) -> tuple[float, int, tuple[float, float] | None]:
    """What image sets that are drawn together have in common."""
    return images.guidance_scale, images.num_inference_steps, images.guidance_interval


def captioned(one: RealImages) -> datasets.Dataset:
    """Real images with a text each, from captions or from the names of classes."""
    dataset = load_images(find_data(one.data), one.split)
    column = one.label_column if one.wordings else one.caption_column
    for name in filter(None, ("image", column, one.label_column)):
        if name not in dataset.column_names:
            raise InputError(f"{one.data} has no column {name!r}, it has {', '.join(dataset.column_names)}.")
    values, feature = dataset.with_format(None)[column][:], dataset.features[column]
    if one.wordings:
        names = feature.int2str(values) if isinstance(feature, datasets.ClassLabel) else values
        texts = [one.wordings[i % len(one.wordings)].format(name.split(",")[0]) for i, name in enumerate(names)]
    else:
        texts = [value if isinstance(value, str) else value[i % len(value)] for i, value in enumerate(values)]
    ids = [caption_id(text) for text in texts]
    made: dict[str, Any] = {"caption": texts, "caption_id": ids, "image_index": list(range(len(texts)))}
    if one.label_column is not None:  # labels of another part are others
        made["label"] = [f"{one.data} {label}" for label in dataset.with_format(None)[one.label_column][:]]
    return datasets.concatenate_datasets([dataset.select_columns(["image"]), datasets.Dataset.from_dict(made)], axis=1)


def _rank(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place (N,) of each item among those of its group, from 0, by rising value; equal values in their order."""
    order = np.lexsort((values, groups))
    starts = np.r_[0, np.flatnonzero(groups[order][1:] != groups[order][:-1]) + 1]
    sizes = np.diff(np.r_[starts, len(order)])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return ranks
