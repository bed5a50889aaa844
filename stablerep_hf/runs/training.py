"""Pre-training as a run: a caption-grouped data set to an encoder."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..assets import EMBEDDED
from ..errors import InputError
from ..progress import say
from ..setting import refuse_unknown, setting
from ..training.model_settings import ModelSettings, build_model
from .data import check_data
from .image_run import ADAPTER, ImageTrainingRun
from .record import TRAINING, names_in

if TYPE_CHECKING:
    import datasets

    from ..hub import ModelFacts
    from ..training import StableRepTrainingArguments


PRETRAINING = "pretraining"
"""Folder below a run's with the whole model and its head."""


@dataclass
class TrainingSettings(ModelSettings):
    """What a pre-training run trains, and on what; `StableRepTrainingArguments` say how."""

    data: str | list[str] = setting(
        "synthetic-images",
        "Data set: a folder or a Hub id. Several are joined by caption: images of one caption are siblings, "
        "whichever they come from (see source_weights).",
    )
    split: str = setting("train", "Split of the data set.")
    keep: str | None = setting(None, "Condition on rows, such as 'alignment > 0.2 and not is_blank'.")
    keep_concepts: str | None = setting(None, "With keep: terms, one a line, by which to count what is dropped.")
    streaming: bool = setting(
        False, "Read the data as it trains instead of loading it first; siblings must be adjacent."
    )
    probe_data: str | None = setting(
        None,
        "Labelled images for a kNN accuracy in training (eval_strategy says when): a folder, a Hub id, or 'embedded' "
        "(real pictograms by an artist whom no table is made of).",
    )
    probe_train_split: str = setting("train", "Split of the probe's data whose labels vote.")
    probe_split: str | None = setting(None, "Split of the probe's data that is classified; 'test' unless embedded.")
    probe_label_column: str | None = setting(None, "Label column of the probe's data; 'label' unless embedded.")
    held_out_captions: int | None = setting(
        None,
        "Captions, drawn by the seed, that are not trained on but measured without labels (sibling_gap, rankme, "
        "lidar) where eval_strategy says.",
    )
    teacher: str | None = setting(
        None,
        "Encoder whose features and similarities are learned besides (distillation), or alone with objective distill: "
        "a folder, a Hub id, 'embedded' or 'embedded-stablerep'. That of init_from keeps what it knows.",
    )
    license: str = setting(
        "unknown", "Licence of the weights, for their card: a Hub licence id; that of init_from if not given."
    )

    def check(self) -> None:
        """Refuse data that is not there, damaged or unfinished, before anything that takes seconds is imported.

        Raises:
            InputError: It is.
        """
        for source in names_in(self.data):
            _check_finished(source)
            check_data(source, self.split)
        if self.probe_data not in (None, EMBEDDED):
            check_data(str(self.probe_data), self.probe_train_split)


