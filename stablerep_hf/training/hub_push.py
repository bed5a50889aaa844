"""What `push_to_hub` sends while a model trains and when it has."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from ..hub import ModelFacts, TrainingData, describe_encoder, write_model_card
from ..models import StableRepModel
from ..models.export import encoder_image_processor
from .arguments import ImageTrainingArguments, recipe_of
from .callbacks import AverageWeights
from .checkpoints import IN_PROGRESS, RECIPE
from .groups import GroupDataset

_STATE = (
    "*.pt",
    "*.pth",
    "*.bin",
    "trainer_state.json",
    RECIPE,
    AverageWeights.FILE,
)  # of a training; only a resume needs it
_LOGGER = logging.getLogger(__name__)


class HubPushTrainer(Trainer):
    """transformers' Trainer, but what it saves and pushes loads by itself and holds no pickled arguments.

    Beside the weights stand the model's code, its image processor and a card made from facts. With `hub_strategy`
    "checkpoint" or "all_checkpoints" the state of the optimiser goes along, since a resume needs it: PyTorch files
    that Trainer reads with `weights_only`.

    Attributes:
        identity: What tells this training from others beside its recipe, as JSON values: its data, what it started
            from.
    """

    args: ImageTrainingArguments
    model: StableRepModel
    train_dataset: GroupDataset
    hub_model_id: str | None  # type: ignore[assignment]  # declared None there until it is set
    push_in_progress: Any
    identity: Mapping[str, Any] = MappingProxyType({})

    @property
    def recipe(self) -> dict[str, Any]:
        """What a checkpoint says of its training, as JSON values: no other goes on from it."""
        data = {"num_groups": len(self.train_dataset), "num_images": self.train_dataset.num_images}
        return {**recipe_of(self.args), **data, **self.identity}

    def kind_of_model(self) -> dict[str, Any]:
        """What the card says of the model's kind: fields of `ModelFacts`."""
        raise AttributeError(f"{type(self).__name__} does not say what kind of model it trains")

    def create_model_card(  # type: ignore[override]
        self,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | None = None,
        **_others: Any,
    ) -> None:
        """Write our card into the output folder; `push_to_hub` hands on its keywords.

        Args:
            license: Hub licence id of the weights.
            tags: Of the Hub, beside those every such model has.
            model_name: The heading; the repository's or folder's name if not given.
            dataset: Repository of the training data.
            _others: What else transformers' cards know; taken and not used.
        """
        self._write_card(Path(str(self.args.output_dir)), license, tags, model_name, dataset)

    def _write_card(
        self,
        folder: Path,
        license: str | None = None,
        tags: str | list[str] | None = None,
        name: str | None = None,
        dataset: str | None = None,
    ) -> None:
        location = self.hub_model_id or folder.name
        images = self.train_dataset
        facts = ModelFacts(
            name=name or location.rpartition("/")[2],
            license=license or "unknown",
            **self.kind_of_model(),
            architecture=describe_encoder(folder) if (folder / "config.json").is_file() else {},  # adapters have none
            data=TrainingData(
                name=dataset or "unnamed",
                num_captions=images.num_captions,
                num_images=images.num_images,
                hub_id=dataset or "",
            ),
            training={"steps": self.state.global_step, **recipe_of(self.args)},
            hardware=torch.cuda.get_device_name(self.args.device) if self.args.device.type == "cuda" else "CPU",
            versions={package: version(package) for package in ("stablerep_hf", "transformers", "torch")},
            location=location,
            tags=(tags,) if isinstance(tags, str) else tuple(tags or ()),
        )
        write_model_card(folder, facts)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
            encoder_image_processor(self.model.config.vision_config).save_pretrained(folder)
            if folder != Path(str(self.args.output_dir)):  # a checkpoint
                (folder / RECIPE).write_text(json.dumps(self.recipe, indent=2) + "\n", "utf-8")

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint; Trainer's own would add `training_args.bin` and forget the model's code."""
        strategy = self.args.hub_strategy
        if not self.is_world_process_zero() or strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(checkpoint_folder)
        self._write_card(folder)
        message = f"{IN_PROGRESS} {self.state.global_step}"
        jobs = []
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else folder.name
            # before the model, so that wherever a model of an unfinished training stands, its state does
            jobs.append(self._upload(folder, f"{message}, checkpoint", place, []))
        jobs.append(self._upload(folder, message, "", list(_STATE)))
        if busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]

    def _upload(self, folder: Path, message: str, place: str, ignored: list[str]) -> Future[Any]:
        job: Future[Any] = hf_api().upload_folder(
            repo_id=str(self.hub_model_id),
            folder_path=folder,
            path_in_repo=place,
            commit_message=message,
            token=self.args.hub_token,
            revision=self.args.hub_revision,
            ignore_patterns=ignored,
            run_as_future=True,
        )
        job.add_done_callback(_tell_failure)
        return job


def _tell_failure(job: Future[Any]) -> None:
    """A push that failed does not stop the training, but must not go unseen either."""
    if not job.cancelled() and (error := job.exception()) is not None:
        _LOGGER.warning("A push to the Hub failed; training goes on: %s", str(error).strip())
