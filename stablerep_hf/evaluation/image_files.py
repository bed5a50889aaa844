"""The builder of `datasets` for folders of image files, with what it would not read or would lose."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Image, List, SplitGenerator
from datasets.iterable_dataset import ArrowExamplesIterable
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from ..errors import InputError
from .folders import image_suffixes

_ROWS_AT_ONCE = 10_000
_LONGEST_FIELD = 10_000_000  # characters of a CSV field; the csv module's own limit is easily met


class ImageFiles(ImageFolder):  # type: ignore[misc]
    """`ImageFolder` that also reads AVIF and HEIC where Pillow does, and loses no text of a `metadata.csv`.

    `ImageFolder` takes captions such as "None" for missing ones, and the first part of a caption that holds a comma
    for a file.
    """

    EXTENSIONS = sorted(image_suffixes())

    def unnamed(self) -> int:
        """How many images lie in splits whose metadata files do not name them, and are no rows; once prepared."""
        number = 0
        for split, files in self.config.data_files.items():
            images = [file for file in files if os.path.basename(file) not in self.METADATA_FILENAMES]  # noqa: PTH119
            if len(images) < len(files):
                rows, named = self.as_dataset(split), set[str]()
                for name, feature in rows.features.items():
                    cells = rows.data.column(name)
                    if isinstance(feature, List) and isinstance(feature.feature, Image):
                        feature, cells = feature.feature, pc.list_flatten(cells)
                    if isinstance(feature, Image):
                        named.update(pc.unique(pc.struct_field(cells, "path")).drop_null().to_pylist())
                number += max(0, len(images) - len(named))
        return number

    def _get_examples_iterable_for_split(self, split_generator: SplitGenerator) -> ArrowExamplesIterable:
        """Stream tables of the data set's own types: from a row alone nobody can tell that of a missing caption."""
        return ArrowExamplesIterable(self._tables, split_generator.gen_kwargs)

    def _tables(self, **parts: Any) -> Iterator[tuple[Any, pa.Table]]:
        features = self.info.features
        for key, row in self._generate_examples(**parts):
            yield key, pa.Table.from_pylist([features.encode_example(row)], schema=features.arrow_schema)

    def _read_metadata(self, metadata_file: str, metadata_ext: str = "") -> Iterator[pa.Table]:
        if metadata_ext != ".csv":
            yield from super()._read_metadata(metadata_file, metadata_ext)
            return
        _check_fields(metadata_file)
        features = self.config.features or {}
        texts = {name: str for name, feature in features.items() if getattr(feature, "dtype", None) == "string"}
        # of the module, not of an import inside: `datasets` replaces it where files are streamed
        parts = pd.read_csv(metadata_file, keep_default_na=False, na_values=[""], dtype=texts, chunksize=_ROWS_AT_ONCE)
        for part in parts:
            yield pa.Table.from_pandas(part, preserve_index=False)


def _check_fields(file: str) -> None:
    csv.field_size_limit(_LONGEST_FIELD)
    with open(file, encoding="utf-8-sig", newline="") as lines:  # noqa: PTH123  # as above
        reader = csv.reader(lines)
        header = next(reader, [])
        for row in reader:
            if len(row) > len(header):
                raise InputError(
                    f"Line {reader.line_num} of {file!r} has {len(row)} fields, but the first line names "
                    f"{len(header)}: put captions that hold a comma into double quotes."
                )
