"""Draw the synthetic pictures that the search page ships with: siblings, and the same captions at several guidances.

    python scripts/draw_space_pictures.py --work draw-space

The embedded generator draws captions spread evenly over the embedded ones, none chosen by hand. Seeds depend on
caption and image alone, so two guidance scales differ in nothing else. Started again, it goes on; the result is put
into `stablerep_hf/assets/drawings`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stablerep_hf import assets
from stablerep_hf.runs.generation import GenerationRun
from stablerep_hf.synthesis import GenerationSettings

GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)
SIBLINGS = {"num_captions": 48, "images_per_caption": 6}
GUIDANCE = {"num_captions": 12, "images_per_caption": 4}

CARD = """---
pretty_name: Drawings of the embedded generator
license: cc-by-4.0
language: [en]
task_categories: [image-classification, text-to-image]
size_categories: [n<1K]
tags: [synthetic, caption-grouped, stablerep]
configs:
- config_name: default
  data_files:
  - split: siblings
    path: data/siblings-*.parquet
  - split: guidance
    path: data/guidance-*.parquet
---

# Drawings of the embedded generator

What the search page shows of synthetic images: {total} drawings of 32 x 32 pixels by the small
`StableDiffusionPipeline` that ships with `stablerep_hf` (revision `{revision}`), lossy WebP. Remade by
`python scripts/draw_space_pictures.py`.

    from datasets import load_dataset
    siblings = load_dataset("path/to/this/folder", split="siblings")

| split | images | captions | what |
|---|---:|---:|---|
| `siblings` | {siblings} | {siblings_captions} | {siblings_each} of each, in the styles the generator learned |
| `guidance` | {guidance} | {guidance_captions} | {guidance_each} of each, same seeds, at guidance {scales} |

The captions are spread evenly over the embedded ones that the generator learned; none was chosen for its pictures. The
columns are those of every data set that `stablerep generate` draws: caption, its id, seed, prompt, generator and
settings of each image. The pictures carry the licences of the artwork behind the generator (see `NOTICE`).
"""


def draw(folder: Path, guidance_scale: float | None, number: dict[str, int]) -> pa.Table:
    """The rows of a data set, drawn into `folder`."""
    GenerationRun(
        GenerationSettings(
            guidance_scale=guidance_scale,
            image_format="webp",
            output=str(folder),
            num_captions=number["num_captions"],
            images_per_caption=number["images_per_caption"],
        )
    ).run()
    return pa.concat_tables([pq.read_table(path) for path in sorted((folder / "data").glob("*.parquet"))])


def main() -> None:
    """Draw both splits and write them with their card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", default="draw-space", help="folder for what is drawn on the way")
    work = Path(parser.parse_args().work)
    tables = {
        "siblings": draw(work / "siblings", None, SIBLINGS),
        "guidance": pa.concat_tables([draw(work / f"guidance-{w:g}", w, GUIDANCE) for w in GUIDANCE_SCALES]),
    }
    output = assets.drawings_path()
    (output / "data").mkdir(parents=True, exist_ok=True)
    for split, table in tables.items():
        pq.write_table(table, output / "data" / f"{split}-00000-of-00001.parquet", compression="zstd")
    facts = {
        "total": sum(map(len, tables.values())),
        "revision": tables["siblings"]["generator_revision"][0].as_py(),
        "siblings": len(tables["siblings"]),
        "siblings_captions": SIBLINGS["num_captions"],
        "siblings_each": SIBLINGS["images_per_caption"],
        "guidance": len(tables["guidance"]),
        "guidance_captions": GUIDANCE["num_captions"],
        "guidance_each": GUIDANCE["images_per_caption"],
        "scales": ", ".join(f"{w:g}" for w in GUIDANCE_SCALES),
    }
    (output / "README.md").write_text(CARD.format(**facts), "utf-8")


if __name__ == "__main__":
    main()
