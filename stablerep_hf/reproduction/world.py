"""A world: captions, images of them, real and drawn, and what is measured on; one value, read from a YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ..assets import EMBEDDED
from ..errors import InputError, refusing
from ..files.yaml_mapping import read_mapping
from .cells import ImageSet, Objective, Setting

KNN = "knn accuracy"
LINEAR = "linear_probe accuracy"
RETRIEVAL = "retrieval recall@1"
MAIN = (KNN, LINEAR, RETRIEVAL)
ZERO_SHOT = ("zero_shot accuracy, new concepts", "zero_shot accuracy, new artist")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large a study is.

    Attributes:
        captions: Of the largest image set, a multiple of 8.
        images_per_caption: That are drawn of each caption and that a batch holds of it, but where claims compare
            numbers.
        steps: Of each training run.
        views: In a batch, a multiple of 8.
        seeds: Training runs of each setting.
        guidance_scale: Of images, where claims do not compare it.
        num_inference_steps: Likewise.
        guidance_scales: That claim 2 compares; 1, 2 and 8 among them.
        fewer_steps: Numbers of inference steps that claim 6 compares.
        curve: Numbers of steps that claim 7 compares, rising.
    """

    captions: int = 1312
    images_per_caption: int = 4
    steps: int = 125
    views: int = 256
    seeds: int = 5
    guidance_scale: float = 2.0
    num_inference_steps: int = 12
    guidance_scales: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
    fewer_steps: tuple[int, ...] = (4, 2)
    curve: tuple[int, ...] = ()

    def train(
        self, objective: Objective, captions: int, images_per_caption: int, *, steps: int | None = None, **images: Any
    ) -> Setting:
        """A setting at this scale."""
        drawn = {"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps, **images}
        drawn["guidance_scale"] = float(drawn["guidance_scale"])
        wanted = ImageSet(captions=captions, images_per_caption=images_per_caption, **drawn)
        return Setting(objective=objective, images=wanted, steps=steps or self.steps, views=self.views)


@dataclass(frozen=True, kw_only=True)
class RealImages:
    """Real images with texts.

    Attributes:
        data: Folder or Hub id, or 'embedded'.
        split: Of it.
        caption_column: A text or several of each image, of which one is taken in turn.
        label_column: Classes: SupCon's positives, and, with `wordings`, the texts.
        siblings: Whether images of one text are siblings; otherwise StableRep sees none of them.
        wordings: Texts of a class with `{}` for its name (its first synonym), taken in turn.
    """

    data: str
    split: str = "train"
    caption_column: str = "caption"
    label_column: str | None = None
    siblings: bool = True
    wordings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """What encoders are measured on.

    Attributes:
        name: Tells its results from those of the other sets.
        templates: Sentences of zero-shot, `{}` where the class name goes.
        settings: Fields of `runs.evaluation.MeasuringSettings`.
    """

    name: str = ""
    templates: tuple[str, ...] = ("a photo of a {}.",)
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, kw_only=True)
class World:
    """Everything that the claims are tested on.

    Attributes:
        name: What reports call it.
        about: The encoder in a few words, after "Every encoder is".
        captions: File or data set of captions, 'embedded', or 'real': those of the real images.
        real: Real images of these captions.
        generator: Diffusers pipeline for images of 32 pixels and more: folder, Hub id or 'embedded'; or the folder of
            a data set that one drew, with `caption` or `caption_id`. None: real images only.
        image_size: Of what encoders see, pixels.
        evaluation: What is measured on.
        main: The measures by which statements are judged.
        zero_shot: Those that need texts.
        recipes: Objective -> preset or YAML file of its training.
        recipe: What replaces their values.
        encoder: Fields of a vision configuration of transformers, with its `model_type`; empty: the ViT of the recipe.
        label_free: Siblings, of captions or classes, by which features are measured without labels; none if not given.
        tail: `column` of the captions file by which captions are counted, and the most `captions` of a rare value.
        claims: That can be tested here.
        scale: Of the study.
        quick: Of a first look.
        core_seconds: Of one `view`, one `drawn` image and one `measuring`, for estimates.
        notes: Claim -> what a reader must know of how it was tested.
        limits: How far the results carry.
    """

    name: str
    captions: str
    real: tuple[RealImages, ...]
    evaluation: tuple[EvaluationSet, ...]
    recipes: Mapping[str, str]
    about: str = "the same"
    generator: str | None = None
    image_size: int = 32
    main: tuple[str, ...] = MAIN
    zero_shot: tuple[str, ...] = ZERO_SHOT
    recipe: Mapping[str, Any] = field(default_factory=dict)
    encoder: Mapping[str, Any] = field(default_factory=dict)
    label_free: RealImages | None = None
    tail: Mapping[str, Any] = field(default_factory=dict)
    claims: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8)
    scale: Scale = field(default_factory=Scale)
    quick: Scale = field(default_factory=Scale)
    core_seconds: Mapping[str, float] = field(default_factory=dict)
    notes: Mapping[int, str] = field(default_factory=dict)
    limits: str = ""

    @property
    def draws(self) -> bool:
        """Whether a pipeline draws, so that guidance and steps can be chosen."""
        return self.generator is not None and (
            self.generator == EMBEDDED
            or not Path(self.generator).exists()
            or (Path(self.generator) / "model_index.json").exists()
        )


