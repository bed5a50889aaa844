"""The card of a caption-grouped data set."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow.dataset
from datasets import Value
from huggingface_hub import DatasetCard, DatasetCardData
from PIL import Image
from pyarrow import compute

from ..captions import CaptionAudit
from ..evaluation.figures import histogram_plot, image_grid, png_bytes
from ..evaluation.tables import markdown_table, public_name, readable
from ..files.atomic import write_file
from ..synthesis import Provenance, image_features, read_provenance, score_histograms
from .facts import DatasetFacts, check_license
from .rendering import render

AUDIT_PLOT, SCORES_PLOT = "audit.png", "scores.png"
COLUMN_NOTES = {
    "image": "the picture, encoded as it was stored",
    "caption": "the caption, normalised; it names the group",
    "caption_id": "63-bit blake2b of the caption: rows with the same id are images of the same caption",
    "image_index": "which image of its caption; with `caption_id` the key of the row",
    "seed": "of the generator's noise, a function of base seed, `caption_id` and `image_index`",
    "prompt": "what the generator was given: the caption in one of the templates",
    "generator": "name of the text-to-image model",
    "generator_revision": "its commit or content digest",
    "scheduler": "sampler",
    "guidance_scale": "weight of classifier-free guidance",
    "num_inference_steps": "sampling steps",
    "generator_license": "licence of the text-to-image model, as its card names it; null if it names none",
    "redrawable": "whether the generator draws the same image again from `prompt` and `seed`",
    "library_versions": "versions of the libraries that drew the row",
    "is_blank": "whether the picture is one flat colour",
    "perceptual_hash": "64-bit DCT hash of the picture: near duplicates differ in few bits",
    "alignment": "cosine of image and prompt in a model such as CLIP; null if not scored",
    "nsfw": "probability that the picture is unsafe, by a classifier; null if not scored",
    "diversity": "Vendi score of the caption's images, the same on each of them; null if not scored",
}


_COLUMNS_OF_DRAWING = (
    "seed", "prompt", "generator", "generator_revision", "scheduler", "guidance_scale", "num_inference_steps",
    "generator_license", "library_versions",
)  # fmt: skip


def render_dataset_card(facts: DatasetFacts) -> DatasetCard:
    """A dataset card whose every number comes from `facts`; the same facts give the same text.

    Raises:
        InputError: the licence is "other" without a name.
    """
    check_license(facts.license, facts.license_name)
    generator = facts.plan.get("generator", {})
    retrieved = "retrieved_from" in generator
    if retrieved:
        columns = {name: kind for name, kind in facts.columns.items() if name not in _COLUMNS_OF_DRAWING}
        facts = dataclasses.replace(facts, columns=columns)
    data = DatasetCardData(
        license=facts.license,
        language=list(facts.language) or None,
        pretty_name=facts.name,
        size_categories=[size_category(facts.num_images)],
        task_categories=["image-feature-extraction", "text-to-image"],
        annotations_creators=["machine-generated"],
        tags=[*([] if retrieved else ["synthetic"]), "stablerep", "caption-grouped", *facts.tags],
        license_name=facts.license_name or None,
        license_link=facts.license_link or None,
        generator=None
        if retrieved
        else {name: public_name(generator[name]) for name in ("name", "revision") if generator.get(name)} or None,
        configs=[
            {
                "config_name": "default",
                # `load_dataset` caches a local folder by its name and these lines, not by its files: without the plan
                # in them, another data set in a folder of the same name would be served from the cache, and without
                # the files' names, old values of its rows, such as scores.
                "description": f"{facts.num_images} images of plan {facts.revision or 'unknown'}"
                + (f", files {facts.files}" if facts.files else ""),
                "data_files": [{"split": split, "path": pattern} for split, pattern in facts.data_files.items()],
            }
        ],
    )
    text = render(
        "dataset_card.md.jinja",
        data,
        facts=facts,
        generator=generator,
        retrieved=retrieved,
        split=next(iter(facts.data_files)),
        column_notes=COLUMN_NOTES,
        scores=_scores_table(facts.scores, facts.score_histograms),
        audit=_audit_tables(facts.caption_history.get("audit", {})),
        pictures={"audit": AUDIT_PLOT if _audit(facts) else None, "scores": SCORES_PLOT},
    )
    return DatasetCard(text)


def dataset_facts(folder: str | Path, *, name: str, license: str, **others: Any) -> DatasetFacts:
    """Facts of a folder that `synthesize` drew into, from its provenance.

    Args:
        folder: the data set.
        name: the heading of the card.
        license: Hub licence id, or "other" with `license_name` among the others.
        others: further fields of `DatasetFacts`, such as `licensed_parts` and `versions`.

    Raises:
        InputError: the folder has no provenance or it is damaged.
    """
    provenance = read_provenance(folder)
    plan: dict[str, Any] = dict(provenance.settings)
    first = provenance.shards[0] if provenance.shards else {}
    others = {
        "revision": first.get("plan_hash", ""),
        "files": _files(provenance),
        "versions": first.get("versions", {}),
        **others,
    }
    return DatasetFacts(
        name=name,
        license=license,
        num_captions=provenance.num_captions,
        num_images=provenance.num_images,
        num_bytes=provenance.num_bytes,
        plan=plan,
        num_redrawn=provenance.num_redrawn,
        num_near_siblings=provenance.num_near_siblings,
        num_failed_captions=len(provenance.failed_captions),
        seconds=provenance.seconds,
        columns={column: _type_name(feature) for column, feature in image_features().items()},
        num_truncated=provenance.num_truncated,
        caption_history=provenance.caption_history,
        scores=_scores(Path(folder)),
        score_histograms=score_histograms(folder),
        **others,
    )


def write_dataset_card(
    folder: str | Path, facts: DatasetFacts, caption_images: Mapping[str, Sequence[Image.Image]] | None = None
) -> Path:
    """Write the card as `README.md` into the folder of the data set, in place of one that is there.

    Its last line is a comment by which `is_as_written` tells whether somebody edited it.

    Args:
        folder: the data set.
        facts: what the card says; `grid` names the picture of sample rows.
        caption_images: caption -> its images, from which that picture is drawn; None if it exists already.

    Returns:
        The path of the card.
    """
    root = Path(folder)
    if caption_images and facts.grid:
        write_file(root / facts.grid, png_bytes(image_grid(caption_images)))
    if facts.score_histograms:
        write_file(root / SCORES_PLOT, histogram_plot(facts.score_histograms))
    if audit := _audit(facts):
        plot = BytesIO()
        audit.write_plot(plot)
        write_file(root / AUDIT_PLOT, plot.getvalue())
    path = root / "README.md"
    text = str(render_dataset_card(facts)).strip()
    write_file(path, f"{text}\n\n{_seal(text)}\n".encode())
    return path


def is_as_written(card: str) -> bool:
    """Whether `write_dataset_card` wrote a card and nobody has edited it since."""
    text, _, seal = card.strip().rpartition("\n")
    return seal == _seal(text.strip())


def renew_files_line(card: Path) -> None:
    """Say in an edited card which files are there now, where it still says which were, and change nothing else."""
    files = _files(read_provenance(card.parent))
    old = card.read_bytes()
    new = re.sub(rb"(images of plan \w+, files )[0-9a-f]{16}\b", rb"\g<1>" + files.encode(), old)
    if new != old:
        write_file(card, new)


def _seal(text: str) -> str:
    digest = blake2b(text.encode(), digest_size=16).hexdigest()
    return f"<!-- Written by stablerep_hf, which writes it anew until somebody edits it: {digest} -->"


def _files(provenance: Provenance) -> str:
    digests = " ".join(str(record["sha256"]) for record in provenance.shards)
    return blake2b(digests.encode(), digest_size=8).hexdigest()


def size_category(num_rows: int) -> str:
    """The Hub's name for a number of rows: "n<1K", "1K<n<10K" ... "n>1T"."""
    bounds = [f"{count}{unit}" for unit in "KMBT" for count in (1, 10, 100)][:10]  # 1K, 10K ... 1T
    for power, bound in enumerate(bounds):
        if num_rows < 10 ** (power + 3):
            return f"n<{bound}" if power == 0 else f"{bounds[power - 1]}<n<{bound}"
    return f"n>{bounds[-1]}"


