"""What `push_to_hub` sends while a run trains and when it ends."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy

from ..hub import ModelFacts, TrainingData, describe_encoder, write_model_card
from ..hub.publishing import push_folder
from ..hub.refusals import readable_refusals
from ..models import StableRepModel
from ..models.export import encoder_image_processor
from .arguments import ImageTrainingArguments, recipe_of
from .callbacks import AverageWeights
from .checkpoints import IN_PROGRESS, MANIFEST
from .groups import GroupDataset

# Files of a checkpoint that only a resume needs.
_STATE = ("*.pt", "*.pth", "*.bin", "trainer_state.json", MANIFEST, AverageWeights.FILE)
_STAGED = ".to-hub-"
_LOGGER = logging.getLogger(__name__)


class HubPushTrainer(Trainer):
    """transformers' Trainer whose saved and pushed models load by themselves and hold no pickled arguments.

    Beside the weights are the model's code, its image processor and a card made from facts. With `hub_strategy`
    "checkpoint" or "all_checkpoints" the optimiser's state goes along, since a resume needs it: PyTorch files that
    Trainer reads with `weights_only`.

    Attributes:
        identity: What distinguishes this training run beside its recipe, as JSON values: its data, its start.
        describe: Makes what the card says of the model in a folder, for callers that know more than the trainer.
    """

    args: ImageTrainingArguments
    model: StableRepModel
    train_dataset: GroupDataset
    hub_model_id: str | None  # type: ignore[assignment]  # declared None there until it is set
    identity: Mapping[str, Any] = MappingProxyType({})
    describe: Callable[[Path], ModelFacts] | None = None
    pushing: PushCheckpoints

    @property
    def recipe(self) -> dict[str, Any]:
        """What a checkpoint says of its training run, as JSON values: no other run goes on from it."""
        data = {"num_groups": len(self.train_dataset), "num_images": self.train_dataset.num_images}
        recipe: dict[str, Any] = json.loads(json.dumps({**recipe_of(self.args), **data, **self.identity}))
        return recipe

    def kind_of_model(self) -> dict[str, Any]:
        """What the card says of the model's kind: fields of `ModelFacts`."""
        raise AttributeError(f"{type(self).__name__} does not say what kind of model it trains")

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository `hub_model_id`, named after the output folder if it is not given.

        Raises:
            InputError: The Hub cannot be reached or refuses.
        """
        if not self.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(str(self.args.output_dir)).absolute().name
        token = token or self.args.hub_token
        private = self.args.hub_private_repo if private is None else private
        with readable_refusals(name):
            self.hub_model_id = HfApi().create_repo(name, token=token, private=private, exist_ok=True).repo_id

    def create_model_card(self, **card: Any) -> None:  # type: ignore[override]
        """Write our card into the output folder; `card` is what `write_card` takes by name."""
        self.write_card(Path(str(self.args.output_dir)), **card)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Push the model as it is now, with our card and nothing else; every process calls it.

        Args:
            commit_message: Title of the commit.
            blocking: Wait until the push has ended.
            token: Token of the Hub; that of the arguments by default.
            revision: Branch; that of the arguments by default.
            private: Whether a repository that is created is private.
            card: What `write_card` takes by name.

        Returns:
            The commit, with `blocking=False` its future; None in all processes but the first.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        # Into a folder of its own: in the output folder lie logs, and whatever people keep there.
        staged = Path(str(self.args.output_dir)) / f"{_STAGED}model"
        self.save_model(str(staged), _internal_call=True)
        if not self.is_world_process_zero():
            return None
        for pattern in _STATE:
            for file in staged.glob(pattern):
                file.unlink()
        self.write_card(staged, **card)
        self.pushing.wait()

        def send() -> CommitInfo:
            to: dict[str, Any] = {"token": token, "revision": revision or self.args.hub_revision, "private": private}
            try:
                return push_folder(staged, str(self.hub_model_id), commit_message, **to)
            finally:
                shutil.rmtree(staged, ignore_errors=True)

        return send() if blocking else self.pushing.hub.run_as_future(send)

    def write_card(
        self,
        folder: Path,
        *,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | None = None,
        **_others: Any,
    ) -> None:
        """Write the card of the model in a folder.

        Args:
            folder: Of the model.
            license: Hub licence id of the weights.
            tags: Tags of the Hub, beside those that every such model has.
            model_name: Heading; the repository's name by default.
            dataset: Repository of the training data.
            _others: Arguments that transformers' cards have; ignored.
        """
        facts = (self.describe or self._facts)(folder)
        facts = replace(
            facts,
            name=model_name or facts.name,
            license=license or facts.license,
            location=self.hub_model_id or facts.location,
            tags=(*facts.tags, *([tags] if isinstance(tags, str) else tags or ())),
        )
        if dataset and facts.data:
            facts = replace(facts, data=replace(facts.data, name=dataset, hub_id=dataset))
        write_model_card(folder, facts)

    def _facts(self, folder: Path) -> ModelFacts:
        """What the trainer knows by itself."""
        images = self.train_dataset
        return ModelFacts(
            name=(self.hub_model_id or folder.name).rpartition("/")[2],
            license="unknown",
            **self.kind_of_model(),
            architecture=describe_encoder(folder) if (folder / "config.json").is_file() else {},  # adapters have none
            data=TrainingData(name="unnamed", num_captions=images.num_captions, num_images=images.num_images),
            training={"steps": self.state.global_step, **recipe_of(self.args)},
            hardware=torch.cuda.get_device_name(self.args.device) if self.args.device.type == "cuda" else "CPU",
            versions={package: version(package) for package in ("stablerep_hf", "transformers", "torch")},
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights, the model's code and its image processor."""
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)  # a pickle that nothing reads
            encoder_image_processor(self.model.config).save_pretrained(folder)