def worlds() -> dict[str, Path]:
    """Name -> file of the worlds that ship."""
    folder = Path(str(resources.files(__package__))) / "worlds"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def read_world(name: str = EMBEDDED, data: str | Path | None = None, generator: str | None = None) -> World:
    """Read a world.

    Args:
        name: Of one that ships, or a YAML file.
        data: Folder that its relative paths start from; that of the file if not given.
        generator: In place of the file's.

    Raises:
        InputError: There is no such world, a part is missing or is not known, or a value does not fit.
    """
    path = worlds().get(name, Path(name))
    if not path.is_file():
        raise InputError(f"world={name} is neither a file nor a world that ships: those are {', '.join(worlds())}.")
    said = f"world={name}"
    values = read_mapping(path.read_text("utf-8"), said)
    root = Path(data) if data is not None else path.parent
    if generator is not None:
        values["generator"] = generator
    fields = dataclasses.fields(World)
    needed = [one.name for one in fields if one.default is one.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if not values.get(name)]:
        raise InputError(f"{said} says nothing of `{missing[0]}`: a world needs {', '.join(needed)}.")
    with refusing(f"{said} cannot be read as a world", "see those that ship", (TypeError, KeyError, AttributeError)):
        for part, kind in (("scale", Scale), ("quick", Scale)):
            if part in values:
                values[part] = kind(**{key: _frozen(value) for key, value in values[part].items()})
        values["real"] = tuple(_real_images(one, root) for one in values["real"])
        if values.get("label_free") is not None:
            values["label_free"] = _real_images(values["label_free"], root)
        values["evaluation"] = tuple(_evaluation_set(one, root) for one in values["evaluation"])
        for key in ("captions", "generator"):
            if values.get(key) not in (None, EMBEDDED, "real"):
                values[key] = _place(values[key], root)
        return World(**{key: _frozen(value) for key, value in values.items()})


def _real_images(given: Mapping[str, Any], root: Path) -> RealImages:
    return RealImages(**{key: _frozen(value) for key, value in {**given, "data": _place(given["data"], root)}.items()})


def _evaluation_set(given: Mapping[str, Any], root: Path) -> EvaluationSet:
    from ..runs.evaluation import MeasuringSettings

    own = {"name", "templates"}
    settings = {key: value for key, value in given.items() if key not in own}
    settings["data"] = _place(settings["data"], root)
    MeasuringSettings(**settings)  # refuses a wrong key now
    return EvaluationSet(settings=settings, **{key: _frozen(value) for key, value in given.items() if key in own})


def _place(value: str, root: Path) -> str:
    """A path below `root` if there is something, else the value: an id of the Hub or 'embedded'."""
    return str(root / value) if value != EMBEDDED and (root / value).exists() else value


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
