"""Rebuild the embedded pictogram data set from the npm packages that carry the drawings.

Seven artist sets draw the same concepts: many captions, several images each, by different hands. The script fetches
the pinned packages with npm (into a cache folder, once), renders every drawing with resvg, crops it to its ink, and
writes parquet with `datasets` Image features, a captions table and a data card. Same inputs give the same bytes.

    python scripts/build_pictograms.py [--packages DIR] [--output stablerep_hf/assets]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import re
import subprocess
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import resvg_py
from pictogram_card import write_card
from PIL import Image

from stablerep_hf.captions import caption_id

IMAGE_SIZE = 64  # pixels, square
MARGIN = 2  # white pixels around the ink
RENDER_SIZE = 256  # pixels rendered before cropping, so that the crop to ink still has detail
HELD_OUT_SHARE = 0.2  # of the concepts of each emoji group
HELD_OUT_ARTIST = "twemoji"
LEVELS = 64  # values a colour channel takes, evenly from 0 to 255: gradients then take a quarter fewer bytes
NEAR_DUPLICATE = 0.02  # mean absolute difference at 24 x 24 pixels, values in [0, 1]
EMOJIBASE = "emojibase-data@17.0.0"
SKIPPED_GROUPS = ("component", "flags")  # skin tones and hair; flags are words, not drawings
# Kept in the training split on purpose, so that a first look at the generator shows common things.
SHOWCASE = frozenset(
    [
        *("grinning face", "dog face", "cat face", "fish", "sun", "tree", "evergreen tree", "cactus", "sunflower"),
        *("mushroom", "red apple", "pizza", "house", "rocket", "automobile", "snowman", "balloon", "soccer ball"),
        *("guitar", "red heart"),
    ]
)


@dataclasses.dataclass(frozen=True)
class ArtistSet:
    """One icon package: who drew it, under which licence, and what the hand is called."""

    package: str
    version: str
    style: str
    artist: str
    license: str
    attribution: str

    @property
    def pinned(self) -> str:
        """`package@version`, as npm writes it."""
        return f"{self.package}@{self.version}"


# `artist` is one name for both Fluent sets: they share outlines, so one must not count as another hand than the other.
ARTIST_SETS = (
    ArtistSet("@iconify-json/noto", "1.2.9", "noto", "noto", "Apache-2.0", "Noto Emoji, Google"),
    ArtistSet("@iconify-json/noto-v1", "1.2.5", "noto-v1", "noto-v1", "Apache-2.0", "Noto Emoji 1 (blobs), Google"),
    ArtistSet("@iconify-json/fluent-emoji", "1.2.7", "fluent", "fluent", "MIT", "Fluent Emoji, Microsoft"),
    ArtistSet("@iconify-json/fluent-emoji-flat", "1.2.6", "fluent-flat", "fluent", "MIT", "Fluent Emoji, Microsoft"),
    ArtistSet("@iconify-json/fxemoji", "1.2.2", "fxemoji", "fxemoji", "CC-BY-4.0", "FxEmojis, Mozilla"),
    ArtistSet("@iconify-json/emojione", "1.2.3", "emojione", "emojione", "CC-BY-4.0", "EmojiTwo, its contributors"),
    ArtistSet(
        "@iconify-json/twemoji", "1.2.5", "twemoji", "twemoji", "CC-BY-4.0", "Twemoji, Twitter and contributors"
    ),
)


@dataclasses.dataclass(frozen=True)
class Concept:
    """One emoji: its code points, the caption made from its name, and where Unicode files it."""

    hexcode: str
    label: str
    caption: str
    tags: tuple[str, ...]
    group: str
    subgroup: str


def caption_from_label(label: str) -> str:
    """A phrase a person would type: `woman: blond hair` becomes `woman with blond hair`."""
    text = label.replace("“", "").replace("”", "").replace("’", "'")
    text = re.sub(r"^(person|man|woman): ", r"\1 with ", text)
    text = re.sub(r"^(kiss|family): ", r"\1 of ", text).replace("with bald", "with bald head")
    text = re.sub(r"^keycap: ", "keycap ", text).replace(": ", " ")
    return " ".join(unicodedata.normalize("NFC", re.sub(r"[(),]", "", text)).split())


def slug(label: str) -> str:
    """The icon name iconify derives from an emoji's name."""
    text = "".join(c for c in unicodedata.normalize("NFKD", label.lower()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", re.sub("[’'“”]", "", text.replace("&", "and"))).strip("-")


def gender_key(label: str) -> str:
    """The name without words of gender, age or direction: variants of one drawing share it."""
    words = re.sub(r"\bmer(man|maid|person)\b", "merfolk", label.lower())
    words = re.sub(r"\b(prince|princess)\b", "royal", re.sub(r"\b(mrs\.?|mx|santa) claus\b", "claus", words))
    drop = r"\b(wo)?m[ae]n('s)?\b|\bpersons?\b|\bpeople\b|\bboy\b|\bgirl\b|\bchild(ren)?\b|\badult\b|\bwith\b|\band\b"
    words = re.sub(drop, " ", words.replace("facing right", " "))
    return " ".join(re.findall(r"[a-z0-9]+", words)) or "person"


def load_concepts(packages: Path) -> list[Concept]:
    """Concepts in emojibase's order, without flags and skin tones."""
    folder = packages / "node_modules" / "emojibase-data"
    names = json.loads((folder / "meta" / "groups.json").read_text())
    concepts = []
    rows = [row for row in json.loads((folder / "en" / "data.json").read_text()) if "group" in row]
    for row in sorted(rows, key=lambda row: row["order"]):
        group, subgroup = names["groups"][str(row["group"])], names["subgroups"][str(row["subgroup"])]
        if group in SKIPPED_GROUPS:
            continue
        label = row["label"]
        concepts.append(
            Concept(row["hexcode"], label, caption_from_label(label), tuple(row.get("tags", ())), group, subgroup)
        )
    return concepts


def icon_name(concept: Concept, style: str, icons: dict[str, Any], codes: dict[str, str]) -> str | None:
    """Which icon of a set draws the concept, or None.

    Sets name icons after today's emoji names, list code points (Fluent), or use older Unicode names (FxEmojis).
    """
    code = concept.hexcode.lower()
    candidates = [codes.get(code), codes.get(code.replace("-fe0f", ""))]
    name = slug(concept.label)
    if name.startswith("keycap"):  # `*` and `#` vanish from slugs: both would be called `keycap`
        name = {"*": "keycap-asterisk", "#": "keycap-hash"}.get(concept.label[-1], name)
    candidates.append(name)
    if style == "fxemoji":
        points = [chr(int(part, 16)) for part in code.split("-") if part != "fe0f"]
        candidates.append(name.replace("-", ""))
        if len(points) == 1:
            candidates.append(re.sub("[^a-z0-9]", "", unicodedata.name(points[0], "").lower()))
    return next((c for c in candidates if c and c in icons), None)


def render(svg: str, mirror: bool = False) -> np.ndarray:
    """SVG text to a uint8 array (64, 64, 3): ink centred on white, its longer side filling all but the margin."""
    png = resvg_py.svg_to_bytes(svg_string=svg, width=RENDER_SIZE, skip_system_fonts=True)
    image = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = image.getchannel("A").point(lambda a: 255 if a > 8 else 0).getbbox()
    if box is None:
        raise ValueError("the drawing is empty")
    ink = image.crop(box)
    if mirror:
        ink = ink.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = (IMAGE_SIZE - 2 * MARGIN) / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    white = Image.new("RGBA", ink.size, "white")
    white.alpha_composite(ink)
    canvas = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    small = white.convert("RGB").resize(size, Image.Resampling.HAMMING)
    canvas.paste(small, ((IMAGE_SIZE - size[0]) // 2, (IMAGE_SIZE - size[1]) // 2))
    return np.asarray(canvas)


def encode(pixels: np.ndarray) -> bytes:
    """Lossless WebP of the rounded colours: about half of PNG here, and `datasets` decodes both."""
    rounded = np.round(np.round(pixels / 255 * (LEVELS - 1)) * 255 / (LEVELS - 1)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rounded).save(buffer, "WEBP", lossless=True, quality=100, method=6)
    return buffer.getvalue()


def render_set(task: tuple[ArtistSet, Path, list[Concept]]) -> list[dict[str, Any]]:
    """All rows of one artist set, in the order of the concepts."""
    artist_set, packages, concepts = task
    folder = packages / "node_modules" / artist_set.package
    data = json.loads((folder / "icons.json").read_text())
    codes = json.loads((folder / "chars.json").read_text())
    if artist_set.style == "fluent":  # ships no code points; the flat set, same names, does
        codes = json.loads((folder.parent / "fluent-emoji-flat" / "chars.json").read_text())
    icons = data["icons"] | data.get("aliases", {})
    rows = []
    for concept in concepts:
        name = icon_name(concept, artist_set.style, icons, codes)
        if name is None:
            continue
        icon = icons[name]
        body = data["icons"][icon["parent"]] if "parent" in icon else icon
        box = [
            body.get(key, data.get(key, default))
            for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
        ]
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{" ".join(str(v) for v in box)}">{body["body"]}</svg>'
        )
        pixels = render(svg, mirror=bool(icon.get("hFlip")))
        rows.append(
            {
                "pixels": pixels,
                "image": {"bytes": encode(pixels), "path": None},
                "caption": concept.caption,
                "caption_id": caption_id(concept.caption),
                "artist": artist_set.artist,
                "style": artist_set.style,
                "concept": concept.hexcode,
                "group": concept.group,
                "subgroup": concept.subgroup,
                "license": artist_set.license,
                "source": f"{artist_set.pinned}:{name}",
            }
        )
    return rows


def thumbnails(rows: list[dict[str, Any]]) -> np.ndarray:
    """(N, 24 * 24 * 3) float32 in [0, 1], for the near-duplicate check."""
    small = [Image.fromarray(r["pixels"]).resize((24, 24), Image.Resampling.BOX) for r in rows]
    return np.stack([np.asarray(image, dtype=np.float32).reshape(-1) / 255 for image in small])


def near_duplicates(left: np.ndarray, right: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) whose mean absolute difference is below the threshold."""
    import torch  # only here: the exact L1 distances of all pairs are minutes in numpy

    a, b = torch.from_numpy(left), torch.from_numpy(right)
    # Means of 4 x 4 blocks bound the distance from below (triangle inequality), so few pairs need the exact one.
    blocks = [x.reshape(-1, 6, 4, 6, 4, 3).mean((2, 4)).reshape(len(x), -1) for x in (a, b)]
    pairs = []
    for start in range(0, len(a), 512):
        rough = torch.cdist(blocks[0][start : start + 512], blocks[1], p=1) / blocks[0].shape[1]
        for i, j in (rough < NEAR_DUPLICATE).nonzero().tolist():
            if float((a[start + i] - b[j]).abs().mean()) < NEAR_DUPLICATE:
                pairs.append((start + i, j))
    return pairs


def held_out_concepts(concepts: list[Concept], linked: list[tuple[str, str]]) -> set[str]:
    """Hexcodes of the held-out concepts: about a fifth of each emoji group, variants and near duplicates together."""
    parent = {c.hexcode: c.hexcode for c in concepts}

    def root(code: str) -> str:
        while parent[code] != code:
            code = parent[code]
        return code

    first: dict[str, str] = {}
    for concept in concepts:
        parent[root(concept.hexcode)] = root(first.setdefault(gender_key(concept.label), concept.hexcode))
    for one, other in linked:
        parent[root(one)] = root(other)
    families: dict[str, list[Concept]] = {}
    for concept in concepts:
        families.setdefault(root(concept.hexcode), []).append(concept)
    held: set[str] = set()
    for group in dict.fromkeys(c.group for c in concepts):
        quota = HELD_OUT_SHARE * sum(c.group == group for c in concepts)
        mine = [f for f in families.values() if f[0].group == group]
        mine.sort(key=lambda f: hashlib.blake2b(min(c.hexcode for c in f).encode()).digest())
        taken = 0
        for family in mine:
            if taken + len(family) <= quota + 0.5 and not any(c.label in SHOWCASE for c in family):
                held.update(c.hexcode for c in family)
                taken += len(family)
    return held


def build(artist_sets: tuple[ArtistSet, ...], packages: Path, concepts: list[Concept], output: Path) -> dict[str, Any]:
    """Render, split and write; returns the facts the card states."""
    from datasets import Dataset, Features, Image as ImageFeature, Value

    with ProcessPoolExecutor(max_workers=2) as pool:
        rows = [row for part in pool.map(render_set, [(s, packages, concepts) for s in artist_sets]) for row in part]
    order = {concept.hexcode: i for i, concept in enumerate(concepts)}
    rows.sort(key=lambda row: order[row["concept"]])  # stable: artists stay in the order of the sets, twemoji last
    counts: dict[str, int] = {}
    for row in rows:
        row["image_index"] = counts[row["concept"]] = counts.get(row["concept"], -1) + 1
    small = thumbnails(rows)
    pairs = [(i, j) for i, j in near_duplicates(small, small) if i < j]
    linked = [(rows[i]["concept"], rows[j]["concept"]) for i, j in pairs if rows[i]["concept"] != rows[j]["concept"]]
    held = held_out_concepts(concepts, linked)

    def split_of(row: dict[str, Any]) -> str:
        if row["concept"] in held:
            return "held_out_concepts"
        return "held_out_artist" if row["artist"] == HELD_OUT_ARTIST else "train"

    features = Features({
        "image": ImageFeature(), "caption": Value("string"), "caption_id": Value("int64"),
        "image_index": Value("int32"), "artist": Value("string"), "style": Value("string"),
        "concept": Value("string"), "group": Value("string"), "subgroup": Value("string"),
        "license": Value("string"), "source": Value("string"),
    })  # fmt: skip
    # A held-out artist's drawing that all but equals a training drawing would not be held out: drop it.
    leaks = {j for i, j in pairs if split_of(rows[i]) == "train" and split_of(rows[j]) == "held_out_artist"}
    leaks |= {i for i, j in pairs if split_of(rows[j]) == "train" and split_of(rows[i]) == "held_out_artist"}
    rows_kept = [row for i, row in enumerate(rows) if i not in leaks]
    facts: dict[str, Any] = {"splits": {}, "near_duplicates_dropped": len(leaks), "concepts": len(concepts)}
    crossing = [p for p in pairs if split_of(rows[p[0]]) != split_of(rows[p[1]]) and not set(p) & leaks]
    facts["near_duplicates_across_splits"] = len(crossing)
    facts["near_duplicates_total"] = len({i for pair in pairs for i in pair})
    data = output / "pictograms" / "data"
    data.mkdir(parents=True, exist_ok=True)
    for split in ("train", "held_out_concepts", "held_out_artist"):
        part = [row for row in rows_kept if split_of(row) == split]
        table = Dataset.from_dict({name: [row[name] for row in part] for name in features}, features=features)
        path = data / f"{split}-00000-of-00001.parquet"
        table.to_parquet(path)
        facts["splits"][split] = {
            "images": len(part),
            "concepts": len({row["concept"] for row in part}),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "styles": {s.style: sum(row["style"] == s.style for row in part) for s in artist_sets},
        }
    if len({caption_id(c.caption) for c in concepts}) != len(concepts):
        raise ValueError("two concepts share a caption")
    write_captions(concepts, held, output / "captions")
    facts["held_out_concepts"] = len(held)
    facts["groups"] = len({c.group for c in concepts})
    facts["subgroups"] = len({c.subgroup for c in concepts})
    return facts


def write_captions(concepts: list[Concept], held: set[str], folder: Path) -> None:
    """The captions with their tags, those of held-out concepts in a file of their own."""
    from datasets import Dataset, Features, List, Value

    folder.mkdir(parents=True, exist_ok=True)
    names = ("caption", "caption_id", "concept", "group", "subgroup", "tags")
    kinds = Features({name: Value("int64" if name == "caption_id" else "string") for name in names})
    kinds["tags"] = List(Value("string"))
    for split in ("train", "held_out"):
        part = [c for c in concepts if (c.hexcode in held) == (split == "held_out")]
        columns = (
            [c.caption for c in part],
            [caption_id(c.caption) for c in part],
            [c.hexcode for c in part],
            [c.group for c in part],
            [c.subgroup for c in part],
            [list(c.tags) for c in part],
        )
        table = Dataset.from_dict(dict(zip(names, columns, strict=True)), features=kinds)
        table.to_parquet(folder / f"{split}.parquet")


def fetch(packages: Path) -> None:
    """`npm install` of the pinned packages into the folder, unless they are there already."""
    wanted = [s.pinned for s in ARTIST_SETS] + [EMOJIBASE]
    missing = []
    for pinned in wanted:
        name, version = pinned.rsplit("@", 1)
        manifest = packages / "node_modules" / name / "package.json"
        if not manifest.exists() or json.loads(manifest.read_text())["version"] != version:
            missing.append(pinned)
    if missing:
        packages.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(packages), "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*command, *wanted], check=True)


def main() -> None:
    """Fetch what is missing, build, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path(".cache/pictograms"), help="npm packages are kept here")
    parser.add_argument("--output", type=Path, default=Path("stablerep_hf/assets"))
    options = parser.parse_args()
    fetch(options.packages)
    facts = build(ARTIST_SETS, options.packages, load_concepts(options.packages), options.output)
    write_card(options.output / "pictograms" / "README.md", facts, ARTIST_SETS, EMOJIBASE)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
