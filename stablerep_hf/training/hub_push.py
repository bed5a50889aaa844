"""What `push_to_hub` sends while a model trains and when it has."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils.hub import PushInProgress, hf_api

from ..hub import ModelFacts, TrainingData, describe_encoder, plan_publication, write_model_card
from ..hub.publishing import explaining_refusals
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
_STAGED = ".to-hub-"
# Those that an unfinished training pushed in other files must not stay: `from_pretrained` may read them.
_WEIGHTS = re.compile(r"[^/]+\.safetensors(\.index\.json)?")
_LOGGER = logging.getLogger(__name__)


def push_folder(
    folder: str | Path,
    repository: str,
    message: str = "End of training",
    *,
    token: str | None = None,
    revision: str | None = None,
    private: bool | None = None,
) -> CommitInfo:
    """Push the finished model in a folder, and of that what `plan_publication` lists, in one commit.

    Weights that the repository has beside it and the folder lacks go: they are of an earlier state of the training.

    Args:
        folder: Of the model and its card.
        repository: "name" or "owner/name"; made if it is not there.
        message: Title of the commit.
        token: Of the Hub; the machine's own if not given.
        revision: Branch; "main" if not given.
        private: If the repository is made, whether it is hidden from others.

    Raises:
        InputError: See `plan_publication`.
    """
    publication = plan_publication(folder)
    api = hf_api()
    repository = api.create_repo(repository, token=token, private=private, exist_ok=True).repo_id
    names = [name for name, _ in publication.files]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(
            name, publication.card(repository).encode() if name == "README.md" else publication.folder / name
        )
        for name in names
    ]
    operations += [
        CommitOperationDelete(name)
        for name in api.list_repo_files(repository, revision=revision, token=token)
        if name not in names and _WEIGHTS.fullmatch(name)
    ]
    return api.create_commit(repository, operations, commit_message=message, token=token, revision=revision)


class HubPushTrainer(Trainer):
    """transformers' Trainer, but what it saves and pushes loads by itself and holds no pickled arguments.

    Beside the weights stand the model's code, its image processor and a card made from facts. With `hub_strategy`
    "checkpoint" or "all_checkpoints" the state of the optimiser goes along, since a resume needs it: PyTorch files
    that Trainer reads with `weights_only`.

    Attributes:
        identity: What tells this training from others beside its recipe, as JSON values: its data, what it started
            from.
        describe: What the card says of the model in a folder, from whoever knows more of the run than the trainer.
    """

    args: ImageTrainingArguments
    model: StableRepModel
    train_dataset: GroupDataset
    hub_model_id: str | None  # type: ignore[assignment]  # declared None there until it is set
    push_in_progress: Any
    identity: Mapping[str, Any] = MappingProxyType({})
    describe: Callable[[Path], ModelFacts] | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """What a checkpoint says of its training, as JSON values: no other goes on from it."""
        data = {"num_groups": len(self.train_dataset), "num_images": self.train_dataset.num_images}
        return {**recipe_of(self.args), **data, **self.identity}

    def kind_of_model(self) -> dict[str, Any]:
        """What the card says of the model's kind: fields of `ModelFacts`."""
        raise AttributeError(f"{type(self).__name__} does not say what kind of model it trains")

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository.

        Raises:
            InputError: The Hub cannot be reached or refuses.
        """
        with explaining_refusals(str(self.args.hub_model_id)):
            super().init_hf_repo(token=token, private=private)

    def create_model_card(  # type: ignore[override]
        self,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | None = None,
        **_others: Any,
    ) -> None:
        """Write our card into the output folder.

        Args:
            license: Hub licence id of the weights.
            tags: Of the Hub, beside those every such model has.
            model_name: The heading; the repository's name if not given.
            dataset: Repository of the training data.
            _others: What else transformers' cards know; taken and not used.
        """
        self._write_card(Path(str(self.args.output_dir)), license, tags, model_name, dataset)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        dataset: str | None = None,
        **_others: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Push the model as it stands, with our card and nothing else; every process calls it.

        Args:
            commit_message: Title of the commit.
            blocking: Wait until it has arrived.
            token: Of the Hub; that of the arguments if not given.
            revision: Branch; that of the arguments if not given.
            private: If the repository is made, whether it is hidden from others.
            license: As `create_model_card`.
            tags: As `create_model_card`.
            model_name: As `create_model_card`.
            dataset: As `create_model_card`.
            _others: As `create_model_card`.

        Returns:
            The commit, or with `blocking=False` what becomes of it; None in all processes but the first.
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
        self._write_card(staged, license, tags, model_name, dataset)
        self._finish_current_push()

        def send() -> CommitInfo:
            to: dict[str, Any] = {"token": token, "revision": revision or self.args.hub_revision, "private": private}
            try:
                return push_folder(staged, str(self.hub_model_id), commit_message, **to)
            finally:
                shutil.rmtree(staged, ignore_errors=True)

        return send() if blocking else hf_api().run_as_future(send)

    def _write_card(
        self,
        folder: Path,
        license: str | None = None,
        tags: str | list[str] | None = None,
        name: str | None = None,
        dataset: str | None = None,
    ) -> None:
        facts = (self.describe or self._facts)(folder)
        facts = replace(
            facts,
            name=name or facts.name,
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
        folder = self._staged(Path(checkpoint_folder))
        self._write_card(folder)
        message = f"{IN_PROGRESS} {self.state.global_step}"
        jobs = []
        if strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            place = "last-checkpoint" if strategy == HubStrategy.CHECKPOINT else Path(checkpoint_folder).name
            # before the model, so that wherever a model of an unfinished training stands, its state does
            jobs.append(self._upload(folder, f"{message}, checkpoint", place, []))
        jobs.append(self._upload(folder, message, "", list(_STATE)))
        jobs.append(hf_api().run_as_future(shutil.rmtree, folder, ignore_errors=True))  # they run one after another
        if busy:
            self.push_in_progress.jobs.extend(jobs)
        else:
            self.push_in_progress = PushInProgress(jobs)  # type: ignore[arg-type]

    def _staged(self, checkpoint: Path) -> Path:
        """The same files under another name: with `save_total_limit` the checkpoint may go before it has arrived."""
        root = checkpoint.parent
        if self.push_in_progress is None:  # the first push, so what lies there is of a process that was killed
            for left in root.glob(f"{_STAGED}*"):
                shutil.rmtree(left)
        staged = root / f"{_STAGED}{checkpoint.name}"
        shutil.rmtree(staged, ignore_errors=True)
        shutil.copytree(checkpoint, staged, copy_function=_link)
        return staged

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


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on every file system
        shutil.copy2(source, target)


def _tell_failure(job: Future[Any]) -> None:
    """A push that failed does not stop the training, but must not go unseen either."""
    if not job.cancelled() and (error := job.exception()) is not None:
        _LOGGER.warning("A push to the Hub failed; training goes on: %s", str(error).strip())
