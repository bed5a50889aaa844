"""The store as a `datasets` builder: preparing the data set draws what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from .planning import plan_generation
from .run import synthesize
from .schema import image_features
from .settings import GenerationSettings
from .store import ShardStore


@dataclass(eq=False)
class CaptionGroupedImagesConfig(datasets.BuilderConfig, GenerationSettings):  # type: ignore[misc]
    """What to draw, with what, and where the shards are kept (`output`): the fields of `GenerationSettings`."""

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name the cache by the plan, which alone decides the rows.

        By default the arguments would name it, and a caption file with new lines in it, or a folder with another
        generator in it, would be served from the old cache.
        """
        plan, _ = plan_generation(self)
        return f"{self.name}-{plan.hash}"


class CaptionGroupedImages(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Captions in, a caption-grouped data set out.

        builder = CaptionGroupedImages(captions="captions.txt", output="shards", images_per_caption=4)
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train")

    The shards are an ordinary store of `synthesize`: an interrupted preparation goes on where it was, and several
    workers may fill the folder beforehand. `load_dataset(output)` loads it without this package.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = CaptionGroupedImagesConfig
    config: CaptionGroupedImagesConfig

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Images drawn from captions by a text-to-image model, several of each.",
            features=image_features(),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        plan, generator = plan_generation(self.config)
        folder = Path(self.config.output)
        synthesize(
            plan,
            generator,
            folder,
            batch_size=self.config.batch_size,
            max_failed_captions=self.config.max_failed_captions,
            progress=datasets.is_progress_bar_enabled(),
        )
        store = ShardStore(folder, plan)
        files = [str(store.shard_path(shard)) for shard in range(plan.num_shards)]
        return [datasets.SplitGenerator(name=datasets.Split.TRAIN, gen_kwargs={"files": files})]

    def _generate_tables(self, files: list[str]) -> Iterator[tuple[str, pa.Table]]:
        for path in files:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield f"{Path(path).name}/{group}", file.read_row_group(group)
