"""One cell of the reproduction, trained and measured."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections import Counter
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import torch
from filelock import FileLock
from transformers.utils.logging import disable_progress_bar

from ..evaluation import (
    EvaluationResult,
    EvaluationSettings,
    VisionEncoder,
    evaluate_encoder,
    extract_features,
    label_free_metrics,
    pixel_encoder,
)
from ..evaluation.catalogue import MEASURES
from ..models import StableRepModel
from ..models.export import encoder_image_processor
from ..runs.evaluation import MeasuringSettings, Sides, load_sides
from ..training import ModelSettings, StableRepTrainer, StableRepTrainingArguments, build_model
from ..training.checkpoints import latest_checkpoint
from ..training.presets import read_config
from .backbone import write_untrained
from .cells import OF_IMAGES, WITH_TEXT, Cell, ImageSet
from .image_sets import Dtype, ImageSets, captioned
from .records import pack_results
from .world import EvaluationSet, World

Task = Cell | ImageSet
_NOT_LEARNED = ("logging_", "save_", "license")
CHECKPOINT_STEPS = 300


class CellRunner:
    """Runs cells, drawing what they need when they need it. What is in its folder already is not made again.

    Args:
        work: Folder for drawn images and the judge of alignment; nothing in it is needed to go on from records.
        world: Of the study.
        dtype: In which the generator draws.
    """

    def __init__(self, work: Path, world: World, dtype: Dtype) -> None:
        self.world = world
        self.sets = ImageSets(work, world, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return CellRunner, (self.sets.work, self.world, self.sets.dtype)  # another process loads for itself

    def prepare(self) -> None:
        """Make this process fit for cells: one thread, so that no result depends on the number of cores; no bars."""
        torch.set_num_threads(1)
        datasets.disable_progress_bars()
        disable_progress_bar()  # type: ignore[no-untyped-call]

    def materials(self, task: Task) -> dict[str, Any]:
        """What a result depends on beside the settings: revisions of data and generator, and recipes."""
        images = task if isinstance(task, ImageSet) else task.setting.images
        found: dict[str, Any] = {}
        if isinstance(task, Cell):
            found["evaluation"] = [
                {"name": one.name, "templates": one.templates, "revision": sides.subject.revision, **one.settings}
                for one, sides in self._evaluation
            ]
            for entry in found["evaluation"]:
                del entry["data"]  # where it lies on this machine; its revision says what it is
        if isinstance(task, Cell) and task.setting.has_seeds and self.world.label_free is not None:
            found["label free"] = self.sets.revisions["label free"]
        if images is not None:
            found["captions"] = self.sets.captions.digest
            if images.source == "synthetic":
                found |= {"generator": self.sets.revisions["generator"], "dtype": self.sets.dtype}
            else:
                found["real"] = [value for name, value in self.sets.revisions.items() if name.startswith("real")]
        if isinstance(task, Cell) and task.setting.objective != "pixels":
            found["recipe"] = {**self._recipe(task.setting.objective), "encoder": dict(self.world.encoder)}
        if isinstance(task, ImageSet) or (images is not None and images.aligned):
            found["judge"] = {**self._recipe("stablerep+"), "steps": self.sets.judge_steps}
        return found

    def key(self, task: Task) -> str:
        """The name of a task's record."""
        return task.key(self.materials(task))

    def run(self, task: Task) -> dict[str, Any]:
        """Do a task, and give its record: JSON values."""
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
        measured = {**pack_results(self._measure(vision, cell)), **trained}
        if self._siblings is not None:
            features = extract_features(vision, self._siblings, progress=False).features
            found = label_free_metrics(features, self._siblings["caption_id"][:])
            measured["label_free"] = {name: round(value, 5) for name, value in found.items()}
        shutil.rmtree(self._scratch(cell), ignore_errors=True)
        return measured

    def _scratch(self, cell: Cell) -> Path:
        return self.sets.work / "cells" / self.key(cell)

    def _recipe(self, objective: str) -> dict[str, Any]:
        """The values that change what is learned."""
        values = {**read_config(self.world.recipes[objective]), **self.world.recipe}
        values["image_size"] = self.world.image_size
        if objective != "untrained":
            values["objective"] = objective
        return {name: value for name, value in values.items() if not name.startswith(_NOT_LEARNED)}

    def _train(self, cell: Cell) -> tuple[StableRepModel, Any | None, dict[str, Any]]:
        """The model of a cell, its tokenizer, and what its record says of the training.

        A long run leaves checkpoints in the work folder and resumes from them.
        """
        setting = cell.setting
        recipe = self._recipe(setting.objective)
        own = [field.name for field in dataclasses.fields(ModelSettings) if field.name in recipe]
        settings = {name: recipe.pop(name) for name in own}
        if self.world.encoder:
            settings["init_from"] = str(self._backbone(cell.seed))
        model, tokenizer = build_model(ModelSettings(**settings), cell.seed)
        if setting.images is None:
            return model, tokenizer, {}
        # an image of itself counts once and is seen twice
        alone = setting.objective in OF_IMAGES
        per_caption, per_image = (1, 2) if alone else (setting.images.images_per_caption, 1)
        images = self.sets.images(setting.images, setting.objective)
        scratch = self._scratch(cell)
        arguments = StableRepTrainingArguments(
            **{
                **recipe,
                "output_dir": str(scratch),
                "seed": cell.seed,
                "save_strategy": "steps" if setting.steps > CHECKPOINT_STEPS else "no",
                "save_steps": CHECKPOINT_STEPS,
                "save_total_limit": 1,
                "report_to": "none",
                "disable_tqdm": True,
                "max_steps": setting.steps,
                "logging_steps": setting.steps,
                "images_per_caption": per_caption,
                "captions_per_batch": setting.views // (per_caption * per_image),
            }
        )
        trainer = StableRepTrainer(model, arguments, images, tokenizer)
        trainer.train(resume_from_checkpoint=latest_checkpoint(scratch))
        loss = next(entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry)
        return model, tokenizer, {"images": len(images), "loss": round(loss, 4)}

    def _backbone(self, seed: int) -> Path:
        """An untrained encoder of the world's kind, the same for all runs of a seed."""
        folder = self.sets.work / "encoders" / f"seed-{seed}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "preprocessor_config.json").exists():
                write_untrained(self.world.encoder, folder, image_size=self.world.image_size, seed=seed)
        return folder

    @cached_property
    def _siblings(self) -> datasets.Dataset | None:
        return None if self.world.label_free is None else captioned(self.world.label_free)

    @cached_property
    def _evaluation(self) -> list[tuple[EvaluationSet, Sides]]:
        """What is measured on, loaded; with the world's `tail` the test pictograms have a column `frequency`."""
        return [(one, load_sides(MeasuringSettings(**one.settings))) for one in self.world.evaluation]

    def _measure(self, vision: VisionEncoder, cell: Cell) -> list[EvaluationResult]:
        """Scores on every set that the encoder can be measured on."""
        results: list[EvaluationResult] = []
        for place, (one, sides) in enumerate(self._evaluation):
            measuring = MeasuringSettings(**one.settings)
            reads = cell.setting.objective in WITH_TEXT
            protocols = [name for name in measuring.protocols or () if reads or not MEASURES[name].texts]
            if not protocols:
                continue
            test, columns = sides.test, sides.columns
            if self.world.tail and place == 0:
                test, columns = self._with_frequency(test), dataclasses.replace(columns, slices=("frequency",))
            found = evaluate_encoder(
                vision,
                sides.train,
                test,
                columns=columns,
                protocols=protocols,
                subject=dataclasses.replace(
                    sides.subject,
                    encoder=vision.name,
                    seeds=(cell.seed,) if cell.setting.has_seeds else (),
                    dataset=Path(sides.subject.dataset).name,
                ),
                # one value of C a decade is near the best of 45
                settings=EvaluationSettings(knn_neighbours=[20], probe_c_values=12, templates=list(one.templates)),
                transform=measuring.transform,
                progress=False,
            )
            results += [
                dataclasses.replace(result, variant=", ".join(filter(None, (one.name, result.variant))))
                for result in found
                if "worst" not in result.settings
            ]
        return results

    def _with_frequency(self, test: datasets.Dataset) -> datasets.Dataset:
        """With a column `frequency`: whether training has few captions of the kind, or more."""
        counts = Counter(self.sets.tails[caption_id] for caption_id in self.sets.captions.caption_ids.tolist())
        most = self.world.tail["captions"]
        frequency = ["tail" if counts[name] <= most else "rest" for name in test[self.world.tail["column"]]]
        return test.add_column("frequency", frequency)
