"""The data card of the pictograms, written from the facts that the build counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FRONT = """---
pretty_name: Pictograms by several hands
license: [apache-2.0, mit, cc-by-4.0]
language: [en]
task_categories: [image-classification, text-to-image, zero-shot-image-classification]
size_categories: [1K<n<10K]
tags: [emoji, artwork, caption-grouped, stablerep]
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*.parquet
  - split: held_out_concepts
    path: data/held_out_concepts-*.parquet
  - split: held_out_artist
    path: data/held_out_artist-*.parquet
---
"""

BODY = """
# Pictograms by several hands

{images:,} drawings of {concepts:,} emoji concepts by six groups of artists ({sets} icon sets): many captions, several
images each. This is real *artwork*, rendered from vector drawings; it holds no photos. It ships with `stablerep_hf` as
the small real world that the embedded generator learns from and encoders are measured on.

    from datasets import load_dataset
    pictograms = load_dataset("path/to/this/folder")

## Splits

Nothing crosses them: no concept of `held_out_concepts` is in another split, and the artist of `held_out_artist` drew
nothing in `train`.

| split | images | concepts | use |
|---|---:|---:|---|
{splits}

- **Held-out concepts** are {held_out:,} of {concepts:,} ({share:.0%}), drawn by hash within each of the {groups}
  groups ({subgroups} subgroups). Variants by gender, age or direction of one drawing, and concepts with near-duplicate
  drawings, stay on one side. A few common things (a face, a heart, an apple, a house, a rocket; `SHOWCASE` in the
  script) were kept in `train` on purpose, so that a first look at the generator shows common things.
- **Held-out artist**: Twemoji's drawings of the training concepts. Its drawings of held-out concepts are in
  `held_out_concepts`.
- **Near duplicates** (24 x 24 pixels, mean absolute difference below 0.02): {near_total:,} images have at least one,
  mostly Fluent against Fluent flat. Across splits: {near_across} ({dropped} Twemoji drawings that all but equal a
  training drawing were left out).

## Columns

| column | type | meaning |
|---|---|---|
| `image` | image | 64 x 64 RGB, lossless WebP, cropped to the ink, centred on white with a margin of 2 pixels |
| `caption` | string | a phrase made from the emoji's name |
| `caption_id` | int64 | 63-bit blake2b of the normalised caption; images of one caption lie together |
| `image_index` | int32 | counts a caption's images over all splits |
| `artist` | string | who drew it; both Fluent sets are `fluent`, since they share outlines |
| `style` | string | the icon set: as `artist`, but `fluent` and `fluent-flat` |
| `concept` | string | code points, hexadecimal |
| `group`, `subgroup` | string | where Unicode files it |
| `license` | string | of this drawing |
| `source` | string | npm package, version and icon name |

For retrieval across artists compare `artist`, never `style`: Fluent and Fluent flat are one hand.

## Sources

| style | drawn by | package | licence | train | held-out concepts | held-out artist |
|---|---|---|---|---:|---:|---:|
{sources}

Names, tags and groups: `{emojibase}` (MIT). The package of FxEmojis is tagged Apache-2.0, but the art itself is
CC BY 4.0, which is what the rows say. Icon sets under share-alike licences were left out; so were flags and
skin tones. Colours are rounded to 64 levels a channel: no eye sees it, and a quarter of the bytes go.
`scripts/build_pictograms.py` rebuilds the files byte for byte from the packages.

## Weak points

- Drawings, not photos: results here say little about photos.
- White ground everywhere, one centred object.
- Colour is a shortcut: faces are yellow, arrows blue. Untrained features already score far above chance on groups.
- The groups are uneven ({subgroups} subgroups with 1 to some 80 concepts), and half of them show people or symbols.
- About {per_concept:.1f} images a concept: intervals on the held-out splits are wide. Report them.
- The emoji vocabulary carries the choices and gaps of those who encoded and drew it.
"""


def write_card(path: Path, facts: dict[str, Any], artist_sets: tuple[Any, ...], emojibase: str) -> None:
    """Fill the card with counted facts."""
    splits = facts["splits"]
    uses = {
        "train": "train generators and encoders",
        "held_out_concepts": "evaluate on concepts nobody trained on, all artists",
        "held_out_artist": "evaluate on a hand nobody trained on, training concepts",
    }
    images = sum(part["images"] for part in splits.values())
    text = BODY.format(
        images=images,
        concepts=facts["concepts"],
        sets=len(artist_sets),
        splits="\n".join(
            f"| `{name}` | {part['images']:,} | {part['concepts']:,} | {uses[name]} |" for name, part in splits.items()
        ),
        held_out=facts["held_out_concepts"],
        share=facts["held_out_concepts"] / facts["concepts"],
        groups=facts["groups"],
        subgroups=facts["subgroups"],
        near_total=facts["near_duplicates_total"],
        near_across=facts["near_duplicates_across_splits"],
        dropped=facts["near_duplicates_dropped"],
        sources="\n".join(
            f"| `{s.style}` | {s.attribution} | `{s.pinned}` | {s.license} | "
            + " | ".join(f"{splits[name]['styles'][s.style]:,}" for name in splits)
            + " |"
            for s in artist_sets
        ),
        emojibase=emojibase,
        per_concept=images / facts["concepts"],
    )
    path.write_text(FRONT + text, encoding="utf-8")