class TrainingRun(ImageTrainingRun):
    """A pre-training run, as `stablerep train` starts it.

    The finished folder holds the encoder in its stock class (`ViTModel`, `Dinov2Model`, ...), `pretraining/` with the
    whole model and its head, `adapter/` with low-rank adapters alone if there are any, `checkpoints/`, a card, and
    `training.json` with the settings and the course of the loss.

    Args:
        output: Folder of the run.
        settings: What is trained on what.
        arguments: Arguments of the trainer.

    Example:
        >>> run = TrainingRun.from_preset("pictograms", "encoder", data="synthetic-images")
        >>> record = run.run()
    """

    RECORD = TRAINING
    settings: TrainingSettings
    arguments: StableRepTrainingArguments

    @classmethod
    def from_preset(cls, preset: str, output: str | Path = "encoder", **settings: Any) -> Self:
        """Make a run of a preset.

        Args:
            preset: Name of a preset that ships, or path of a YAML file.
            output: Folder of the run.
            settings: Fields of `TrainingSettings` and `StableRepTrainingArguments` that replace the preset's.

        Raises:
            InputError: There is no such preset or field.
        """
        from ..training import StableRepTrainingArguments
        from ..training.presets import read_config

        values = {**read_config(preset), **settings}
        own = {entry.name for entry in fields(TrainingSettings)}
        known = own | {entry.name for entry in fields(StableRepTrainingArguments) if entry.init}
        refuse_unknown(values, known, "a training run")
        return cls(
            output,
            TrainingSettings(**{name: value for name, value in values.items() if name in own}),
            StableRepTrainingArguments(**{name: value for name, value in values.items() if name not in own}),
        )

    def prepare(self) -> None:
        """Load the data, make the model and the trainer; nothing is written.

        Raises:
            InputError: Settings, arguments and data do not fit together, a shard is damaged or missing, or the disk
                has no room for the run.
        """
        from ..extras import require
        from ..training import StableRepTrainer, Teacher, add_adapters
        from ..training.objectives import OBJECTIVES
        from ..training.sources import source_names
        from .origins import origins_of
        from .probing import probed

        settings = self.settings
        if OBJECTIVES[self.arguments.objective].text and not (settings.tokenizer or settings.text_init_from):
            raise InputError(
                f"objective={self.arguments.objective} learns from captions with a text tower, which needs a "
                "`tokenizer`, such as openai/clip-vit-base-patch16 or 'embedded', or a `text_init_from`."
            )
        if settings.lora_rank is not None:
            require(f"lora_rank={settings.lora_rank}", "lora", "peft")
            if self.arguments.push_to_hub and self.arguments.hub_strategy != "end":
                raise InputError(
                    "Checkpoints of a training run with `lora_rank` load nowhere before its end, when the adapters "
                    "are merged: give hub_strategy=end."
                )
        sources = names_in(settings.data)
        for source in sources:
            _check_finished(source)
        named = dict(zip(source_names(sources), sources, strict=True))
        keys: Any = None
        if settings.streaming:
            streams = {name: _stream(source, settings, self.arguments) for name, source in named.items()}
            dataset: Any = {name: stream for name, (stream, _) in streams.items()}
            keys = {name: own for name, (_, own) in streams.items() if own is not None}
        else:
            dataset = {name: _load(source, settings) for name, source in named.items()}
        if len(named) == 1:  # messages need not name it
            (name,) = named
            dataset, keys = dataset[name], keys and keys.get(name)
        dataset, probe = probed(settings, self.arguments, dataset)
        teacher = None
        if settings.teacher is not None:
            teacher = Teacher.load(settings.teacher, trust_remote_code=settings.trust_remote_code)
            weights = {
                name: getattr(self.arguments, name) for name in ("distill_feature_weight", "distill_similarity_weight")
            }
            say(f"teacher {settings.teacher}: {', '.join(f'{name}={value:g}' for name, value in weights.items())}")
        model, self.tokenizer = build_model(
            settings, self.arguments.seed, teacher_dim=None if teacher is None else teacher.dim
        )
        self._origins = origins_of(settings, model)
        self.adapters = None
        if settings.lora_rank is not None:
            self.adapters = add_adapters(
                model, rank=settings.lora_rank, adapter_targets=settings.adapter_targets, dora=settings.dora
            )
        with self._making():
            trainer = StableRepTrainer(
                model, self.arguments, dataset, self.tokenizer, probe=probe, train_keys=keys, teacher=teacher
            )
        if self.adapters is not None and trainer.is_fsdp_enabled:
            raise InputError(
                "FSDP cuts weights among processes, and adapters are saved whole: start with the configuration "
                "ddp.yaml, since adapters leave little to cut."
            )
        self._made(trainer, dataset)
        on_cpu = self.arguments.device.type == "cpu" and trainer.is_world_process_zero()
        if on_cpu and settings.init_from is None and settings.image_size is None:
            say(
                f"a model of size={settings.size} at 224 pixels is slow without a GPU; "
                "size=micro, image_size=32 and patch_size=4 are quick to try"
            )

    def describe(self) -> dict[str, Any]:
        """What the record says of the run as it is now."""
        parameters = list(self.trainer.model.vision_model.named_parameters())
        return super().describe() | {
            "views_seen": self.trainer.seen.views,
            "parameters": sum(value.numel() for name, value in parameters if "lora_" not in name),
            "trained_parameters": sum(value.numel() for _, value in parameters if value.requires_grad),
            "origins": self._origins,
        }

    def export(self, model: Any) -> None:
        """Write the encoder, the whole model with its tokenizer, and adapters alone; the encoder has them merged."""
        from ..models.export import encoder_image_processor, export_encoder
        from ..training import save_adapter

        if self.adapters is not None:
            save_adapter(self.adapters, self.output / ADAPTER, str(self.settings.init_from))
            self.adapters.merge_and_unload()
        full = self.output / PRETRAINING
        model.save_pretrained(full)
        encoder_image_processor(model.config).save_pretrained(full)
        export_encoder(model, self.output)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(full)

    def write_cards(self) -> None:
        """Write the cards of the encoder and of the whole model."""
        from ..hub import write_model_card
        from .cards import write_encoder_card

        name = self.output.resolve().name
        write_encoder_card(self.output, self.record, name)
        if self.settings.lora_rank is not None:
            write_encoder_card(self.output / ADAPTER, self.record, f"{name}, adapters alone", form="adapter")
        full = self.published
        write_model_card(full, self._facts(full, self.record))

    @property
    def published(self) -> Path:
        """The whole model; the encoder alone is published by `stablerep publish`."""
        return self.output / PRETRAINING

    def facts(self, folder: Path) -> ModelFacts:
        """What the card says of the model in a folder while it trains."""
        return self._facts(folder, self.describe())

    def _facts(self, folder: Path, record: dict[str, Any]) -> ModelFacts:
        from .cards import encoder_facts

        name = f"{self.output.resolve().name}, with its projection head"
        return encoder_facts(folder, record, name, form="pretraining")


