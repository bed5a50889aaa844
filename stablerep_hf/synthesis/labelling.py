"""What an image file says about itself: that it is synthetic, and what drew it.

An XMP packet with `Iptc4xmpExt:DigitalSourceType` (IPTC Photo Metadata Standard 2021.1), which search engines and
editors read, and the settings needed to draw the image again.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from PIL import Image, UnidentifiedImageError

from ..errors import InputError
from .frames import PNG_XMP

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "stablerep": "https://arxiv.org/abs/2306.00984#",
}
_FIELDS = ("generator", "generator_revision", "prompt", "caption_id", "image_index", "seed")
# Characters of a value. JPEG takes 65,504 bytes of XMP, and a character takes up to 6 when it is escaped.
_LONGEST = 10_000
# What XML 1.0 cannot hold, whatever a caption holds.
_FORBIDDEN = {code: None for code in (*range(32), 0xFFFE, 0xFFFF) if chr(code) not in "\t\n\r"}


def xmp_packet(row: dict[str, Any]) -> bytes:
    """The XMP packet of one image, of these columns of its row: `generator`, `prompt` and the others of `_FIELDS`.

    Of a prompt of more than 10,000 characters it holds the beginning, and "..." at its end.
    """
    attributes = {
        "Iptc4xmpExt:DigitalSourceType": SOURCE_TYPE,
        "xmp:CreatorTool": f"stablerep_hf, {row['generator']}",
        **{f"stablerep:{name}": row[name] for name in _FIELDS if row[name] is not None},
    }
    spaces = " ".join(f"xmlns:{name}={quoteattr(space)}" for name, space in _NAMESPACES.items() if name != "rdf")
    values = " ".join(f"{name}={quoteattr(_shown(str(value)))}" for name, value in attributes.items())
    packet = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_NAMESPACES["rdf"]}">'
        f'<rdf:Description rdf:about="" {spaces} {values}/></rdf:RDF></x:xmpmeta>'
    )
    return packet.encode()


def _shown(value: str) -> str:
    if len(value) > _LONGEST:
        value = value[:_LONGEST] + "..."
    return value.translate(_FORBIDDEN)


def read_label(image: Image.Image | bytes | str | Path) -> dict[str, str]:
    """What an image file (opened, its bytes, or its path) says about itself.

    Returns:
        `DigitalSourceType`, `CreatorTool` and the fields of the row that it was, as far as the file has them.

    Raises:
        InputError: It is no image, or says nothing in XMP.
    """
    name = str(image) if isinstance(image, (str, Path)) else "the image"
    try:
        if not isinstance(image, Image.Image):
            image = Image.open(BytesIO(image) if isinstance(image, bytes) else image)
        packet = image.info.get("xmp") or image.info.get(PNG_XMP) or b""
        root = ElementTree.fromstring(packet.strip(b"\x00 ") if isinstance(packet, bytes) else packet)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{name} is not an image that can be read ({error}); give an image file.") from error
    except ElementTree.ParseError as error:
        raise InputError(
            f"{name} holds no XMP metadata, so it says nothing about its origin; give a file that this package wrote."
        ) from error
    found: dict[str, str] = {}
    for description in root.iter(f"{{{_NAMESPACES['rdf']}}}Description"):
        for key, value in description.attrib.items():
            space, _, name = key.rpartition("}")
            if space[1:] in _NAMESPACES.values() and name != "about":
                found[name] = value
    return found
