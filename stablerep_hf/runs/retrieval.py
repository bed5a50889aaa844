"""Real images of captions as a caption-grouped data set: what `stablerep retrieve` does."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import EMBEDDED, captions_path
from ..errors import InputError
from ..files.locks import lock_folder
from ..files.shards import PROVENANCE
from ..setting import setting
from ..synthesis.settings import ImageFormat
from .data import find_data
from .encoding import EncodingSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from ..captions import CaptionSet
    from ..evaluation import VisionEncoder
    from ..synthesis import SynthesisPlan
    from ..synthesis.store import ShardStore

HITS = "hits.parquet"
"""File below `provenance/` that says which row of the data each image is."""
_TEXTS = 16_384  # captions searched for at a time


@dataclass
class RetrievalSettings(EncodingSettings):
    """Settings of `retrieve`."""

    captions: str = setting(EMBEDDED, "Text, CSV, JSONL or parquet file, a data set, or 'embedded'.")
    caption_column: str | None = setting(None, "Column of the captions, where the source has several text columns.")
    data: str = setting(EMBEDDED, "Real images: a folder, a Hub id, or 'embedded' (pictograms).")
    split: str = setting("train", "Split of the data set; several as a+b.")
    subset: str | None = setting(None, "Configuration of a data set that has several.")
    encoder: str = setting(EMBEDDED, "Dual encoder (CLIP and its kin): a folder, a Hub id, or 'embedded'.")
    per_caption: int = setting(4, "Images of each caption, the nearest ones.")
    min_similarity: float = setting(-1.0, "Least cosine of caption and image; captions without enough get fewer.")
    exclude: list[str] = setting(
        [], "Evaluation sets, folders or Hub ids: near duplicates of their images are left out."
    )
    near_bits: int = setting(6, "Near duplicates differ in so many of the 64 bits of their perceptual hash or fewer.")
    image_format: ImageFormat = setting("jpeg", "How images are stored.")
    stored_size: int | None = setting(None, "Pixels of a stored image's shorter side; larger ones are scaled down.")
    captions_per_shard: int | None = setting(
        None, "Captions in one file, the unit of work and resume; 64 if not given."
    )
    output: str = setting("retrieved-images", "Folder of the data set.")
    license: str | None = setting(None, "Licence of the images, for their card: a Hub licence id.")


@dataclass(frozen=True)
class Retrieval:
    """What was found.

    Attributes:
        num_captions: Captions that have images.
        num_images: Images of all of them; one may serve several captions.
        num_fewer: Captions that have fewer than `per_caption`.
        num_without: Captions that have none and were left out.
        num_excluded: Images of the data that resemble one of an evaluation set, by the set's name.
        num_near: Images passed over because their caption had one like them.
        is_complete: Whether the whole data set is there, and so its card; else other processes still write.
    """

    num_captions: int
    num_images: int
    num_fewer: int
    num_without: int
    num_excluded: dict[str, int]
    num_near: int
    is_complete: bool


def retrieve(settings: RetrievalSettings | None = None) -> Retrieval:
    """Write the real images nearest to each caption as a caption-grouped data set.

    Its folder is of the form that `stablerep generate` writes, so it is trained on, joined, evaluated, shown and
    published alike. Finished shards are kept, and the processes of a launcher share encoding and writing by rank.
    Images are encoded anew, which removes whatever else their files say, such as where a photo was taken.

    Args:
        settings: Captions, data, encoder, and where to.

    Raises:
        InputError: Something is not there or does not fit, no image is near enough to any caption, or the folder holds
            something else.
    """
    import numpy as np
    import pyarrow.parquet as pq

    from ..captions import read_captions
    from ..evaluation.images import load_images
    from ..files.atomic import write_at_once
    from ..files.places import check_owned
    from ..synthesis import SynthesisPlan
    from ..synthesis.provenance import read_provenance
    from ..synthesis.store import ShardStore
    from .cards import check_license, write_data_card

    settings = settings or RetrievalSettings()
    check_owned(settings.output, PROVENANCE, settings.data)
    if settings.license is not None:
        check_license(settings.license)
    if settings.per_caption < 1 or not 0 <= settings.near_bits < 64:
        raise InputError(
            f"per_caption={settings.per_caption} and near_bits={settings.near_bits} find nothing: give at least 1 "
            "image, and 0 to 63 bits."
        )
    source = captions_path() if settings.captions == EMBEDDED else settings.captions
    captions = read_captions(source, settings.caption_column)
    # what is named wrongly is found before images are encoded
    dataset = load_images(find_data(settings.data), settings.split, settings.subset)
    others = {name: _with_images(name) for name in settings.exclude}
    vision = settings.load(settings.encoder)
    vision.embed_texts(["a text"])
    with lock_folder(settings.output, shared=True):
        said, table, is_new = _search(settings, captions, vision, dataset, others)
        found = np.bincount(table["caption"].to_numpy(), minlength=len(captions))
        plan = SynthesisPlan(
            captions.with_num_images(found),
            said,
            images_per_caption=settings.per_caption,
            image_format=settings.image_format,
            stored_size=settings.stored_size,
            captions_per_shard=settings.captions_per_shard,
        )
        store = ShardStore(settings.output, plan)
        store.claim()
        if is_new:
            write_at_once(_hits_path(settings), lambda file: pq.write_table(table, file))
        _write(store, table, dataset, settings)
        store.tidy()
        is_complete = len(read_provenance(settings.output).shards) == plan.num_shards
        if is_complete:
            write_data_card(settings.output, settings.license)
    return Retrieval(
        num_captions=int((found > 0).sum()),
        num_images=len(table),
        num_fewer=int(((found > 0) & (found < settings.per_caption)).sum()),
        num_without=int((found == 0).sum()),
        num_excluded=said["near duplicates left out"],
        num_near=said["near siblings passed over"],
        is_complete=is_complete,
    )


def _hits_path(settings: RetrievalSettings) -> Path:
    return Path(settings.output) / PROVENANCE / HITS


def _search(
    settings: RetrievalSettings,
    captions: CaptionSet,
    vision: VisionEncoder,
    dataset: Dataset,
    others: dict[str, dict[str, Dataset]],
) -> tuple[dict[str, Any], Any, bool]:
    """What the plan says of the search, its hits, and whether they are new.

    The hits, a table of `caption` (number), `row` and `similarity`, are kept in the folder, so that processes and
    later starts agree where two images are equally near.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ..evaluation.feature_cache import weights_digest
    from ..evaluation.tables import public_name
    from .content import content_of, content_revision

    asked = {
        "name": f"retrieval from {public_name(settings.data)}",
        "retrieved_from": public_name(settings.data),
        "split": settings.split,
        "subset": settings.subset,
        "revision": content_revision(find_data(settings.data), dataset),
        "encoder": public_name(settings.encoder),
        "weights": weights_digest(vision.whole),
        "image column": settings.image_column,
        "least similarity": settings.min_similarity,
        "bits of near duplicates": settings.near_bits,
    }
    known = {
        **asked,
        "captions": captions.digest,
        "per_caption": settings.per_caption,
        "exclude": {public_name(name): content_of(name) for name in settings.exclude},
    }
    try:
        kept = pq.read_table(_hits_path(settings))
        if json.loads(kept.schema.metadata[b"asked"]) == known:
            return json.loads(kept.schema.metadata[b"said"]), kept, False
    except (OSError, ValueError, KeyError, TypeError):  # missing, or of something else
        pass
    hits, rows, excluded = _find(settings, captions, vision, dataset, others)
    columns = {"caption": hits.caption, "row": rows[hits.image], "similarity": hits.similarity}
    digest = hashlib.sha256(b"".join(columns[name].tobytes() for name in ("caption", "row"))).hexdigest()
    said = {
        **asked,
        "near duplicates left out": excluded,
        "near siblings passed over": hits.num_near,
        "hits": digest[:32],
    }
    metadata = {"asked": json.dumps(known), "said": json.dumps(said)}
    return said, pa.table(columns).replace_schema_metadata(metadata), True