class PushCheckpoints(TrainerCallback):
    """Pushes checkpoints, and the models in them, while training goes on.

    It takes the place of Trainer's own push, which would add pickled arguments and leave out the model's code.

    Args:
        trainer: Whose checkpoints are pushed.
        strategy: `hub_strategy`.
    """

    def __init__(self, trainer: HubPushTrainer, strategy: HubStrategy) -> None:
        self.trainer, self.strategy = trainer, strategy
        self.hub = HfApi()
        self._jobs: list[Future[Any]] = []

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start to push the checkpoint of this step, unless an earlier push is still going on."""
        if not args.push_to_hub or self.strategy == HubStrategy.END or not state.is_world_process_zero:
            return
        if not args.hub_always_push and not all(job.done() for job in self._jobs):
            return
        self.trainer.callback_handler.on_push_begin(args, state, control)
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        folder = self._staged(checkpoint)
        self.trainer.write_card(folder)
        message = f"{IN_PROGRESS} {state.global_step}"
        if self.strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if self.strategy == HubStrategy.CHECKPOINT else checkpoint.name
            # before the model, so that wherever the model of an unfinished run is, its state is too
            self._upload(args, folder, f"{message}, checkpoint", place, [])
        self._upload(args, folder, message, "", list(_STATE))
        self._jobs.append(self.hub.run_as_future(shutil.rmtree, folder, ignore_errors=True))  # one after another

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Wait for the last push."""
        self.wait()

    def wait(self) -> None:
        """Wait until every push has ended."""
        wait(self._jobs)
        self._jobs = []

    def _staged(self, checkpoint: Path) -> Path:
        """The same files under another name: with `save_total_limit` the checkpoint may go before it has arrived."""
        root = checkpoint.parent
        if not self._jobs:  # the first push, so what lies there is of a process that was killed
            for left in root.glob(f"{_STAGED}*"):
                shutil.rmtree(left)
        staged = root / f"{_STAGED}{checkpoint.name}"
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(checkpoint, staged, copy_function=_link)
        return staged

    def _upload(self, args: TrainingArguments, folder: Path, message: str, place: str, ignored: list[str]) -> None:
        job: Future[Any] = self.hub.upload_folder(
            repo_id=str(self.trainer.hub_model_id),
            folder_path=folder,
            path_in_repo=place,
            commit_message=message,
            token=args.hub_token,
            revision=args.hub_revision,
            ignore_patterns=ignored,
            run_as_future=True,
        )
        job.add_done_callback(_report_failure)
        self._jobs.append(job)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copy2(source, target)


def _report_failure(job: Future[Any]) -> None:
    """Warn of a push that failed; it does not stop the training run."""
    if not job.cancelled() and (error := job.exception()) is not None:
        _LOGGER.warning("A push to the Hub failed; training goes on: %s", str(error).strip())
