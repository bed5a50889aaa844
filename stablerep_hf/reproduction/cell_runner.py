"""One cell of the reproduction, trained and measured; `reproduction` says which there are and what they mean."""

from __future__ import annotations

import dataclasses
import time
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import PRESETS, TAIL_CAPTIONS, WITH_TEXT, Cell, ImageSet, Scale
from .image_sets import Dtype, ImageSets

if TYPE_CHECKING:
    import datasets

    from ..evaluation import EvaluationResult, VisionEncoder
    from ..models import StableRepModel

Task = Cell | ImageSet
_NOT_LEARNED = ("logging_", "save_", "license")


class CellRunner:
    """Runs cells, drawing what they need when they need it. What stands in its folder already is not made again.

    Args:
        work: Folder for drawn images and the judge of alignment; nothing in it is needed to go on from records.
        scale: Of the study.
        dtype: In which the generator draws.
    """

    def __init__(self, work: Path, scale: Scale, dtype: Dtype) -> None:
        self.sets = ImageSets(work, scale, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return CellRunner, (self.sets.work, self.sets.scale, self.sets.dtype)  # another process loads for itself

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
        found: dict[str, Any] = {"pictograms": self.sets.revisions["pictograms"]}
        if images is not None:
            found["captions"] = self.sets.captions.digest
            if images.source == "synthetic":
                found |= {"generator": self.sets.revisions["generator"], "dtype": self.sets.dtype}
        if isinstance(task, Cell) and task.setting.objective in PRESETS:
            found["recipe"] = _learned(PRESETS[task.setting.objective])
        if isinstance(task, ImageSet) or (images is not None and images.aligned):
            found["judge"] = {**_learned(PRESETS["stablerep+"]), "steps": self.sets.judge_steps}
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
        values = self.sets.describe(task) if isinstance(task, ImageSet) else self._run_cell(task)
        return {
            "key": self.key(task),
            **task.describe(),
            **values,
            "cpu_seconds": round(time.process_time() - start, 1),
            "versions": {name: version(name) for name in ("torch", "transformers", "diffusers")},
        }

    def _run_cell(self, cell: Cell) -> dict[str, Any]:
        from ..evaluation import VisionEncoder, pixel_encoder
        from ..models.export import encoder_image_processor
        from ..reproduction import pack_results

        if cell.setting.objective == "pixels":
            return pack_results(self._measure(pixel_encoder(), cell))
        model, tokenizer, trained = self._train(cell)
        vision = VisionEncoder(
            model.vision_model,
            encoder_image_processor(model.config),
            cell.setting.objective,
            dual=model if tokenizer is not None else None,
            tokenizer=tokenizer,
        )
        return {**pack_results(self._measure(vision, cell)), **trained}

    def _train(self, cell: Cell) -> tuple[StableRepModel, Any | None, dict[str, Any]]:
        """The model of a cell, its tokenizer, and what its record says of the training."""
        import tempfile

        from ..training import ModelSettings, StableRepTrainer, StableRepTrainingArguments, build_model

        setting = cell.setting
        preset = PRESETS[setting.objective]
        model, tokenizer = build_model(ModelSettings.from_preset(preset), cell.seed)
        if setting.images is None:
            return model, tokenizer, {}
        # an image under simclr counts once and is seen twice
        per_caption = 1 if setting.objective == "simclr" else setting.images.images_per_caption
        per_image = 2 if setting.objective == "simclr" else 1
        images = self.sets[setting.images]
        with tempfile.TemporaryDirectory() as scratch:
            arguments = StableRepTrainingArguments.from_preset(
                preset,
                output_dir=scratch,
                seed=cell.seed,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                max_steps=setting.steps,
                logging_steps=setting.steps,
                images_per_caption=per_caption,
                captions_per_batch=setting.views // (per_caption * per_image),
            )
            trainer = StableRepTrainer(model, arguments, images, tokenizer)
            loss = trainer.train().training_loss
        return model, tokenizer, {"images": len(images), "loss": round(loss, 4)}

    def _measure(self, vision: VisionEncoder, cell: Cell) -> list[EvaluationResult]:
        """Scores on real drawings of held-out concepts; of a dual encoder also zero-shot."""
        from .. import assets
        from ..evaluation import Columns, EvaluationSettings, Subject, evaluate_features, extract_features

        pictograms = assets.pictograms_path()
        subject = Subject(
            encoder=vision.name,
            dataset="embedded pictograms",
            revision=self.sets.revisions["pictograms"],
            split="held_out_concepts",
            seeds=(cell.seed,) if cell.setting.has_seeds else (),
        )
        learned = ["group", "concept"]
        bank = extract_features(vision, self.sets.load("real", pictograms, "train"), columns=learned, progress=False)
        columns = [*learned, "artist", "caption", "frequency"]
        test = extract_features(vision, self._held_out_concepts, columns=columns, progress=False)
        results = evaluate_features(
            bank,
            test,
            columns=Columns(label="group", group="concept", artist="artist", slices=("frequency",)),
            protocols=("knn", "linear_probe", "retrieval"),
            # one value of C a decade is near the best of 45
            settings=EvaluationSettings(knn_neighbours=[20], probe_c_values=12),
            subject=subject,
        )
        results = [result for result in results if "worst" not in result.settings]
        if cell.setting.objective not in WITH_TEXT:
            return results
        artist = self.sets.load("artist", pictograms, "held_out_artist")
        known = extract_features(vision, artist, columns=["concept", "caption"], progress=False)
        sides = (("new concepts", "held_out_concepts", test), ("new artist", "held_out_artist", known))
        for name, split, features in sides:
            (result,) = evaluate_features(
                None,
                features,
                columns=Columns(label="caption", group="concept"),
                protocols=("zero_shot",),
                embed_texts=vision.embed_texts,
                subject=dataclasses.replace(subject, split=split),
                settings=EvaluationSettings(templates=["{}"]),  # as the captions were in training
            )
            results.append(dataclasses.replace(result, variant=name))
        return results

    @cached_property
    def _held_out_concepts(self) -> datasets.Dataset:
        """With a column `frequency`: whether training has few captions of the subgroup, or more."""
        from collections import Counter

        from .. import assets

        counts = Counter(self.sets.subgroups[caption_id] for caption_id in self.sets.captions.caption_ids.tolist())
        concepts = self.sets.load("concepts", assets.pictograms_path(), "held_out_concepts")
        frequency = ["tail" if counts[name] <= TAIL_CAPTIONS else "rest" for name in concepts["subgroup"]]
        return concepts.add_column("frequency", frequency)


def _learned(preset: str) -> dict[str, Any]:
    """The values of a preset that change what is learned."""
    from ..training.presets import read_config

    return {name: value for name, value in read_config(preset).items() if not name.startswith(_NOT_LEARNED)}