def _find(
    settings: RetrievalSettings,
    captions: CaptionSet,
    vision: VisionEncoder,
    dataset: Dataset,
    others: dict[str, dict[str, Dataset]],
) -> Any:
    """Hits among the images that resemble none of an evaluation set, the row of each image, and how many do."""
    import numpy as np

    from ..evaluation import extract_features
    from ..evaluation.features import device_of
    from ..evaluation.tables import public_name
    from ..progress import track
    from ..retrieval.siblings import Hits, find_siblings, near_duplicates
    from .picture_hashes import hash_encoder

    device = device_of(vision)
    options = settings.options()
    found = extract_features(vision, dataset, **options)
    assert found.embeds is not None  # it knows texts
    plain: Any = {**options, "precision": "float32", "device": None}
    hashes = extract_features(hash_encoder(), dataset, **plain)
    keep = np.ones(len(found), bool)
    excluded: dict[str, int] = {}
    for name, splits in others.items():
        near = np.zeros(len(found), bool)
        for part in splits.values():
            theirs = extract_features(hash_encoder(), part, **{**plain, "image_column": "image"}).features
            near |= near_duplicates(hashes.features, theirs, settings.near_bits, device)
        excluded[public_name(name)] = int(near.sum())
        keep &= ~near
    if not keep.any():
        raise InputError(
            f"Each of the {len(keep)} images resembles one of an evaluation set: lower `near_bits`, or name other "
            "data."
        )
    images = np.flatnonzero(keep)
    parts = []
    for start in track(range(0, len(captions), _TEXTS), "searching", unit="block"):
        texts = captions.slice(start, start + _TEXTS).captions
        hits = find_siblings(
            vision.embed_texts(texts).to(device),
            found.embeds[images],
            hashes.features[images],
            settings.per_caption,
            min_similarity=settings.min_similarity,
            near_bits=settings.near_bits,
        )
        parts.append((hits.caption + start, images[hits.image], hits.similarity, hits.num_near))
    caption, image, similarity, passed = zip(*parts, strict=True)
    whole = Hits(np.concatenate(caption), np.concatenate(image), np.concatenate(similarity), sum(passed))
    if not len(whole.caption):
        raise InputError(
            f"min_similarity={settings.min_similarity} is more than any image has to any caption: lower it."
        )
    return whole, found.rows, excluded


