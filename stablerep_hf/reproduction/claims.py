"""The claims: what is compared, what the paper says of it, and by which differences it is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from .cells import ImageSet, Objective, Setting
from .world import MAIN, World

INTERVAL = (0.28, 5.42)
"""Noise levels that Kynkäänniemi et al. 2024 guide SDXL at; in the unit of `GuidanceInterval`."""
TAIL, REST = "frequency = tail", "frequency = rest"


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A part of a claim: that a sum of scores lies above 0.

    Attributes:
        text: in words.
        terms: (coefficient, setting); of two settings the difference.
        measures: on which it is judged.
    """

    text: str
    terms: tuple[tuple[float, Setting], ...]
    measures: tuple[str, ...] = MAIN


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One of the paper's, or ours.

    Attributes:
        number: from 1.
        title: the claim in a few words.
        source: what the paper, or another source, says, with the place.
        settings: label -> what is measured, in the order of the tables.
        statements: by which it is judged.
        measures: what its table shows.
        note: what a reader must know of how it was tested here.
        shows_images: whether alignment and diversity of its images are reported too.
    """

    number: int
    title: str
    source: str
    settings: dict[str, Setting]
    statements: tuple[Statement, ...]
    measures: tuple[str, ...] = MAIN
    note: str = ""
    shows_images: bool = False

    @property
    def described_images(self) -> tuple[ImageSet, ...]:
        """The image sets whose alignment and diversity are measured."""
        sets = [setting.images for setting in self.settings.values() if self.shows_images and setting.images]
        return tuple(dict.fromkeys(sets))


def better(text: str, one: Setting, other: Setting, measures: tuple[str, ...] = MAIN) -> Statement:
    """The statement that one setting scores above another."""
    return Statement(text=text, terms=((1.0, one), (-1.0, other)), measures=measures)


def make_claims(world: World) -> tuple[Claim, ...]:
    """What can be tested in a world, at its scale. Settings that several claims need are trained once a seed."""
    makers = (_table_1, _guidance, _images_per_caption, _captions, _long_tail, _cheaper_images, _views, _interval)
    cannot = set() if world.draws else {2, 6, 8}
    cannot |= {3, 4, 5} if world.generator is None else set()
    cannot |= {5} if not world.tail else set()
    cannot |= {7} if not world.scale.curve else set()
    made = [makers[number - 1](world) for number in world.claims if number not in cannot]
    notes = (" ".join(filter(None, (claim.note, world.notes.get(claim.number)))) for claim in made)
    return tuple(replace(claim, note=note) for claim, note in zip(made, notes, strict=True))


def all_settings(claims: Iterable[Claim]) -> tuple[Setting, ...]:
    """Every setting that some of the claims need, once, in their order."""
    return tuple(dict.fromkeys(setting for claim in claims for setting in claim.settings.values()))


def _table_1(world: World) -> Claim:
    scale, main = world.scale, world.main
    names: tuple[Objective, ...] = ("simclr", "clip", "stablerep", "stablerep+", "supcon")
    real, synthetic = (
        {name: scale.train(name, scale.captions, scale.images_per_caption, source=source) for name in names}
        for source in ("real", "synthetic")
    )
    settings = {
        "8 x 8 pixels": Setting(objective="pixels"),
        "untrained": Setting(objective="untrained"),
        "SimCLR, real": real["simclr"],
        "SimCLR, synthetic": synthetic["simclr"],
        "CLIP, real": real["clip"],
        "CLIP, synthetic": synthetic["clip"],
        "StableRep, real": real["stablerep"],
        "StableRep, synthetic": synthetic["stablerep"],
        "StableRep+, synthetic": synthetic["stablerep+"],
    }
    if any(one.label_column for one in world.real):
        settings["SupCon, real labels"] = real["supcon"]
    statements: tuple[Statement, ...] = (
        better("SimCLR: synthetic above real", synthetic["simclr"], real["simclr"], main),
        better("CLIP: real above synthetic", real["clip"], synthetic["clip"], main),
        better("synthetic: StableRep above SimCLR", synthetic["stablerep"], synthetic["simclr"], main),
        better("synthetic: StableRep above CLIP", synthetic["stablerep"], synthetic["clip"], main),
        better("StableRep, synthetic, above CLIP, real", synthetic["stablerep"], real["clip"], main),
        better("synthetic: StableRep+ above StableRep", synthetic["stablerep+"], synthetic["stablerep"], main),
    )
    title = "Synthetic images teach as well as real ones, and StableRep on them best"
    if world.generator is None:
        title = "Of real images, siblings of a caption teach better than two crops of an image"
        settings = {label: one for label, one in settings.items() if "synthetic" not in label}
        statements = (better("real: siblings above two crops", real["stablerep"], real["simclr"], main),)
    return Claim(
        number=1,
        title=title,
        source="Table 1 of the paper, from a summary (CC12M, ImageNet linear probe): SimCLR real 61.5, synthetic "
        "63.7; CLIP real 70.3, synthetic 67.8; StableRep synthetic 73.5. The release: StableRep+ 74.4 and "
        "StableRep 72.8.",
        settings=settings,
        statements=statements,
        measures=(*main, *world.zero_shot),
        note="StableRep on real images has those of one caption for siblings: the baseline of Geng et al. 2024 that "
        "is hard to beat. SupCon learns from real labels: the ceiling.",
    )


def _guidance(world: World) -> Claim:
    scale, main = world.scale, world.main
    captions = scale.captions // 4
    settings = {
        (name, guidance): scale.train(name, captions, 4, guidance_scale=guidance)
        for name in ("stablerep", "simclr")
        for guidance in scale.guidance_scales
    }
    labels = {"stablerep": "StableRep", "simclr": "SimCLR"}
    stablerep = {guidance: settings["stablerep", guidance] for guidance in scale.guidance_scales}
    simclr = {guidance: settings["simclr", guidance] for guidance in scale.guidance_scales}
    smaller = ((1.0, stablerep[2.0]), (-1.0, stablerep[8.0]), (-1.0, simclr[2.0]), (1.0, simclr[8.0]))
    return Claim(
        number=2,
        title="Guidance has a moderate optimum, smaller for StableRep than for SimCLR",
        source="The paper, from two summaries: on CC3M SimCLR is best at 8 (of 2 to 12), StableRep at 2 to 3, where "
        "siblings differ more.",
        settings={f"{labels[name]}, guidance {guidance:g}": one for (name, guidance), one in settings.items()},
        statements=(
            better("StableRep: guidance 2 above 1", stablerep[2.0], stablerep[1.0], main),
            better("StableRep: guidance 2 above 8", stablerep[2.0], stablerep[8.0], main),
            better("SimCLR: guidance 8 above 2", simclr[8.0], simclr[2.0], main),
            Statement(text="StableRep gains more than SimCLR by 2 in place of 8", terms=smaller, measures=main),
        ),
        measures=main,
        shows_images=True,
    )


def _images_per_caption(world: World) -> Claim:
    scale, main = world.scale, world.main
    budget, few = scale.captions, scale.captions // 4
    same_budget = {m: scale.train("stablerep" if m > 1 else "simclr", budget // m, m) for m in (1, 2, 4, 8)}
    same_captions = {m: scale.train("stablerep" if m > 1 else "simclr", few, m) for m in (1, 2, 4, 8)}
    return Claim(
        number=3,
        title="More images per caption help, at a fixed number of images and of captions",
        source="Table 5a of the paper, from a summary (fixed number of images, l of each caption): 61.2 at l = 1, "
        "66.2 at l = 8.",
        settings={
            **{f"{budget:,} images, {m} a caption": setting for m, setting in same_budget.items()},
            **{f"{few:,} captions, {m} image{'s' * (m > 1)} each": setting for m, setting in same_captions.items()},
        },
        statements=(
            better(f"{budget:,} images: 8 a caption above 1", same_budget[8], same_budget[1], main),
            better(f"{budget:,} images: 8 a caption above 2", same_budget[8], same_budget[2], main),
            better(f"{few:,} captions: 8 images each above 1", same_captions[8], same_captions[1], main),
            better(f"{few:,} captions: 8 images each above 2", same_captions[8], same_captions[2], main),
        ),
        note="A batch holds all images of each of its captions, so more images a caption mean fewer captions a batch. "
        "With one image there are no siblings: that end is SimCLR, two crops of each, with its own augmentation.",
        measures=main,
    )


def _captions(world: World) -> Claim:
    scale, main = world.scale, world.main
    counts = [scale.captions // part for part in (8, 4, 2, 1)]
    plus = {count: scale.train("stablerep+", count, 4) for count in counts}
    clip = {count: scale.train("clip", count, 4) for count in counts}
    few, most = counts[1], counts[-1]
    return Claim(
        number=4,
        title="StableRep+ needs fewer captions than CLIP",
        source="The release's LAION table (linear probe): StableRep+ at 10M captions 73.5, CLIP on real images at 50M "
        "72.9; at 3M 69.6 against 60.6. A user of the release found CLIP ahead in zero-shot at the larger sizes "
        "(google-research/syn-rep-learn, issue 6).",
        settings={
            **{f"StableRep+, {count:,} captions": setting for count, setting in plus.items()},
            **{f"CLIP, {count:,} captions": setting for count, setting in clip.items()},
        },
        statements=(
            *(
                better(f"{count:,} captions: StableRep+ above CLIP", plus[count], clip[count], main)
                for count in counts
            ),
            better(f"StableRep+ of {few:,} captions above CLIP of {most:,}", plus[few], clip[most], main),
            better(f"zero-shot, {most:,} captions: CLIP above StableRep+", clip[most], plus[most], world.zero_shot),
        ),
        measures=(*main, *world.zero_shot),
        note="Both learn from the same synthetic images in the same batches, so the loss among images is the only "
        "difference.",
    )


def _long_tail(world: World) -> Claim:
    scale, main = world.scale, world.main
    captions = scale.captions // 2
    natural = scale.train("stablerep", captions, 4)
    balanced = scale.train("stablerep", captions, 4, balanced=True)
    tail = tuple(f"{measure}, {TAIL}" for measure in main)
    rest = tuple(f"{measure}, {REST}" for measure in main)
    return Claim(
        number=5,
        title="Synthesis balanced over concepts serves the tail better than the natural distribution",
        source="Ours to ask. The nearest thing in the paper, from a summary: synthetic images raise the accuracy "
        "of the worst class of FairFace from 0.3 to 10.0.",
        settings={"natural captions": natural, "balanced captions": balanced},
        statements=(better("tail: balanced above natural", balanced, natural, tail),),
        measures=(*tail, *rest),
        note="Both sets have as many captions and images; balanced takes "
        "one caption of each subgroup after another, natural takes them at random. Training visits captions, "
        "however many images they have, so captions are what is balanced. Tail: subgroups of at most "
        f"{world.tail['captions']} captions.",
    )


def _cheaper_images(world: World) -> Claim:
    scale, main = world.scale, world.main
    captions = scale.captions // 4
    full = scale.train("stablerep", captions, 4)
    fewer = {n: scale.train("stablerep", captions, 4, num_inference_steps=n) for n in scale.fewer_steps}
    aligned = scale.train("stablerep", captions, 4, aligned=True)
    most = scale.num_inference_steps
    return Claim(
        number=6,
        title="Full sampling beats few-step images, and alignment-filtered images beat both",
        source="No published work trains StableRep on either. Few-step images are reported to lose diversity, which "
        "it feeds on; filters by alignment helped other methods (SynthVLM, GenView).",
        settings={
            f"{most} steps": full,
            **{f"{n} steps": setting for n, setting in fewer.items()},
            f"{most} steps, the best-aligned 4 of 8": aligned,
        },
        statements=(
            *(better(f"{most} steps above {n}", full, setting, main) for n, setting in fewer.items()),
            better("the best-aligned 4 of 8 above any 4", aligned, full, main),
        ),
        measures=main,
        note="Few steps are fewer steps of the same solver, not a distilled generator. What judges alignment is a "
        "StableRep+ trained on the real images.",
        shows_images=True,
    )


def _views(world: World) -> Claim:
    scale, main = world.scale, world.main
    every = (scale.captions, scale.images_per_caption)
    arms: dict[str, Objective] = {"StableRep": "stablerep", "SimCLR": "simclr"}
    curves = {
        name: {steps: scale.train(objective, *every, source="real", steps=steps) for steps in scale.curve}
        for name, objective in arms.items()
    }
    first, second = curves.values()
    last, before = scale.curve[-1], scale.curve[-2]
    gain = ((1.0, first[last]), (-1.0, second[last]), (-1.0, first[before]), (1.0, second[before]))
    return Claim(
        number=7,
        title=f"On real images StableRep is above SimCLR, and stays so, from {before * scale.views:,} views on",
        source="Ours to ask, of real images: how many views the other claims need.",
        settings={
            f"{name}, {steps * scale.views:,} views": setting
            for name, curve in curves.items()
            for steps, setting in curve.items()
        },
        statements=(
            better(f"{last * scale.views:,} views: StableRep above SimCLR", first[last], second[last], main),
            Statement(text="StableRep gains more than SimCLR by the last views", terms=gain, measures=main),
        ),
        measures=main,
        note="Each point is a training run of its own, with its own schedule.",
    )


def _interval(world: World) -> Claim:
    scale, main = world.scale, world.main
    captions = scale.captions // 4
    constant = {g: scale.train("stablerep", captions, 4, guidance_scale=g) for g in (2.0, 8.0)}
    middle = {
        g: scale.train("stablerep", captions, 4, guidance_scale=g, guidance_interval=INTERVAL) for g in (2.0, 8.0)
    }
    return Claim(
        number=8,
        title="Guidance at middle noise levels alone beats guidance at every level",
        source="Kynkäänniemi et al. 2024 (arXiv 2404.07724): guidance at middle noise levels alone keeps images as "
        "good and makes them differ more. Ours to ask: whether StableRep learns more from such siblings.",
        settings={
            **{f"guidance {g:g}": one for g, one in constant.items()},
            **{f"guidance {g:g} at noise levels 0.28 to 5.42": one for g, one in middle.items()},
        },
        statements=(
            better("guidance 2: middle levels above every level", middle[2.0], constant[2.0], main),
            better("guidance 8: middle levels above every level", middle[8.0], constant[8.0], main),
            better("guidance 8 at middle levels above 2 at every level", middle[8.0], constant[2.0], main),
        ),
        measures=main,
        shows_images=True,
    )