def _scores(folder: Path) -> dict[str, dict[str, float]]:
    """Of every column of decimal numbers that has values and is no setting of the generator."""
    files = sorted(map(str, folder.glob("data/*.parquet")))
    if not files:
        return {}
    rows = pyarrow.dataset.dataset(files)
    names = [
        column.name
        for column in rows.schema
        if pyarrow.types.is_floating(column.type) and column.name != "guidance_scale"
    ]
    found: dict[str, list[float]] = {name: [0.0, 0, math.inf, -math.inf] for name in names}
    for batch in rows.to_batches(columns=names):  # of a data set of any size
        for name, numbers in found.items():
            values = batch.column(name).drop_null()
            if len(values):
                ends = compute.min_max(values).as_py()
                numbers[:] = (
                    numbers[0] + compute.sum(values).as_py(),
                    numbers[1] + len(values),
                    min(numbers[2], ends["min"]),
                    max(numbers[3], ends["max"]),
                )
    return {
        name: {"mean": total / number, "lowest": low, "highest": high}
        for name, (total, number, low, high) in found.items()
        if number
    }


def _scores_table(scores: Mapping[str, Mapping[str, float]], histograms: Mapping[str, Mapping[str, Any]]) -> str:
    if not scores:
        return ""
    names = ["mean", "lowest", "highest"]
    rows = [
        [
            f"`{column}`",
            *(readable(summary[name]) for name in names),
            readable(histograms.get(column, {}).get("scorer", "")),
        ]
        for column, summary in scores.items()
    ]
    return markdown_table([["column", *names, "measured by"], *rows])


def _audit(facts: DatasetFacts) -> CaptionAudit | None:
    """The audit of the captions, if it counted something that can be plotted."""
    if summary := facts.caption_history.get("audit"):
        audit = CaptionAudit(summary["num_captions"], summary["concepts"], summary["demographics"])
        return audit if audit.has_counts else None
    return None


def _audit_tables(audit: Mapping[str, Any]) -> list[str]:
    """What `CaptionAudit.summary` says, as tables: captions that name a concept or group, before and after."""
    titles = {"concepts": "concept", "demographics": "group of the word list"}
    tables = [
        markdown_table(
            [
                [title, "before", "after"],
                *([name, *map(readable, counts)] for name, counts in audit[part].items()),
            ]
        )
        for part, title in titles.items()
        if audit.get(part)
    ]
    if audit.get("overlaps"):
        names = ["equal", "near", "classes_named"]
        rows = [[overlap["name"], *(readable(overlap[name]) for name in names)] for overlap in audit["overlaps"]]
        tables.append(
            markdown_table([["evaluation set", "captions in it", "captions nearly in it", "classes named"], *rows])
        )
    return tables


def _type_name(feature: Any) -> str:
    return str(feature.dtype if isinstance(feature, Value) else type(feature).__name__)
