"""The image sets of the reproduction: which captions, drawn how, and what the images are like."""

from __future__ import annotations

import itertools
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import PRESETS, ImageSet, Scale, all_settings, make_claims

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from ..captions import CaptionSet

Dtype = Literal["float32", "float16", "bfloat16"]
_JUDGE_SEED = 1000  # of the encoder that judges alignment: no seed of a table


class ImageSets:
    """Draws what is asked for when it is asked for. What stands in its folder already is not made again.

    Args:
        work: Folder for drawn images and the judge of alignment; nothing in it is needed to go on from records.
        scale: Of the study.
        dtype: In which the generator draws.
    """

    def __init__(self, work: Path, scale: Scale, dtype: Dtype) -> None:
        self.work = work
        self.scale = scale
        self.dtype = dtype
        self._loaded: dict[str, datasets.Dataset] = {}

    def __getitem__(self, wanted: ImageSet) -> datasets.Dataset:
        """The images of a set, drawn if they are not there."""
        import datasets
        import numpy as np

        from .. import assets

        places = self._places(wanted)
        chosen = self.captions.caption_ids[places]
        if wanted.source == "real":
            drawings = self.load("real", assets.pictograms_path(), "train")
            return drawings.select(np.flatnonzero(np.isin(drawings["caption_id"][:], chosen)))
        parts = [part for part in self._parts if np.isin(places, np.arange(part.start, part.stop)).any()]
        drawn = datasets.concatenate_datasets([self._draw(wanted, part) for part in parts])
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
        """All training captions in the order of the study: by id, which is a hash and so as good as random."""
        import numpy as np

        from .. import assets
        from ..captions import read_captions

        captions = read_captions(assets.captions_path())
        return captions.select(np.argsort(captions.caption_ids))

    @cached_property
    def subgroups(self) -> dict[int, str]:
        """Caption id -> subgroup, of training and held-out captions."""
        import pyarrow.parquet as pq

        from .. import assets

        return {
            row["caption_id"]: row["subgroup"]
            for split in ("train", "held_out")
            for row in pq.read_table(assets.captions_path(split), columns=["caption_id", "subgroup"]).to_pylist()
        }

    @cached_property
    def revisions(self) -> dict[str, str]:
        """Digests of the pictograms and of the generator."""
        from .. import assets
        from ..synthesis.pipeline_folder import content_digest

        return {
            "pictograms": content_digest(assets.pictograms_path()),
            "generator": content_digest(assets.generator_path()),
        }

    def _places(self, wanted: ImageSet) -> np.ndarray:
        """Which captions are in a set, as places in `captions`."""
        import numpy as np

        every = np.arange(len(self.captions))
        if not wanted.balanced:
            return every[: wanted.captions]
        # `balance_captions` thins by chance, which leaves another number each time; equal budgets need this very one
        names = np.array([self.subgroups[caption_id] for caption_id in self.captions.caption_ids.tolist()])
        return np.lexsort((every, _rank(names, every)))[: wanted.captions]

    @property
    def _parts(self) -> tuple[range, ...]:
        """Places of captions that are drawn together; small sets do not wait for the large ones that they lie in."""
        bounds = [0, self.scale.captions // 4, self.scale.captions // 2, len(self.captions)]
        return tuple(range(start, stop) for start, stop in itertools.pairwise(bounds))

    def _draw(self, wanted: ImageSet, part: range) -> datasets.Dataset:
        """Draw, or find drawn, all images of a part that the study needs of this guidance and these steps."""
        import numpy as np
        from filelock import FileLock

        from ..runs.generation import GenerationRun
        from ..synthesis import GenerationSettings

        name = f"guidance-{wanted.guidance_scale:g}-steps-{wanted.num_inference_steps}-captions-{part.start}"
        folder = self.work / f"captions-{self.scale.captions}" / f"{name}-{self.dtype}"
        if folder.name in self._loaded:
            return self._loaded[folder.name]
        numbers = np.zeros(len(self.captions), np.int64)
        for setting in all_settings(make_claims(self.scale)):
            own = setting.images
            if own is not None and own.source == "synthetic" and _drawn_alike(own, wanted):
                places = self._places(own)
                numbers[places] = np.maximum(numbers[places], own.drawn_per_caption)
        folder.parent.mkdir(parents=True, exist_ok=True)
        captions = Path(f"{folder}.captions.parquet")
        with FileLock(f"{folder}.lock"):
            self.captions.select(part).with_num_images(numbers[part.start : part.stop]).write_parquet(captions)
            settings = GenerationSettings(
                captions=str(captions),
                guidance_scale=wanted.guidance_scale,
                num_inference_steps=wanted.num_inference_steps,
                dtype=self.dtype,
                output=str(folder),
            )
            GenerationRun(settings).run()
        return self.load(folder.name, folder, "train")

    def describe(self, images: ImageSet) -> dict[str, Any]:
        """How well the images fit their captions, and how much siblings differ; means with bootstrap intervals."""
        import numpy as np

        from ..evaluation import bootstrap_interval
        from ..synthesis import DiversityScorer

        dataset = self[images]
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
        import numpy as np

        from ..models import StableRepModel  # noqa: F401  # makes the judge's type known to transformers
        from ..synthesis import AlignmentScorer

        scorer = AlignmentScorer(str(self._judge / "pretraining"))
        pictures = [image.convert("RGB") for image in dataset["image"]]
        return np.asarray(scorer(pictures, [{"prompt": caption} for caption in dataset["caption"]]))

    @property
    def judge_steps(self) -> int:
        """Of the judge's training; the preset's own number at full scale."""
        return 2 * self.scale.steps

    @cached_property
    def _judge(self) -> Path:
        """A StableRep+ of the real drawings of the training concepts: it learned what the captions look like."""
        from filelock import FileLock

        from .. import assets
        from ..runs.training import TrainingRun

        folder = self.work / f"judge-{self.judge_steps}-{self.scale.views}"
        self.work.mkdir(parents=True, exist_ok=True)
        run = TrainingRun.from_preset(
            PRESETS["stablerep+"],
            folder,
            data=str(assets.pictograms_path()),
            seed=_JUDGE_SEED,
            max_steps=self.judge_steps,
            disable_tqdm=True,
            captions_per_batch=self.scale.views // 4,
        )
        with FileLock(f"{folder}.lock"):
            run.run()
        return folder

    def load(self, name: str, folder: Path, split: str) -> datasets.Dataset:
        """A split of a folder, loaded once."""
        from ..evaluation.images import load_images

        if name not in self._loaded:
            self._loaded[name] = load_images(folder, split)
        return self._loaded[name]


def _drawn_alike(one: ImageSet, other: ImageSet) -> bool:
    return (one.guidance_scale, one.num_inference_steps) == (other.guidance_scale, other.num_inference_steps)


def _rank(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Place (N,) of each item among those of its group, from 0, by rising value; equal values in their order."""
    import numpy as np

    order = np.lexsort((values, groups))
    starts = np.r_[0, np.flatnonzero(groups[order][1:] != groups[order][:-1]) + 1]
    sizes = np.diff(np.r_[starts, len(order)])
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return ranks