def _with_images(name: str) -> dict[str, Dataset]:
    """All splits of an evaluation set, their images in the column `image`."""
    from datasets import Image

    from ..evaluation.images import load_images

    splits = {}
    for split, part in load_images(find_data(name), None).items():
        columns = [column for column, kind in part.features.items() if isinstance(kind, Image)]
        if not columns:
            raise InputError(f"exclude={name} has no column of images ({part.column_names}): name another data set.")
        column = "image" if "image" in columns else columns[0]
        splits[split] = part.select_columns([column]).rename_columns({column: "image"})
    return splits


def _write(store: ShardStore, table: Any, dataset: Dataset, settings: RetrievalSettings) -> None:
    """Write this process's shards that are missing."""
    import time

    import numpy as np
    from datasets import Image

    from ..progress import track
    from ..synthesis.drawing import DrawnShard, row_of
    from ..synthesis.workers import rank_and_world_size

    plan: SynthesisPlan = store.plan
    rank, world_size = rank_and_world_size()
    starts = np.unique(table["caption"].to_numpy(), return_index=True)[1]
    bounds = np.append(starts, len(table))
    rows, similarities = table["row"].to_numpy(), table["similarity"].to_numpy()
    images = dataset.with_format(None).cast_column(settings.image_column, Image(decode=False))
    scorer = {"model": plan.generator["encoder"], "revision": plan.generator["weights"]}
    with ThreadPoolExecutor() as pool:
        for shard in track(range(rank, plan.num_shards, world_size), "writing", unit="shard"):
            if store.find_record(shard) is not None:
                continue
            begin = time.perf_counter()
            captions = plan.shard_captions(shard)
            first = shard * plan.captions_per_shard
            pending = []
            for place, (text, caption_id) in enumerate(zip(captions, captions.caption_ids.tolist(), strict=True)):
                start, stop = bounds[first + place], bounds[first + place + 1]
                for index, hit in enumerate(range(start, stop)):
                    row = row_of(plan, text, caption_id, index) | {"alignment": float(similarities[hit])}
                    stored = images[int(rows[hit])][settings.image_column]
                    pending.append((row, pool.submit(_encode, stored, plan)))
            store.write_shard(
                shard, DrawnShard(0, [], pending=pending), time.perf_counter() - begin, {"alignment": scorer}
            )


def _encode(stored: dict[str, Any], plan: SynthesisPlan) -> Any:
    from ..evaluation.decoding import decode_image
    from ..synthesis.frames import StoredFrame, encode_image, is_blank, perceptual_hash, shrink

    image = shrink(decode_image(stored), plan.stored_size)
    return StoredFrame(encode_image(image, plan.image_format), is_blank(image), perceptual_hash(image))
