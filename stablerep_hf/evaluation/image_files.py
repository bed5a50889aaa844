"""The builder of `datasets` for folders of image files, with the suffixes that can be read on this machine."""

from __future__ import annotations

from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder

from .folders import image_suffixes


class ImageFiles(ImageFolder):  # type: ignore[misc]
    """`ImageFolder`, which knows neither AVIF nor HEIC, with those that Pillow reads here."""

    EXTENSIONS = sorted(image_suffixes())
