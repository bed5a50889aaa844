"""What a model came from, and on what terms."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import assets
from ..errors import InputError
from ..progress import say

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from ..hub import LicensedPart

# Weights of these types were released under terms of their own, which a copy without its card still has.
_TERMS_BY_TYPE = {
    kind: {
        "license": "other",
        "license_name": "dinov3-license",
        "license_link": "https://ai.meta.com/resources/models-and-libraries/dinov3-license/",
    }
    for kind in ("dinov3_vit", "dinov3_convnext")
}

ROLES = {
    "init_from": "weights that the training started from",
    "text_init_from": "weights that the text tower started from",
    "teacher": "teacher",
}
"""Setting of a training run that names a model -> what that model is to it."""

_PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0")


def card_of(source: str) -> ModelCard | None:
    """The card of a folder or of a repository within reach.

    Raises:
        InputError: Its YAML cannot be read.
    """
    from huggingface_hub import ModelCard
    from huggingface_hub.errors import HFValidationError
    from yaml import YAMLError

    place = source.removeprefix("hf-hub:").removeprefix("local-dir:")
    path = Path(place) / "README.md"
    if Path(place).exists() and not path.is_file():
        return None
    try:
        card: ModelCard = ModelCard.load(path if path.is_file() else place, ignore_metadata_errors=True)
        return card
    except (OSError, HFValidationError):  # no repository, no card, no network
        return None
    except (YAMLError, ValueError) as error:
        raise InputError(
            f"The card of {source} begins with YAML that cannot be read ({' '.join(str(error).split())}): correct it."
        ) from error


def terms_of(source: str, model_type: str | None = None) -> dict[str, Any]:
    """The licence of a model, from its card, or of a type whose weights all have one.

    Args:
        source: Folder or Hub id.
        model_type: Of its configuration.

    Returns:
        `license`, "unknown" if nothing says it, `license_name` and `license_link`: fields of `ModelFacts`.

    Raises:
        InputError: The card's YAML cannot be read.
    """
    card = card_of(source)
    said: dict[str, Any] = card.data.to_dict() if card else {}  # type: ignore[no-untyped-call]
    license = said.get("license")
    if not license or license == "unknown":
        return _TERMS_BY_TYPE.get(str(model_type), {"license": "unknown", "license_name": "", "license_link": ""})
    several = isinstance(license, list)
    return {
        "license": "other" if several else license,
        "license_name": ", ".join(license) if several else said.get("license_name") or "",
        "license_link": said.get("license_link") or "",
    }


def licensed_part(source: str, role: str, terms: dict[str, Any]) -> LicensedPart:
    """A model that went into another, for its card."""
    from ..evaluation.tables import public_name
    from ..hub import LicensedPart

    name = public_name(source)
    url = terms["license_link"] or ("" if Path(source).exists() else f"https://huggingface.co/{name}")
    return LicensedPart(name=name, role=role, license=terms["license_name"] or terms["license"], url=url)


def origins_of(settings: Any, model: Any) -> dict[str, dict[str, Any]]:
    """The terms of each model that goes into a training run; those that bind the trained weights are said now.

    Args:
        settings: `TrainingSettings`.
        model: What is trained.

    Returns:
        Setting -> terms, as `terms_of` gives them.

    Raises:
        InputError: The YAML of a card cannot be read.
    """
    kinds = {"init_from": model.config.vision_config.model_type}
    origins = {
        name: terms_of(assets.find_encoder(source), kinds.get(name))
        for name in ROLES
        if (source := getattr(settings, name)) is not None
    }
    for name, terms in origins.items():
        licence = terms["license_name"] or terms["license"]
        if name != "teacher" and licence not in (*_PERMISSIVE, settings.license):
            link = f", {terms['license_link']}" if terms["license_link"] else ""
            say(f"{getattr(settings, name)}: its licence ({licence}{link}) also applies to what is trained from it")
    return origins
