"""`stablerep train`: a caption-grouped data set to an encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ..errors import InputError
from .record import RECORD as RECORD

if TYPE_CHECKING:
    import datasets

    from ..hub import ModelFacts
    from ..models import StableRepModel
    from ..training import KnnProbe, StableRepTrainingArguments


PRETRAINING = "pretraining"


@dataclass
class TrainCommand:
    """Flags of `stablerep train`, beside those of `StableRepTrainingArguments`."""

    data: str = field(default="synthetic-images", metadata={"help": "Data set: a folder or a Hub id."})
    split: str = field(default="train", metadata={"help": "Split of the data set."})
    keep: str | None = field(
        default=None,
        metadata={"help": "Condition on rows, such as 'alignment > 0.2 and not is_blank'."},
    )
    keep_concepts: str | None = field(
        default=None, metadata={"help": "With --keep: terms, one a line, by which to count what is dropped."}
    )
    streaming: bool = field(
        default=False,
        metadata={"help": "Read the data as it trains instead of loading it first; siblings must stand together."},
    )
    output: str = field(default="encoder", metadata={"help": "Folder of the encoder; checkpoints go below it."})
    size: Literal["micro", "tiny", "small", "base", "large"] = field(
        default="base", metadata={"help": "Size of the Vision Transformer."}
    )
    image_size: int = field(default=224, metadata={"help": "Edge of a training crop, in pixels."})
    patch_size: int = field(default=16, metadata={"help": "Edge of a patch, in pixels."})
    projection_hidden_dim: int = field(default=4096, metadata={"help": "Width of the projection head."})
    projection_dim: int = field(default=256, metadata={"help": "Width of the space that the image loss compares in."})
    head_norm: Literal["batch_per_sibling", "batch", "layer"] = field(
        default="batch_per_sibling", metadata={"help": "Normalisation in the projection head; the paper's by default."}
    )
    init_from: str | None = field(
        default=None,
        metadata={
            "help": "Vision Transformer to start from: a folder or Hub id of transformers or timm, 'embedded' or "
            "'embedded-stablerep', of the size given."
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Tokenizer of the text tower, for stablerep+ and clip: a Hub id or folder, or 'embedded'."},
    )
    text_hidden_size: int = field(
        default=512, metadata={"help": "Width of the text tower, a multiple of 64; 512 in the release."}
    )
    text_num_layers: int = field(default=12, metadata={"help": "Layers of the text tower; 12 in the release."})
    text_max_tokens: int = field(
        default=77, metadata={"help": "Longest caption in tokens, the rest is cut; 77 in the release."}
    )
    image_text_dim: int = field(
        default=512, metadata={"help": "Width of the space that images and captions meet in; 512 in the release."}
    )
    probe_data: str | None = field(
        default=None,
        metadata={
            "help": "Labelled images for a kNN accuracy in training (--eval_strategy says when): a folder, a Hub id, "
            "or 'embedded' (real pictograms by an artist whom no table is made of)."
        },
    )
    probe_train_split: str = field(default="train", metadata={"help": "Split of the probe's data whose labels vote."})
    probe_split: str | None = field(
        default=None, metadata={"help": "Split of the probe's data that is classified; 'test' unless embedded."}
    )
    probe_label_column: str | None = field(
        default=None, metadata={"help": "Label column of the probe's data; 'label' unless embedded."}
    )
    license: str = field(
        default="unknown", metadata={"help": "Licence of the weights, for their card: a Hub licence id."}
    )


def from_preset(
    preset: str, *, output: str = "encoder", **settings: Any
) -> tuple[TrainCommand, StableRepTrainingArguments]:
    """Settings and arguments of a training run by a preset.

    Args:
        preset: Name of a preset that ships, or the path of a YAML file.
        output: Folder of the run.
        settings: Fields of `TrainCommand` and `StableRepTrainingArguments` that go before the preset's.

    Raises:
        InputError: There is no such preset or field.
    """
    from ..training import StableRepTrainingArguments
    from ..training.presets import read_config
    from .record import place_training

    values = {**read_config(preset), "output": output, **settings}
    own = {entry.name for entry in fields(TrainCommand)}
    known = own | {entry.name for entry in fields(StableRepTrainingArguments) if entry.init}
    if unknown := sorted(set(values) - known):
        raise InputError(f"`{unknown[0]}` is not a setting of a training run: check its spelling.")
    command = TrainCommand(**{name: value for name, value in values.items() if name in own})
    arguments = StableRepTrainingArguments(**{name: value for name, value in values.items() if name not in own})
    place_training(arguments, output)
    return command, arguments


def run(command: TrainCommand, arguments: StableRepTrainingArguments) -> dict[str, Any]:
    """Train, go on with, or find finished, the training that the output folder is for.

    The folder then holds the encoder as a plain `ViTModel`, `pretraining/` with the whole model and its head,
    `checkpoints/`, a card, and `training.json` with the settings and the course of the loss.

    Returns:
        The record in `training.json`.

    Raises:
        InputError: The flags do not fit together, or the folder holds another training. A push that failed at the end
            is made up for by the same command, and a licence is changed by it.
    """
    from .cards import check_license
    from .record import push_finished, read_record, settings_of, write_record

    output = Path(command.output)
    check_license(command.license)
    settings = settings_of(command, arguments)
    record = read_record(output, RECORD, settings)
    if not record.get("finished"):
        record = _train(command, arguments, settings)
    elif record["settings"] != settings and arguments.process_index == 0:  # by another licence
        record = {**record, "settings": settings, "pushed": None}
        _write_cards(output, record)
        write_record(output / RECORD, record)
    push_finished(output / PRETRAINING, record, output / RECORD, arguments)
    return record


def _train(command: TrainCommand, arguments: StableRepTrainingArguments, settings: dict[str, Any]) -> dict[str, Any]:
    """Train or go on, write what came of it, the record last."""
    from ..files.atomic import explaining
    from ..models.export import encoder_image_processor, export_encoder
    from ..training import StableRepTrainer
    from ..training.objectives import OBJECTIVES
    from . import cards
    from .content import reading
    from .record import device_name, identity_of, making_trainer, train_to_end, write_record

    if OBJECTIVES[arguments.objective].text and command.tokenizer is None:
        raise InputError(
            f"--objective {arguments.objective} learns from captions with a text tower, which needs a tokenizer: name "
            "one by --tokenizer, such as openai/clip-vit-base-patch16 or 'embedded'."
        )
    output = Path(command.output)
    _check_drawn(command.data)
    dataset, keys = _stream(command, arguments) if command.streaming else (_load(command), None)
    probe = _probe(command, arguments)
    model, tokenizer = build_model(command, arguments.seed)
    with making_trainer(output, command.data):
        trainer = StableRepTrainer(model, arguments, dataset, tokenizer, probe=probe, train_keys=keys)
    data = asdict(cards.training_data(command.data, dataset, trainer.train_dataset))
    parameters = sum(parameter.numel() for parameter in model.vision_model.parameters())

    def told(seconds: float | None = None) -> dict[str, Any]:
        return {
            "settings": settings,
            "finished": False,
            "steps": trainer.state.global_step,
            "views_seen": trainer.seen.views,
            "parameters": parameters,
            "seconds": seconds,
            "processes": arguments.world_size,
            "device": device_name(arguments),
            "data": data,
            "energy": cards.estimated_energy(str(arguments.output_dir)),
            "versions": cards.training_versions(),
            "bad_images": trainer.seen.skipped,
            "log": trainer.state.log_history,
        }

    trainer.identity = identity_of(settings)
    trainer.describe = lambda folder: _full_facts(folder, told(), output)
    with explaining(output), reading(command.data):
        record = told(train_to_end(trainer, output / RECORD, settings)) | {"finished": True}
        if trainer.average is not None:
            trainer.average.load_into(trainer.model)
        model = cast("StableRepModel", trainer.whole_model())
        if trainer.is_world_process_zero():
            full = output / PRETRAINING
            model.save_pretrained(full)
            encoder_image_processor(model.config.vision_config).save_pretrained(full)
            export_encoder(model, output)
            if tokenizer is not None:
                tokenizer.save_pretrained(full)
            _write_cards(output, record)
            write_record(output / RECORD, record)
    return record


def _full_facts(folder: Path, record: dict[str, Any], output: Path) -> ModelFacts:
    from . import cards

    name = f"{output.resolve().name}, with its projection head"
    return cards.encoder_facts(folder, record, name, form="pretraining")


def _write_cards(output: Path, record: dict[str, Any]) -> None:
    from ..hub import write_model_card
    from . import cards

    cards.write_encoder_card(output, record, output.resolve().name)
    write_model_card(output / PRETRAINING, _full_facts(output / PRETRAINING, record, output))


def _load(command: TrainCommand) -> datasets.Dataset:
    from ..captions import read_terms
    from ..synthesis import filter_rows
    from .content import load_images

    dataset = load_images(command.data, command.split)
    if command.keep is not None:
        dataset, report = filter_rows(
            dataset, command.keep, read_terms(command.keep_concepts) if command.keep_concepts else None
        )
        print(f"{command.keep}: {report}")
    return dataset


def _stream(
    command: TrainCommand, arguments: StableRepTrainingArguments
) -> tuple[datasets.IterableDataset, datasets.IterableDataset | None]:
    """The data as a stream, and from parquet, where columns can be read alone, its keys as another."""
    from ..synthesis import filter_stream, parse_filter
    from ..training.groups import key_column
    from ..training.objectives import OBJECTIVES
    from .content import load_images

    if command.keep_concepts is not None:
        raise InputError("--keep_concepts counts what is dropped, which --streaming does not know: leave out either.")
    streams = [load_images(command.data, command.split, streaming=True)]
    if streams[0].info.builder_name == "parquet":
        columns = streams[0].column_names
        objective = OBJECTIVES[arguments.objective]
        key = key_column(columns, objective.positives, arguments.label_column, text=objective.text)
        named = set(parse_filter(command.keep).columns) if command.keep is not None else set()
        named |= {"caption"} if objective.text else set()
        wanted = [name for name in columns if name == key or name in named] or [c for c in columns if c != "image"][:1]
        if wanted:
            streams.append(load_images(command.data, command.split, streaming=True, columns=wanted))
    if command.keep is not None:
        streams = [filter_stream(stream, command.keep) for stream in streams]
    return streams[0], streams[1] if len(streams) > 1 else None


def _check_drawn(data: str) -> None:
    """Refuse a folder that is still being drawn: after an interruption the training would go on with other images."""
    from ..synthesis import read_provenance

    if not (Path(data) / "provenance").is_dir():
        return
    drawn = read_provenance(data)
    if len(drawn.shards) < drawn.num_shards:
        raise InputError(
            f"{data} is not finished: {len(drawn.shards)} of {drawn.num_shards} shards are drawn; run the same "
            "`stablerep generate` again first."
        )


def _probe(command: TrainCommand, arguments: StableRepTrainingArguments) -> KnnProbe | None:
    from .. import assets
    from ..assets import EMBEDDED
    from ..training import KnnProbe
    from .content import load_images

    if (command.probe_data is None) != (arguments.eval_strategy == "no"):
        raise InputError(
            "--probe_data says what the encoder is measured on while it trains and --eval_strategy (steps or epoch) "
            "when: give both, or neither."
        )
    if command.probe_data is None:
        return None
    embedded = command.probe_data == EMBEDDED
    source = str(assets.pictograms_path()) if embedded else command.probe_data
    split = command.probe_split or ("held_out_artist" if embedded else "test")
    return KnnProbe(
        load_images(source, command.probe_train_split),
        load_images(source, split),
        label_column=command.probe_label_column or ("group" if embedded else "label"),
    )


def build_model(command: TrainCommand, seed: int) -> tuple[StableRepModel, Any | None]:
    """Make the model that a training with this seed starts from, and the tokenizer of its text tower.

    Raises:
        InputError: Sizes that do not fit each other or the encoder to start from, or no such encoder or tokenizer.
    """
    import transformers

    from .. import assets
    from ..assets import EMBEDDED
    from ..models import StableRepConfig, StableRepModel, load_vision_encoder

    tokenizer = None
    text: dict[str, Any] = {}
    if command.tokenizer is not None:
        if command.text_hidden_size < 64 or command.text_hidden_size % 64:
            raise InputError(
                f"--text_hidden_size {command.text_hidden_size} cannot be cut into attention heads of 64: give a "
                "multiple of 64."
            )
        source = assets.generator_path() / "tokenizer" if command.tokenizer == EMBEDDED else command.tokenizer
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--tokenizer {command.tokenizer} is neither a folder nor a repository within reach: check the name."
            ) from error
        special = tokenizer.num_special_tokens_to_add()
        if command.text_max_tokens <= special:
            raise InputError(
                f"--text_max_tokens {command.text_max_tokens} leaves no room for text beside the {special} tokens "
                "that the tokenizer adds: give more."
            )
        tokenizer.model_max_length = command.text_max_tokens  # who loads it then cuts where the text tower ends
        text["image_text_dim"] = command.image_text_dim
        text["text_config"] = transformers.CLIPTextConfig(
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            hidden_size=command.text_hidden_size,
            intermediate_size=4 * command.text_hidden_size,
            num_attention_heads=command.text_hidden_size // 64,
            num_hidden_layers=command.text_num_layers,
            max_position_embeddings=command.text_max_tokens,
        )
    transformers.set_seed(seed)
    try:
        config = StableRepConfig.from_size(
            command.size,
            image_size=command.image_size,
            patch_size=command.patch_size,
            projection_hidden_dim=command.projection_hidden_dim,
            projection_dim=command.projection_dim,
            head_norm=command.head_norm,
            **text,
        )
        encoder = None if command.init_from is None else load_vision_encoder(assets.find_encoder(command.init_from))
    except ValueError as error:  # models/ is also remote code, so it knows nothing of this package's errors
        raise InputError(str(error)) from error
    if encoder is None:
        return StableRepModel(config), tokenizer
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size"):
        asked, given = getattr(config.vision_config, name), getattr(encoder.config, name)
        if asked != given:
            raise InputError(
                f"--init_from {command.init_from} has {name} {given}, but --size, --image_size and --patch_size ask "
                f"for {asked}: give the sizes of the encoder to start from."
            )
    config.vision_config = encoder.config
    model = StableRepModel(config)
    model.vision_model.load_state_dict(encoder.state_dict())
    return model, tokenizer
