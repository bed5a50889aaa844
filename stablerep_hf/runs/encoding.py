"""What `evaluate`, `embed`, `index` and `blend` share: which images an encoder reads, and how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InputError
from ..setting import setting

if TYPE_CHECKING:
    from ..evaluation import ExtractionOptions, VisionEncoder

NO_CACHE = "none"


@dataclass
class ExtractionSettings:
    """Settings of everything that encodes images."""

    image_column: str = setting("image", "Column of the images.")
    cache: str | None = setting(
        None,
        "Folder that keeps features, so that a killed run goes on; a folder in HF_HOME if not given, "
        f"'{NO_CACHE}' for none.",
    )
    batch_size: int = setting(128, "Images in a forward pass.")
    precision: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", "Precision of the forward pass: a half one is faster on a GPU."
    )
    num_workers: int | None = setting(None, "Processes that decode images; by the cores beside a GPU, else 0.")
    device: str | None = setting(None, "cuda, mps, cpu; the fastest there is if not given.")
    max_bad_images: int = setting(0, "Images that may fail to decode before the run stops.")

    def check_places(self, output: str | None, *data: str, is_file: bool) -> None:
        """Refuse, before any work, an output or a cache that could not be written, or an output within the data.

        Raises:
            InputError: There is such a one.
        """
        from ..files.places import check_apart, check_place

        if output is not None:
            check_apart(output, *data)
            check_place("output", output, is_file=is_file)
        if self.cache_dir is not None:
            check_place("cache", self.cache_dir)

    @property
    def cache_dir(self) -> Path | None:
        """Folder of the cache, if there is one."""
        from ..files.places import default_cache_dir

        if self.cache == NO_CACHE:
            return None
        return default_cache_dir() if self.cache is None else Path(self.cache)

    @property
    def rank(self) -> int:
        """Of this process among those of a launcher that share the encoding; the first writes the output."""
        from ..synthesis.workers import rank_and_world_size

        return rank_and_world_size()[0]

    @property
    def _own_device(self) -> str | None:
        """The device asked for; of several processes each takes its own GPU."""
        from ..synthesis.workers import find_device, rank_and_world_size

        return find_device(self.device) if rank_and_world_size()[1] > 1 else self.device

    def options(self) -> ExtractionOptions:
        """Arguments of `extract_features`.

        Raises:
            InputError: Several processes have no cache to share features in.
        """
        from ..synthesis.workers import rank_and_world_size

        rank, world_size = rank_and_world_size()
        if world_size > 1 and self.cache_dir is None:
            raise InputError(
                f"cache={NO_CACHE} leaves {world_size} processes nothing to share features in: give a folder that all "
                "of them see."
            )
        return {
            "image_column": self.image_column,
            "cache_dir": self.cache_dir,
            "batch_size": self.batch_size,
            "precision": self.precision,
            "num_workers": self.num_workers,
            "device": self._own_device,
            "rank": rank,
            "world_size": world_size,
            "max_bad_images": self.max_bad_images,
        }


@dataclass
class EncodingSettings(ExtractionSettings):
    """Settings of whatever loads an encoder and encodes images."""

    revision: str | None = setting(None, "Branch, tag or commit of an encoder on the Hub.")
    trust_remote_code: bool = setting(False, "Run the code that comes with the encoder.")

    def load(self, encoder: str | Path | VisionEncoder, *, classifier: bool = False) -> VisionEncoder:
        """Load an encoder, or a classifier: one that ships by its name, a folder or a Hub id.

        Raises:
            InputError: It is not there, or none.
        """
        if (
            isinstance(encoder, (str, Path))
            and str(encoder).startswith((".", "/", "~"))
            and not Path(encoder).exists()
        ):
            raise InputError(
                f"The encoder {str(encoder)!r} cannot be loaded, there is no such folder: check the path."
            )
        from ..evaluation import load_classifier, load_encoder

        loader: Any = load_classifier if classifier else load_encoder
        vision: VisionEncoder = loader(
            encoder,
            revision=self.revision,
            trust_remote_code=self.trust_remote_code,
            device=self._own_device,
        )
        return vision
