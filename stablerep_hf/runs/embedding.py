"""Features of a data set in a Parquet file: what `stablerep embed` does."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..assets import EMBEDDED
from ..errors import InputError
from ..progress import say
from ..setting import setting
from .data import find_data
from .encoding import EncodingSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from ..evaluation import VisionEncoder

FEATURES = "features"
EMBEDS = "embeds"
ROW = "row"


@dataclass
class EmbeddingSettings(EncodingSettings):
    """Settings of `embed`, beside the encoder."""

    data: str = setting(EMBEDDED, "Images: a folder, a Hub id, or 'embedded' (pictograms).")
    output: str = setting("features.parquet", "Parquet file to write.")
    split: str = setting("train", "Split of the data set; several as a+b.")
    subset: str | None = setting(None, "Configuration of a data set that has several.")
    columns: list[str] | None = setting(
        None, "Columns to keep beside the features; ids, captions, labels and other small ones if not given."
    )
    float16: bool = setting(False, "Store numbers of half precision, in half the room.")


@dataclass(frozen=True)
class Embedding:
    """What was written.

    Attributes:
        path: The file.
        count: Its rows.
        dimensions: Of a feature.
        skipped: Images that could not be decoded and have no row.
    """

    path: Path
    count: int
    dimensions: int
    skipped: int


def embed_dataset(encoder: str | Path | VisionEncoder, settings: EmbeddingSettings | None = None) -> Embedding | None:
    """Write the features of every image of a data set to a Parquet file, in its order.

    The file holds `row` (the row of the data set, int64), the columns that are kept, `features` (a list of D floats,
    as `extract_features` gives them: not normalised) and, of a dual encoder, `embeds` (the image in the space that it
    shares with texts). `datasets.load_dataset("parquet", data_files=...)` reads it. A thousand images are held in
    memory at a time; with a cache a run that was killed goes on behind its last thousand. The file is whole or is not
    there.

    Args:
        encoder: A folder, a Hub id, 'embedded', 'embedded-stablerep', or an encoder that is loaded.
        settings: Which images, and where to.

    Returns:
        What was written; None in a process of a launcher that is not the first, which encodes its part only.

    Raises:
        InputError: Encoder, data or columns are not there or do not fit, or too many images do not decode.
    """
    import pyarrow.parquet as pq

    from ..evaluation.images import load_images
    from ..files.atomic import write_at_once

    settings = settings or EmbeddingSettings()
    settings.check_places(settings.output, settings.data, is_file=True)
    dataset = load_images(find_data(settings.data), settings.split, settings.subset)
    kept = _kept(dataset, settings)
    say(f"{settings.data}: {len(dataset):,} images of {settings.split}", only_to_people=True)
    from ..evaluation.features import check_bad_images, encode_shards  # which takes seconds

    vision = settings.load(encoder)
    options: Any = settings.options()
    most = options.pop("max_bad_images")
    if settings.rank:
        for _ in encode_shards(vision, dataset, columns=kept, **options):
            pass
        return None
    path = Path(settings.output)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(file: Any) -> Embedding:
        writer, count, dimensions, skipped = None, 0, 0, 0
        shards = encode_shards(vision, dataset, columns=kept, **options)
        try:
            with closing(shards):
                for shard in shards:
                    for row, reason in zip(shard.bad_rows, shard.reasons, strict=True):
                        skipped += 1
                        check_bad_images(skipped, most, f"row {row}", str(reason), settings.image_column)
                    if not len(shard.rows):
                        continue
                    table = _table(dataset, kept, shard, settings.float16)
                    writer = writer or pq.ParquetWriter(file, table.schema)
                    writer.write_table(table)
                    count, dimensions = count + len(table), shard.features.shape[1]
            if writer is None:
                raise InputError(f"None of the {len(dataset)} images can be decoded; check the files.")
        finally:
            if writer is not None:
                writer.close()
        return Embedding(path, count, dimensions, skipped)

    return write_at_once(path, write)


def _kept(dataset: Dataset, settings: EmbeddingSettings) -> list[str]:
    """The columns that go along."""
    from datasets import ClassLabel, List, Value

    def is_small(kind: Any) -> bool:
        kind = kind.feature if isinstance(kind, List) else kind
        return isinstance(kind, ClassLabel) or (isinstance(kind, Value) and "binary" not in str(kind.dtype))

    ours = (ROW, FEATURES, EMBEDS)
    if settings.columns is None:
        return [name for name, kind in dataset.features.items() if is_small(kind) and name not in ours]
    for name in settings.columns:
        if name not in dataset.column_names or name in ours or not is_small(dataset.features[name]):
            raise InputError(
                f"The column {name!r} of columns= cannot be kept: name some of "
                f"{', '.join(sorted(own for own, kind in dataset.features.items() if is_small(kind)))}, and none of "
                f"{', '.join(ours)}."
            )
    return list(settings.columns)


def _table(dataset: Dataset, kept: list[str], shard: Any, float16: bool) -> Any:
    import pyarrow as pa
    from datasets import Features, List, Value

    number = "float16" if float16 else "float32"
    table: Any = dataset.with_format("arrow").select_columns(kept)[shard.rows] if kept else {}
    columns: dict[str, Any] = {ROW: pa.array(shard.rows)}
    features: dict[str, Any] = {ROW: Value("int64")}
    for name in kept:
        columns[name], features[name] = table[name], dataset.features[name]
    for name, values in ((FEATURES, shard.features), (EMBEDS, shard.embeds)):
        if size := values.shape[1]:
            flat = pa.array(values.astype(number).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, size)
            features[name] = List(Value(number), length=size)
    return pa.table(columns).cast(Features(features).arrow_schema)
