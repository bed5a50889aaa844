"""A training run as an object: what pre-training and fine-tuning runs share."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError, one_line
from ..progress import say
from .record import contents_of, identity_of, names_in, read_record, settings_of, write_record

if TYPE_CHECKING:
    from ..hub import ModelFacts
    from ..training.arguments import ImageTrainingArguments
    from ..training.image_trainer import ImageTrainer
    from .room import Room

ADAPTER = "adapter"
"""Folder below a run's with the adapters alone."""
_CHECKPOINTS = "checkpoints"
_UP_TO_THE_DATA = ("captions_per_batch", "images_per_caption", "images_per_batch", "learning_rate")


class ImageTrainingRun(ABC):
    """A training run and the folder that it fills: its record, `checkpoints/`, a model and a card.

    `run` does all of it: begin, or go on after an interruption, or find the run finished; then push, if asked. Its
    steps are `prepare`, `resume`, `finish` and `push`.

    Args:
        output: Folder of the run.
        settings: What is trained on what.
        arguments: Arguments of its trainer; checkpoints are saved below `output`, and the repository of `push_to_hub`
            is named after it by default.

    Attributes:
        record: What the record in the folder says; {} if the run has not begun.

    Raises:
        InputError: The folder holds another run or other files, or the arguments name another folder.
    """

    RECORD: ClassVar[str]
    trainer: ImageTrainer
    room: Room

    def __init__(self, output: str | Path, settings: Any, arguments: ImageTrainingArguments) -> None:
        from .cards import check_license

        if arguments.output_dir != "trainer_output":  # transformers' name if none is given
            raise InputError("`output_dir` follows from `output`: leave it out.")
        check_license(settings.license)
        self.output = Path(output)
        self._is_new = not self.output.exists()
        self.settings = settings
        self.arguments = copy.copy(arguments)
        self.arguments.output_dir = str(self.output / _CHECKPOINTS)
        self.arguments.hub_model_id = arguments.hub_model_id or Path(os.path.realpath(self.output)).name
        self.asked = self._asked()
        self._contents = contents_of(self.asked)
        self.record = self._read()

    def _asked(self) -> dict[str, Any]:
        return settings_of(self.settings, self.arguments)

    def _read(self) -> dict[str, Any]:
        record = read_record(self.output, self.RECORD, self.asked, self._contents)
        if record:  # which may know what the Hub cannot say now
            self._contents = dict(record.get("contents", {}))
        if record.get("finished") and not any(self.output.glob("*.safetensors")):
            record["finished"] = False  # what came out was deleted; the last checkpoint has it
        return record

    def run(self) -> dict[str, Any]:
        """Begin the run, go on with it, or find it finished; push it if `push_to_hub` is set.

        A push that failed is made up for when the run is started again, and another licence is written into the cards.

        Returns:
            The record of the finished run.

        Raises:
            InputError: Settings, arguments and data do not fit together, another process runs in the folder, the disk
                is full, or see `ImageTrainer`.
        """
        from ..files.locks import lock_folder

        first = self.arguments.process_index == 0
        if not (self.record.get("finished") and self.record["settings"] == self.asked):
            with lock_folder(self.output) if first else nullcontext():
                self.record = self._read()  # another process may have finished it before the lock was free
                if not self.record.get("finished"):
                    self.prepare()
                    self.resume()
                    self.finish()
                elif first:  # under another licence
                    self.record = {**self.record, "settings": self.asked, "pushed": None}
                    self.write_cards()
                    self._write_record()
        self.push()
        return self.record

    @abstractmethod
    def prepare(self) -> None:
        """Load the data, make the model and the `trainer`; nothing is written.

        Raises:
            InputError: Settings, arguments and data do not fit together, or the disk has no room for the run.
        """

    def resume(self) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Raises:
            InputError: See `ImageTrainer`; or the disk is full.
        """
        from ..training.checkpoints import checkpoint_to_resume

        with self._readable_errors():
            checkpoint = checkpoint_to_resume(self.trainer)
            if self.trainer.is_world_process_zero():
                Path(str(self.arguments.output_dir)).mkdir(parents=True, exist_ok=True)
                self.record = {"settings": self.asked, "contents": self._contents, "finished": False}
                self._write_record()
            result = self.trainer.train(resume_from_checkpoint=checkpoint)
        # the time before a checkpoint is not known
        self._seconds = None if checkpoint else round(result.metrics["train_runtime"], 1)

    def finish(self) -> None:
        """Write the model, its cards and, last, the record."""
        with self._readable_errors():
            self.record = self.describe() | {"finished": True}
            if self.trainer.average is not None:
                self.trainer.average.load_into(self.trainer.model)
            model = self.trainer.whole_model()
            if self.trainer.is_world_process_zero():
                self.export(model)
                self.write_cards()
                self._write_record()

    @abstractmethod
    def export(self, model: Any) -> None:
        """Write what the trained model becomes."""

    @abstractmethod
    def write_cards(self) -> None:
        """Write the cards of a finished run from its record."""

    @property
    @abstractmethod
    def published(self) -> Path:
        """Folder of the model that is pushed."""

    def push(self) -> None:
        """Push the finished model if `push_to_hub` is set and it is not there yet, and note it in the record.

        Raises:
            InputError: The Hub cannot be reached or refuses; the same run tries again and trains no more.
        """
        from ..hub.publishing import push_folder
        from ..hub.refusals import readable_refusals

        arguments = self.arguments
        place = {"repository": arguments.hub_model_id, "revision": arguments.hub_revision}
        if not arguments.push_to_hub or arguments.process_index != 0 or self.record.get("pushed") == place:
            return
        repository = str(arguments.hub_model_id)
        with readable_refusals(repository, OSError, RuntimeError):
            commit = push_folder(
                self.published,
                repository,
                token=arguments.hub_token,
                revision=arguments.hub_revision,
                private=arguments.hub_private_repo,
            )
        say(f"pushed to {commit.repo_url}")
        self.record["pushed"] = place
        self._write_record()

    def describe(self) -> dict[str, Any]:
        """What the record says of the run as it is now."""
        from . import cards

        trainer = self.trainer
        chosen = {name: getattr(trainer.args, name) for name in _UP_TO_THE_DATA if self.asked.get(name, 0) is None}
        return {
            "settings": self.asked,
            "contents": self._contents,
            "chosen": chosen,
            "finished": False,
            "steps": trainer.state.global_step,
            "seconds": getattr(self, "_seconds", None),
            "processes": self.arguments.world_size,
            "device": cards.device_name(self.arguments),
            "data": asdict(self._data),
            "energy": cards.estimated_energy(str(self.arguments.output_dir)),
            "versions": cards.training_versions(),
            "bad_images": trainer.seen.skipped,
            "log": trainer.state.log_history,
        }

    @abstractmethod
    def facts(self, folder: Path) -> ModelFacts:
        """What the card says of the model in a folder while it trains."""

    def _made(self, trainer: ImageTrainer, dataset: Any) -> None:
        """Take the trainer, say what it chose, and check that there is room for what it will write."""
        from . import cards
        from .room import check_room, room_of

        self.trainer = trainer
        self._data = cards.training_data(self.settings.data, dataset, trainer.train_dataset)
        trainer.identity = identity_of(self.asked, self._contents)
        trainer.describe = self.facts
        chosen = {name: value for name, value in self.describe()["chosen"].items() if name != "learning_rate"}
        if chosen and trainer.is_world_process_zero():
            say(f"chosen for the data: {', '.join(f'{name}={value}' for name, value in chosen.items())}")
        self.room = room_of(trainer, self.output)
        check_room(self.room, self.output)

    @contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """One sentence for whatever the arguments, the folder or the data are at fault for."""
        from ..files.atomic import readable_disk_errors
        from .content import readable_data_errors

        try:
            with readable_disk_errors(self.output), readable_data_errors(" ".join(names_in(self.settings.data))):
                yield
        except InputError:
            raise
        except RuntimeError as error:
            if "to be installed" not in str(error):  # which the trackers of transformers say
                raise
            raise InputError(
                f"A tracker that `report_to` names is missing ({str(error).split('. ')[0].rstrip('.')}): install it, "
                "tensorboard and trackio by pip install 'stablerep_hf[tracking]', or leave it out."
            ) from error

    @contextmanager
    def _making(self) -> Iterator[None]:
        """The same while the trainer is made, when transformers and accelerate refuse arguments and make a folder."""
        try:
            with self._readable_errors():
                yield
            with suppress(OSError):  # nothing is written yet, unless there was something
                (self.output / _CHECKPOINTS).rmdir()
                if self._is_new:
                    self.output.rmdir()
        except InputError:
            raise
        except (ValueError, ImportError) as error:
            raise InputError(f"The training arguments cannot work: {one_line(error)}.") from error

    def _write_record(self) -> None:
        write_record(self.output / self.RECORD, self.record)