def _load(source: str, settings: TrainingSettings) -> datasets.Dataset:
    from ..captions import read_terms
    from ..evaluation.images import load_images
    from ..synthesis import filter_rows

    dataset = load_images(source, settings.split)
    if settings.keep is not None:
        dataset, report = filter_rows(
            dataset, settings.keep, read_terms(settings.keep_concepts) if settings.keep_concepts else None
        )
        say(f"{source}, {settings.keep}: {report}")
    return dataset


def _stream(
    source: str, settings: TrainingSettings, arguments: StableRepTrainingArguments
) -> tuple[datasets.IterableDataset, datasets.IterableDataset | None]:
    """The data as a stream, and from parquet, where columns can be read alone, its keys as another."""
    from ..evaluation.images import load_images
    from ..synthesis import filter_stream, parse_filter
    from ..training.groups import key_column
    from ..training.objectives import OBJECTIVES

    if settings.keep_concepts is not None:
        raise InputError("`keep_concepts` counts what is dropped, which `streaming` does not know: leave out either.")
    streams = [load_images(source, settings.split, streaming=True)]
    if streams[0].info.builder_name == "parquet":
        columns = streams[0].column_names
        objective = OBJECTIVES[arguments.objective]
        key = key_column(columns, objective.positives, arguments.label_column, text=objective.text)
        named = set(parse_filter(settings.keep).columns) if settings.keep is not None else set()
        named |= {"caption"} if objective.text else set()
        wanted = [name for name in columns if name == key or name in named] or [c for c in columns if c != "image"][:1]
        if wanted:
            streams.append(load_images(source, settings.split, streaming=True, columns=wanted))
    if settings.keep is not None:
        streams = [filter_stream(stream, settings.keep) for stream in streams]
    return streams[0], streams[1] if len(streams) > 1 else None


def _check_finished(data: str) -> None:
    """Refuse a folder that is still being drawn: after an interruption the run would go on with other images."""
    from ..synthesis import read_provenance

    if not (Path(data) / "provenance").is_dir():
        return
    drawn = read_provenance(data)
    if len(drawn.shards) < drawn.num_shards:
        raise InputError(
            f"{data} is not finished: {len(drawn.shards)} of {drawn.num_shards} shards are drawn; run the same "
            "`stablerep generate` again first."
        )
