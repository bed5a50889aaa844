"""From settings to a plan and what draws it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache

import numpy as np

from ..assets import EMBEDDED, captions_path, prompt_templates
from ..captions import CaptionSet, read_captions
from ..captions.cleaning import MAX_LENGTH
from ..errors import InputError
from ..progress import say
from .diffusers_generator import DiffusersGenerator
from .plan import SynthesisPlan
from .service_generator import ServiceGenerator, is_service
from .settings import GenerationSettings, GeneratorSettings, ServiceSettings
from .signing import ContentSigner

_WORD = re.compile(r"[^\W\d_]+")


def plan_generation(
    settings: GenerationSettings, signer: ContentSigner | None = None
) -> tuple[SynthesisPlan, DiffusersGenerator | ServiceGenerator]:
    """Read the captions, find the generator, and plan what the settings say; `signer` will sign the images.

    Raises:
        InputError: Captions or generator cannot serve, or a number is impossible.
    """
    if settings.num_captions is not None and settings.num_captions < 1:
        raise InputError(f"num_captions={settings.num_captions} leaves nothing to draw: give at least 1.")
    source = captions_path() if settings.captions == EMBEDDED else settings.captions
    captions = read_captions(source, settings.caption_column)
    num_empty = captions.num_empty
    longest = max(captions.captions, key=len)
    if len(longest) > MAX_LENGTH:
        raise InputError(
            f"The caption {longest[:30]!r}... has {len(longest):,} characters, and no generator reads more than "
            f"{MAX_LENGTH:,}: split it into lines of their own, or leave it out, as `stablerep captions` does."
        )
    if settings.num_captions is not None:
        if settings.num_captions > len(captions):
            raise InputError(
                f"num_captions={settings.num_captions} asks for more than the {len(captions)} different captions of "
                f"{settings.captions}: give fewer, or leave it out to use them all."
            )
        captions = captions.select(np.linspace(0, len(captions) - 1, settings.num_captions).round().astype(np.int64))
    generator = make_generator(settings)
    plan = SynthesisPlan(
        captions,
        generator,
        images_per_caption=settings.images_per_caption,
        prompt_templates=settings.prompt_templates,
        base_seed=settings.seed,
        image_format=settings.image_format,
        stored_size=settings.stored_size,
        captions_per_shard=settings.captions_per_shard,
        signature=None if signer is None else signer.describe(),
        min_sibling_distance=settings.min_sibling_distance,
        max_sibling_similarity=settings.max_sibling_similarity,
        sibling_encoder=settings.sibling_encoder,
    )
    if num_empty:
        say(f"{settings.captions}: {num_empty:,} empty caption{'s' if num_empty > 1 else ''} left out")
    return plan, generator


def make_generator(settings: GenerationSettings) -> DiffusersGenerator | ServiceGenerator:
    """What draws: a pipeline here, or a service; `InputError` if there is none, or a setting does not suit it."""
    kinds: list[type] = [GeneratorSettings]
    make: type[DiffusersGenerator] | type[ServiceGenerator] = DiffusersGenerator
    if is_service(str(settings.generator)):
        kinds, make = [GeneratorSettings, ServiceSettings], ServiceGenerator
    else:
        for entry in fields(ServiceSettings):
            value = getattr(settings, entry.name)
            if value != entry.default:
                raise InputError(
                    f"{entry.name}={value} was given for {settings.generator!r}, which is neither a server nor a "
                    "provider: leave it out."
                )
    return make(**{entry.name: getattr(settings, entry.name) for kind in kinds for entry in fields(kind)})


@dataclass(frozen=True)
class KnownWords:
    """How many of the different words of some captions (`total`) the embedded generator learned to draw (`known`)."""

    known: int
    total: int

    def __str__(self) -> str:
        return (
            "The embedded generator draws small pictograms, to try out what this package does; it knows "
            f"{self.known:,} of the {self.total:,} words of these captions."
        )


def known_words(captions: CaptionSet | Iterable[str]) -> KnownWords:
    """Count the words of captions that the embedded generator ever saw."""
    words = _words(captions)
    return KnownWords(len(words & _vocabulary()), len(words))


@cache
def _vocabulary() -> frozenset[str]:
    return frozenset(_words([*read_captions(captions_path()), *prompt_templates()]))


def _words(texts: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for text in texts:
        found.update(_WORD.findall(text.lower()))
    return found
