"""Settings of the search page, from a small YAML file and, before it, from environment variables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..errors import InputError
from ..files.yaml_mapping import read_mapping
from ..setting import setting

EMBEDDED = "embedded"
NONE = "none"
UNTRAINED = "untrained"


@dataclass
class SpaceSettings:
    """Settings of the search page; a key of the YAML file each and, in capitals, an environment variable.

    Names of encoders: a folder or Hub id; "embedded", the small StableRep+ encoder that ships; "embedded-stablerep",
    the StableRep encoder that ships; "untrained", the first one's architecture with random weights; "pixels", the
    picture itself shrunk to 8 x 8.
    """

    title: str | None = setting(None, "Heading of the page; says what can be searched by if not given.")
    encoder: str = setting(EMBEDDED, "What searches: folder, Hub id or 'embedded'.")
    encoder_revision: str | None = setting(None, "Branch, tag or commit of it on the Hub.")
    trust_remote_code: bool = setting(False, "Run the code that comes with the encoder.")
    compare: list[str] = setting(["embedded-stablerep", "untrained", "pixels"], "Encoders that can be put beside it.")
    dataset: str = setting(EMBEDDED, "Real images: folder, Hub id or 'embedded'.")
    split: str | None = setting(None, "Split of the real images, several as a+b; 'train' unless embedded.")
    synthetic_dataset: str | None = setting(
        None,
        "Synthetic images, as `stablerep generate` draws them; 'embedded', or 'none'. Embedded if the real ones are.",
    )
    synthetic_split: str | None = setting(None, "Split of the synthetic images; 'train' unless embedded.")
    guidance_dataset: str | None = setting(
        None, "Captions drawn at several guidance scales; 'embedded', or 'none'. Embedded if the real images are."
    )
    guidance_split: str | None = setting(None, "Split of the guidance images; 'train' unless embedded.")
    image_column: str = setting("image", "Column of the images.")
    caption_column: str = setting(
        "caption", "Column of what is written below pictures; labels or file names where there is none."
    )
    caption_id_column: str = setting("caption_id", "Column that tells which images are siblings.")
    group_column: str = setting(
        "group", "Column of a coarser kind, the colour on the map; the labels where there is none."
    )
    index_size: int = setting(
        0, "At most so many images, of the real ones spread, of the drawn ones the first; 0: all."
    )
    index: str | None = setting(
        None,
        "Index of the real images by `stablerep index`: a folder, or a data set repository on the Hub that holds "
        "one; made at the start if not given.",
    )
    results: int = setting(12, "Pictures shown at first.")
    most_results: int = setting(48, "Pictures that can be asked for.")
    map_size: int = setting(1500, "At most so many pictures on the map.")
    example_texts: list[str] = setting(
        [], "Words to click on; the most frequent labels or captions of the data set if not given."
    )
    most_upload_megabytes: float = setting(5.0, "Largest file of an uploaded picture.")
    most_megapixels: float = setting(25.0, "Most pixels of an uploaded picture, read from its header.")
    requests_per_minute: int = setting(120, "Searches and uploads of one visitor.")
    queue_size: int = setting(64, "Searches that may wait; one more is turned away.")
    behind_proxy: bool = setting(False, "Identify visitors by X-Forwarded-For, as behind a proxy; true in a Space.")

    def __post_init__(self) -> None:
        embedded = self.dataset == EMBEDDED
        self.split = self.split or ("held_out_concepts+held_out_artist" if embedded else "train")
        self.synthetic_dataset = self.synthetic_dataset or (EMBEDDED if embedded else NONE)
        self.synthetic_split = self.synthetic_split or _embedded(self.synthetic_dataset, "siblings")
        self.guidance_dataset = self.guidance_dataset or (EMBEDDED if embedded else NONE)
        if embedded and not self.example_texts:
            self.example_texts = ["smiling face", "red", "black square", "woman", "purple", "crying face"]
        self.guidance_split = self.guidance_split or _embedded(self.guidance_dataset, "guidance")
        for name in ("results", "most_results", "map_size", "requests_per_minute", "queue_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, which shows or allows nothing; give 1 or more.")
        if self.index_size < 0:
            raise InputError(f"index_size is {self.index_size}; give a number of images, or 0 for all of them.")
        for name in ("most_upload_megabytes", "most_megapixels"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, which no picture meets; give more than 0.")
        if self.encoder == UNTRAINED:
            raise InputError(f"encoder is {UNTRAINED!r}, the twin of the first one, which it cannot be; name another.")
        if self.results > self.most_results:
            raise InputError(f"results is {self.results}, above most_results, {self.most_results}; give less.")


def _embedded(dataset: str, split: str) -> str:
    return split if dataset == EMBEDDED else "train"


def read_settings(file: str | Path | None, environment: Mapping[str, str]) -> SpaceSettings:
    """Read the page's settings.

    Args:
        file: YAML with some of the settings; may be missing. A setting without a value counts as not given.
        environment: Variables; one that is a setting's name in capitals, and not empty, overrides the file. Lists
            are separated by commas. `SPACE_ID`, which the Hub sets in a Space, switches `behind_proxy` on.

    Raises:
        InputError: An unknown key, a value of the wrong type, or no YAML.
    """
    values: dict[str, Any] = {}
    if file is not None and Path(file).exists():
        values = read_mapping(Path(file).read_text("utf-8"), str(file))
    known = get_type_hints(SpaceSettings)
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{file} has the unknown key {unknown[0]!r}; the keys are {', '.join(known)}.")
    values = {name: value for name, value in values.items() if value is not None}
    if environment.get("SPACE_ID"):
        values.setdefault("behind_proxy", True)
    values |= {item.name: text for item in fields(SpaceSettings) if (text := environment.get(item.name.upper()))}
    return SpaceSettings(**{name: _typed(name, value, known[name]) for name, value in values.items()})


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value of YAML or of the environment as its field's type."""
    kinds = [kind for kind in get_args(hint) if kind is not type(None)]
    if hint == list[str]:
        listed = value.split(",") if isinstance(value, str) else value
        if not isinstance(listed, list):
            raise InputError(f"{name} is {value!r} and must be a list; write one, or values with commas between.")
        return [str(item).strip() for item in listed if str(item).strip()]
    kind = kinds[0] if kinds else hint
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[str(value).lower()]
        return kind(value)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"{name} is {value!r} and must be of type {kind.__name__}; correct it.") from error
