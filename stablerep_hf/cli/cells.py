"""One cell of the reproduction, from captions to scores; `reproduction` says which there are and what they mean."""

from __future__ import annotations

import dataclasses
import itertools
import time
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..reproduction import PRESETS, TAIL_CAPTIONS, WITH_TEXT, Cell, ImageSet, Scale, all_settings, make_claims

if TYPE_CHECKING:
    import datasets
    import numpy as np

    from ..captions import CaptionSet
    from ..evaluation import EvaluationResult, VisionEncoder
    from ..models import StableRepModel

Task = Cell | ImageSet
Dtype = Literal["float32", "float16", "bfloat16"]
_JUDGE_SEED = 1000  # of the encoder that judges alignment: no seed of a table
_NOT_LEARNED = ("logging_", "save_", "license")


class CellRunner:
    """Runs cells, drawing what they need when they need it. What stands in its folder already is not made again.

    Args:
        work: Folder for drawn images and the judge of alignment; nothing in it is needed to go on from records.
        scale: Of the study.
        dtype: In which the generator draws.
    """

    def __init__(self, work: Path, scale: Scale, dtype: Dtype) -> None:
        self.work = work
        self.scale = scale
        self.dtype = dtype
        self._sets: dict[str, datasets.Dataset] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return CellRunner, (self.work, self.scale, self.dtype)  # another process loads for itself

    def prepare(self) -> None:
        """Make this process fit for cells: one thread, so that no result depends on the number of cores; no bars."""
        import datasets
        import torch
        from transformers.utils.logging import disable_progress_bar

        torch.set_num_threads(1)
        datasets.disable_progress_bars()
        disable_progress_bar()  # type: ignore[no-untyped-call]

    def materials(self, task: Task) -> dict[str, Any]:
        """What a result depends on beside the settings: revisions of data and generator, and recipes."""
        images = task if isinstance(task, ImageSet) else task.setting.images
        found: dict[str, Any] = {"pictograms": self._revisions["pictograms"]}
        if images is not None:
            found["captions"] = self.captions.digest
            if images.source == "synthetic":
                found |= {"generator": self._revisions["generator"], "dtype": self.dtype}
        if isinstance(task, Cell) and task.setting.objective in PRESETS:
            found["recipe"] = _learned(PRESETS[task.setting.objective])
        if isinstance(task, ImageSet) or (images is not None and images.aligned):
            found["judge"] = {**_learned(PRESETS["stablerep+"]), "steps": self._judge_steps}
        return found

    def key(self, task: Task) -> str:
        """The name of a task's record."""
        return task.key(self.materials(task))

    def run(self, task: Task) -> dict[str, Any]:
        """Do a task.

        Returns:
            Its record, JSON values.
        """
        start = time.process_time()  # what it takes, whatever else runs on the machine
        values = self._describe_images(task) if isinstance(task, ImageSet) else self._run_cell(task)
        return {
            "key": self.key(task),
            **task.describe(),
            **values,
            "cpu_seconds": round(time.process_time() - start, 1),
            "versions": {name: version(name) for name in ("torch", "transformers", "diffusers")},
        }

    def images(self, wanted: ImageSet) -> datasets.Dataset:
        """The images of a set, drawn if they are not there."""
        import datasets
        import numpy as np

        from .. import assets

        places = self._places(wanted)
        chosen = self.captions.caption_ids[places]
        if wanted.source == "real":
            drawings = self._load("real", assets.pictograms_path(), "train")
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
    def _subgroups(self) -> dict[int, str]:
        """Caption id -> subgroup, of training and held-out captions."""
        import pyarrow.parquet as pq

        from .. import assets

        return {
            row["caption_id"]: row["subgroup"]
            for split in ("train", "held_out")
            for row in pq.read_table(assets.captions_path(split), columns=["caption_id", "subgroup"]).to_pylist()
        }

    @cached_property
    def _revisions(self) -> dict[str, str]:
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
        names = np.array([self._subgroups[caption_id] for caption_id in self.captions.caption_ids.tolist()])
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

        from . import generate

        name = f"guidance-{wanted.guidance_scale:g}-steps-{wanted.num_inference_steps}-captions-{part.start}"
        folder = self.work / f"captions-{self.scale.captions}" / f"{name}-{self.dtype}"
        if folder.name in self._sets:
            return self._sets[folder.name]
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
            command = generate.GenerateCommand(
                captions=str(captions),
                guidance_scale=wanted.guidance_scale,
                num_inference_steps=wanted.num_inference_steps,
                dtype=self.dtype,
                output=str(folder),
            )
            generate.run(command)
        return self._load(folder.name, folder, "train")

    def _run_cell(self, cell: Cell) -> dict[str, Any]:
        from ..evaluation import VisionEncoder, pixel_encoder
        from ..models.export import encoder_image_processor
        from ..reproduction import pack_results

        if cell.setting.objective == "pixels":
            return pack_results(self._measure(pixel_encoder(), cell))
        model, tokenizer, trained = self._train(cell)
        vision = VisionEncoder(
            model.vision_model,
            encoder_image_processor(model.config.vision_config),
            cell.setting.objective,
            dual=model if tokenizer is not None else None,
            tokenizer=tokenizer,
        )
        return {**pack_results(self._measure(vision, cell)), **trained}

    def _train(self, cell: Cell) -> tuple[StableRepModel, Any | None, dict[str, Any]]:
        """The model of a cell, its tokenizer, and what its record says of the training."""
        import tempfile

        from ..training import StableRepTrainer
        from . import train

        setting = cell.setting
        flags = ["--config", PRESETS[setting.objective], "--seed", str(cell.seed)]
        if setting.images is None:
            command, arguments = train.parse(flags)
            return *train.build_model(command, arguments.seed), {}
        # an image under simclr counts once and is seen twice
        per_caption = 1 if setting.objective == "simclr" else setting.images.images_per_caption
        per_image = 2 if setting.objective == "simclr" else 1
        with tempfile.TemporaryDirectory() as scratch:
            flags += ["--output", scratch, "--save_strategy", "no", "--report_to", "none", "--disable_tqdm", "True"]
            flags += ["--max_steps", str(setting.steps), "--logging_steps", str(setting.steps)]
            flags += ["--images_per_caption", str(per_caption)]
            flags += ["--captions_per_batch", str(setting.views // (per_caption * per_image))]
            command, arguments = train.parse(flags)
            model, tokenizer = train.build_model(command, arguments.seed)
            images = self.images(setting.images)
            trainer = StableRepTrainer(model, arguments, images, tokenizer)
            loss = trainer.train().training_loss
        return model, tokenizer, {"images": len(images), "loss": round(loss, 4)}

    def _measure(self, vision: VisionEncoder, cell: Cell) -> list[EvaluationResult]:
        """Scores on real drawings of held-out concepts; of a dual encoder also zero-shot."""
        import numpy as np

        from .. import assets
        from ..evaluation import Columns, EvaluationSettings, evaluate_features, extract_features

        pictograms = assets.pictograms_path()
        shared: dict[str, Any] = {
            "encoder_name": vision.name,
            "dataset_name": "embedded pictograms",
            "dataset_revision": self._revisions["pictograms"],
            "seeds": (cell.seed,) if cell.setting.has_seeds else (),
        }
        learned = ["group", "concept"]
        bank = extract_features(vision, self._load("real", pictograms, "train"), columns=learned, progress=False)
        columns = [*learned, "artist", "caption", "frequency"]
        test = extract_features(vision, self._held_out_concepts, columns=columns, progress=False)
        results = evaluate_features(
            bank,
            test,
            columns=Columns(label="group", group="concept", artist="artist", slices=("frequency",)),
            protocols=("knn", "linear_probe", "retrieval"),
            split="held_out_concepts",
            # one value of C a decade is near the best of 45
            settings=EvaluationSettings(knn_neighbours=(20,), probe_c_values=tuple(np.logspace(-5, 6, 12))),
            **shared,
        )
        results = [result for result in results if "worst" not in result.settings]
        if cell.setting.objective not in WITH_TEXT:
            return results
        artist = self._load("artist", pictograms, "held_out_artist")
        known = extract_features(vision, artist, columns=["concept", "caption"], progress=False)
        sides = (("new concepts", "held_out_concepts", test), ("new artist", "held_out_artist", known))
        for name, split, features in sides:
            (result,) = evaluate_features(
                None,
                features,
                columns=Columns(label="caption", group="concept"),
                protocols=("zero_shot",),
                embed_texts=vision.embed_texts,
                split=split,
                settings=EvaluationSettings(templates=("{}",)),  # as the captions were in training
                **shared,
            )
            results.append(dataclasses.replace(result, variant=name))
        return results

    def _describe_images(self, images: ImageSet) -> dict[str, Any]:
        """How well the images fit their captions, and how much siblings differ; means with bootstrap intervals."""
        import numpy as np

        from ..evaluation import bootstrap_interval
        from ..synthesis import DiversityScorer

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
        import numpy as np

        from ..models import StableRepModel  # noqa: F401  # makes the judge's type known to transformers
        from ..synthesis import AlignmentScorer

        scorer = AlignmentScorer(str(self._judge / "pretraining"))
        pictures = [image.convert("RGB") for image in dataset["image"]]
        return np.asarray(scorer(pictures, [{"prompt": caption} for caption in dataset["caption"]]))

    @property
    def _judge_steps(self) -> int:
        return 2 * self.scale.steps  # the preset's own number at full scale

    @cached_property
    def _judge(self) -> Path:
        """A StableRep+ of the real drawings of the training concepts: it learned what the captions look like."""
        from filelock import FileLock

        from .. import assets
        from . import train

        folder = self.work / f"judge-{self._judge_steps}-{self.scale.views}"
        self.work.mkdir(parents=True, exist_ok=True)
        flags = ["--config", PRESETS["stablerep+"], "--data", str(assets.pictograms_path()), "--output", str(folder)]
        flags += ["--seed", str(_JUDGE_SEED), "--max_steps", str(self._judge_steps), "--disable_tqdm", "True"]
        flags += ["--captions_per_batch", str(self.scale.views // 4)]
        with FileLock(f"{folder}.lock"):
            train.run(*train.parse(flags))
        return folder

    @cached_property
    def _held_out_concepts(self) -> datasets.Dataset:
        """With a column `frequency`: whether training has few captions of the subgroup, or more."""
        from collections import Counter

        from .. import assets

        counts = Counter(self._subgroups[caption_id] for caption_id in self.captions.caption_ids.tolist())
        concepts = self._load("concepts", assets.pictograms_path(), "held_out_concepts")
        frequency = ["tail" if counts[name] <= TAIL_CAPTIONS else "rest" for name in concepts["subgroup"]]
        return concepts.add_column("frequency", frequency)

    def _load(self, name: str, folder: Path, split: str) -> datasets.Dataset:
        from .loading import load_images

        if name not in self._sets:
            self._sets[name] = load_images(folder, split)
        return self._sets[name]


def _learned(preset: str) -> dict[str, Any]:
    """The values of a preset that change what is learned."""
    from .parsing import read_config

    return {name: value for name, value in read_config(preset).items() if not name.startswith(_NOT_LEARNED)}


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
