"""What a study would fail on only after hours, looked at before any work."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError
from ..evaluation.columns import column_values
from ..runs.evaluation import MeasuringSettings, load_sides
from ..synthesis.pipeline_folder import PipelineFolder
from .claims import all_settings, make_claims
from .image_sets import ImageSets
from .world import World


def check_world(world: World) -> None:
    """Look at everything that a study would fail on only after hours.

    Raises:
        InputError: A data set, column or label is missing, labels are of one class, captions have no images, or the
            generator is missing or draws images of another size.
    """
    for one in world.evaluation:
        sides = load_sides(MeasuringSettings(**one.settings))
        label = sides.columns.label
        protocols = one.settings.get("protocols", ("knn",))
        if label is None or not {"knn", "linear_probe", "zero_shot"} & set(protocols):
            continue
        found = {str(value) for value in column_values(sides.test.with_format(None), label)}
        if len(found) < 2:
            raise InputError(
                f"All labels of evaluation set {one.name or sides.subject.dataset!r} are {next(iter(found), None)!r}, "
                "which every encoder gets right: name a set with several classes."
            )
    sets = ImageSets(Path(), world, "float32")
    known = np.isin(sets.captions.caption_ids, sets.real["caption_id"][:])
    if not known.any():
        raise InputError(
            f"None of the {len(sets.captions):,} captions of captions={world.captions} has an image in `real`: name "
            "images of these captions, or write captions=real."
        )
    if world.generator is not None and not world.draws:
        drawn = {*sets.drawn_before["caption_id"][:]}
        if drawn.isdisjoint(sets.captions.caption_ids.tolist()):
            raise InputError(f"generator={world.generator} holds no image of the world's captions: name its own.")
    most = int((len(sets.captions) // 8) * 8)
    if world.scale.captions > most:
        raise InputError(
            f"The world has {len(sets.captions):,} captions and its scale asks for {world.scale.captions:,}: lower "
            "num_captions, or give more."
        )
    if world.draws and (size := drawn_size(str(world.generator))) not in (None, world.image_size):
        raise InputError(
            f"generator={world.generator} draws images of {size} pixels and the world has image_size="
            f"{world.image_size}: name another generator, or change the size."
        )
    wanted = {setting.objective for setting in all_settings(make_claims(world))} - {"pixels"}
    if lacking := sorted(wanted - set(world.recipes)):
        raise InputError(f"The world's `recipes` name none for {', '.join(lacking)}: add it, or leave out a claim.")


def drawn_size(generator: str) -> int | None:
    """Pixels of the images that a pipeline draws; None where it is still on the Hub or does not say.

    Raises:
        InputError: There is no such folder, and the name is none of the Hub's.
    """
    if generator.count("/") == 1 and not Path(generator).exists():
        return None
    return PipelineFolder.find(generator).stated_size
