"""The store as a `datasets` builder: preparing the data set draws what is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from ..captions import read_captions
from ..errors import InputError
from .diffusers_generator import DiffusersGenerator
from .pipeline_folder import EMBEDDED
from .plan import PLACEHOLDER, ImageFormat, SynthesisPlan
from .run import synthesize
from .schema import image_features
from .store import ShardStore


@dataclass(eq=False)
class CaptionGroupedImagesConfig(datasets.BuilderConfig):  # type: ignore[misc]
    """What to draw, with what, and where the shards are kept.

    `captions` is what `read_captions` reads, `store` the folder of the shards; both are needed. The others are the
    arguments of `DiffusersGenerator`, `SynthesisPlan` and `synthesize` of the same names (`generator` and `revision`
    are the pipeline's name and revision).
    """

    captions: str | None = None
    caption_column: str | None = None
    store: str | None = None
    generator: str = EMBEDDED
    revision: str | None = None
    guidance_scale: float | None = None
    num_inference_steps: int = 50
    scheduler: str | None = None
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    lora: str | None = None
    lora_scale: float = 1.0
    dtype: str | None = None
    device: str | None = None
    images_per_caption: int = 4
    prompt_templates: tuple[str, ...] = (PLACEHOLDER,)
    base_seed: int = 0
    image_format: ImageFormat = "jpeg"
    stored_size: int | None = None
    captions_per_shard: int = 256
    batch_size: int = 64
    max_failed_captions: int = 0
    truncate_prompts: bool = False

    def create_config_id(self, config_kwargs: dict[str, Any], custom_features: datasets.Features | None = None) -> str:
        """Name the cache by the plan, which alone decides the rows.

        By default the arguments would name it, and a caption file with new lines in it, or a folder with another
        generator in it, would be served from the old cache.
        """
        plan, _ = self.plan_and_generator()
        return f"{self.name}-{plan.hash}"

    def plan_and_generator(self) -> tuple[SynthesisPlan, DiffusersGenerator]:
        """Read the captions and find the generator.

        Raises:
            InputError: If either cannot serve, or `captions` or `store` was not given.
        """
        if self.captions is None or self.store is None:
            missing = "captions" if self.captions is None else "store"
            raise InputError(
                f"CaptionGroupedImages was given no {missing}; pass captions=<file or data set> and store=<folder>."
            )
        generator = DiffusersGenerator(
            self.generator,
            self.revision,
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            scheduler=self.scheduler,
            negative_prompt=self.negative_prompt,
            height=self.height,
            width=self.width,
            lora=self.lora,
            lora_scale=self.lora_scale,
            dtype=self.dtype,
            device=self.device,
        )
        plan = SynthesisPlan(
            read_captions(self.captions, self.caption_column),
            generator.describe(),
            images_per_caption=self.images_per_caption,
            prompt_templates=tuple(self.prompt_templates),
            base_seed=self.base_seed,
            image_format=self.image_format,
            stored_size=self.stored_size,
            captions_per_shard=self.captions_per_shard,
        )
        return plan, generator


class CaptionGroupedImages(datasets.ArrowBasedBuilder):  # type: ignore[misc]
    """Captions in, a caption-grouped data set out.

        builder = CaptionGroupedImages(captions="captions.txt", store="shards", images_per_caption=4)
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train")

    The shards are an ordinary store of `synthesize`: an interrupted preparation goes on where it was, and several
    workers may fill the folder beforehand. `load_dataset(store)` loads it without this package.
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
        plan, generator = self.config.plan_and_generator()
        folder = Path(str(self.config.store))
        synthesize(
            plan,
            generator,
            folder,
            batch_size=self.config.batch_size,
            max_failed_captions=self.config.max_failed_captions,
            truncate_prompts=self.config.truncate_prompts,
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
