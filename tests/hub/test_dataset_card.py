from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from card_reading import assert_no_empty_section, body_of, front_matter, numbers_in, numbers_of, python_blocks
from huggingface_hub import DatasetCard
from PIL import Image

from stablerep_hf.captions import CaptionSet, TermMatcher, audit_captions
from stablerep_hf.errors import InputError
from stablerep_hf.evaluation.tables import readable
from stablerep_hf.hub import dataset_facts, render_dataset_card, write_dataset_card
from stablerep_hf.hub.dataset_card import COLUMN_NOTES, size_category
from stablerep_hf.hub.rendering import duration, size
from stablerep_hf.synthesis import SynthesisPlan, image_features, synthesize


def test_front_matter_says_what_the_facts_say(dataset_facts_by_hand):
    data = front_matter(str(render_dataset_card(dataset_facts_by_hand)))
    assert data["configs"] == [
        {
            "config_name": "default",
            "description": "1276 images of plan feed",
            "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
        }
    ]
    assert data["size_categories"] == ["1K<n<10K"]
    assert data["license"] == "cc-by-4.0"
    assert data["language"] == ["en"]
    assert "language" not in front_matter(
        str(render_dataset_card(dataclasses.replace(dataset_facts_by_hand, language=())))
    )
    assert data["generator"] == {"name": "small-generator", "revision": "c0ffee"}
    assert {"synthetic", "stablerep", "caption-grouped"} <= set(data["tags"])


def test_every_number_comes_from_the_facts(dataset_facts_by_hand):
    text = body_of(str(render_dataset_card(dataset_facts_by_hand)))
    assert numbers_in(text) <= numbers_of(dataset_facts_by_hand) | {"63"}  # the width of caption_id, by its definition
    for wanted in ("1,276 images of 319 captions", "7.65 MB", "1 h 12 min", "2.375", "| 37 |", "facade", "| 29 |"):
        assert wanted in text, wanted


def test_card_is_deterministic_without_empty_sections_and_without_paths(dataset_facts_by_hand):
    card = str(render_dataset_card(dataset_facts_by_hand))
    assert card == str(render_dataset_card(dataclasses.replace(dataset_facts_by_hand)))
    assert_no_empty_section(card)
    assert "somebody" not in card
    bare = dataclasses.replace(
        dataset_facts_by_hand,
        columns={},
        grid="",
        seconds=None,
        versions={},
        licensed_parts=(),
        limits=(),
        revision="",
    )
    assert_no_empty_section(str(render_dataset_card(bare)))
    assert "![" not in str(render_dataset_card(bare))
    assert "Made with" not in str(render_dataset_card(bare))


def test_every_column_that_a_row_has_is_explained():
    assert set(COLUMN_NOTES) == set(image_features())


class Painter:
    """Paints one colour a seed, with a dot so that a frame is not blank."""

    def describe(self) -> dict[str, object]:
        return {"name": "painter", "revision": "1", "scheduler": "", "num_inference_steps": 1, "guidance_scale": 1.5}

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        images: list[Image.Image | None] = []
        for seed in seeds:
            image = Image.new("RGB", (16, 16), (seed % 200, 80, 90))
            image.paste((255, 255, 255), (4, 4, 9, 9))
            images.append(image)
        return images


def test_a_drawn_folder_gets_its_card_from_its_provenance_and_still_loads(tmp_path, monkeypatch):
    captions = CaptionSet.from_texts(f"thing number {index}" for index in range(5))
    plan = SynthesisPlan(captions, Painter().describe(), images_per_caption=3, captions_per_shard=2, base_seed=17)
    folder = tmp_path / "drawn"
    synthesize(plan, Painter(), folder, progress=False)
    facts = dataset_facts(folder, name="Painted", license="mit", grid="grid.png", location="drawn")
    assert (facts.num_captions, facts.num_images, facts.revision) == (5, 15, plan.hash)
    assert facts.num_bytes == sum(file.stat().st_size for file in (folder / "data").iterdir())
    assert facts.plan["base_seed"] == 17
    assert list(facts.columns) == list(image_features())
    assert "datasets" in facts.versions
    rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    path = write_dataset_card(folder, facts, {"thing number 0": rows[:3]["image"]})
    assert DatasetCard.load(path).data.pretty_name == "Painted"
    assert Image.open(folder / "grid.png").format == "PNG"
    assert "![One caption a row, its images side by side](grid.png)" in path.read_text()
    # now `datasets` obeys the card: it must name the files that are there, and no other
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache-with-card")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(python_blocks(path.read_text())[0], names)
    images = names["images"]
    assert isinstance(images, datasets.Dataset)
    assert images["caption_id"][:] == rows["caption_id"][:]
    assert images.features["image"] == datasets.Image()


class UnsurePainter(Painter):
    """Withholds every picture of one caption, and each seed of the others once in five."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        images = super().__call__(prompts, seeds)
        return [
            None if prompt == "unspeakable" or seed % 5 == 0 else image
            for prompt, seed, image in zip(prompts, seeds, images, strict=True)
        ]


def test_what_went_wrong_in_drawing_is_told(tmp_path):
    captions = CaptionSet.from_texts(["unspeakable", *(f"thing number {index}" for index in range(8))])
    plan = SynthesisPlan(captions, Painter().describe())
    summary = synthesize(plan, UnsurePainter(), tmp_path, progress=False, max_failed_captions=1)
    facts = dataset_facts(tmp_path, name="Painted", license="mit")
    assert (facts.num_captions, facts.num_images, facts.num_failed_captions) == (8, 32, 1)
    assert facts.num_redrawn == summary.num_redrawn > 0
    text = body_of(str(render_dataset_card(facts)))
    assert "| captions left out because they got no picture | 1 |" in text
    assert f"| frames drawn again because they carried no picture | {summary.num_redrawn} |" in text


def test_a_data_set_in_place_of_another_is_not_served_from_the_others_cache(tmp_path):
    # `datasets` keys the cache of a local folder by its name and its card, not by its files
    loaded = []
    for base_seed in (1, 2):
        folder = tmp_path / str(base_seed) / "drawn"
        plan = SynthesisPlan(CaptionSet.from_texts(["a", "b"]), Painter().describe(), base_seed=base_seed)
        synthesize(plan, Painter(), folder, progress=False)
        write_dataset_card(folder, dataset_facts(folder, name="Painted", license="mit"))
        rows = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        loaded.append(rows["seed"][:])
        assert loaded[-1] == [plan.seed(id_, index) for id_ in plan.captions.caption_ids for index in range(4)]
    assert loaded[0] != loaded[1]


def test_a_folder_without_provenance_has_no_facts(tmp_path):
    with pytest.raises(InputError, match="provenance"):
        dataset_facts(tmp_path, name="x", license="mit")


def test_the_hub_wants_a_name_for_another_licence(dataset_facts_by_hand):
    with pytest.raises(InputError, match="license=other names none"):
        render_dataset_card(dataclasses.replace(dataset_facts_by_hand, license="other"))


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (10**6, "1M<n<10M"),
        (10**9, "1B<n<10B"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories_are_the_hubs(rows, name):
    assert size_category(rows) == name


def test_values_read_as_a_person_writes_them():
    assert [duration(seconds) for seconds in (0.2, 12, 60, 100, 3600, 7384)] == [
        "0 s",
        "12 s",
        "1 min",
        "1 min 40 s",
        "1 h",
        "2 h 3 min",
    ]
    assert [size(number) for number in (999_499, 999_500, 999_999_999)] == ["999 kB", "1 MB", "1 GB"]
    assert [size(number) for number in (0, 999, 1500, 7_654_321, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "7.65 MB",
        "3 TB",
    ]
    assert [
        readable(value) for value in (True, 12345, 2.0, 3.25e-4, (0.5, 0.25), {"a": 1, "b": "c"}, "/a/b/c", "a/b")
    ] == [
        "yes",
        "12,345",
        "2",
        "0.000325",
        "0.5, 0.25",
        "a 1, b c",
        "c",
        "a/b",
    ]


def test_scores_are_summed_up(tmp_path):
    captions = CaptionSet.from_texts(f"thing number {index}" for index in range(3))
    plan = SynthesisPlan(captions, Painter().describe(), images_per_caption=2)
    synthesize(plan, Painter(), tmp_path, progress=False)
    assert dataset_facts(tmp_path, name="Painted", license="mit").scores == {}
    (path,) = (tmp_path / "data").iterdir()
    table = pq.read_table(path)
    place = table.column_names.index("alignment")
    values = pa.array([0.25, 0.5, 0.375, 0.125, None, 0.5], table.schema.field(place).type)
    scored = table.set_column(place, "alignment", values)
    pq.write_table(scored, path)
    facts = dataset_facts(tmp_path, name="Painted", license="mit")
    assert facts.scores == {"alignment": {"mean": 0.35, "lowest": 0.125, "highest": 0.5}}
    card = str(render_dataset_card(facts))
    assert "| `alignment` | 0.35 | 0.125 | 0.5 |" in card
    assert_no_empty_section(card)


class Brightness:
    """Scores by the mean pixel."""

    def __init__(self, column: str) -> None:
        self.column = column

    def describe(self) -> dict[str, object]:
        return {"model": "brightness", "revision": "1"}

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[object]) -> list[float]:
        return [sum(image.resize((1, 1)).getpixel((0, 0))) / 765 for image in images]


def test_an_audit_without_counts_has_no_picture(tmp_path):
    captions = CaptionSet.from_texts(["a ball", "a tree"])
    for evaluation_sets in ({}, {"val": captions}):
        audit = audit_captions(captions, captions, evaluation_sets=evaluation_sets).summary()
        folder = tmp_path / f"of {len(evaluation_sets)}"
        plan = SynthesisPlan(captions.with_history(read=3, empty=1, audit=audit), Painter().describe())
        synthesize(plan, Painter(), folder, progress=False)
        card = write_dataset_card(folder, dataset_facts(folder, name="Painted", license="mit")).read_text()
        assert "| empty | 1 |" in card
        assert ("| val | 2 | 0 | 2 |" in card) == bool(evaluation_sets)
        assert "audit.png" not in card
        assert not (folder / "audit.png").exists()


def test_captions_their_audit_and_the_scores_are_told_and_drawn(tmp_path):
    before = CaptionSet.from_texts(["a woman with a ball", "a ball", "a red tree", "x"])
    after = before.select([0, 1, 2])
    audit = audit_captions(
        before, after, concepts=TermMatcher(["ball", "tree"]), evaluation_sets={"their.txt": before.select([1])}
    )
    history = {"read": 5, "equal": 1, "dropped": {"too short": 17}, "allocation": "sqrt", "audit": audit.summary()}
    plan = SynthesisPlan(after.with_history(**history), Painter().describe(), images_per_caption=2)
    synthesize(plan, Painter(), tmp_path, scorers=[Brightness("alignment"), Brightness("diversity")], progress=False)
    facts = dataset_facts(tmp_path, name="Painted", license="mit")
    card = write_dataset_card(tmp_path, facts).read_text()
    text = body_of(card)
    for wanted in ("too short 17", "| images a caption | sqrt |", "| ball | 2 | 2 |", "| gender: women | 1 | 1 |"):
        assert wanted in text, wanted
    assert "| their.txt | 1 | 0 | 1 |" in text
    assert "brightness" in text
    assert sum(facts.score_histograms["alignment"]["counts"]) == 6
    assert sum(facts.score_histograms["diversity"]["counts"]) == 3  # once a caption
    for name in ("audit.png", "scores.png"):
        assert f"]({name})" in text
        assert Image.open(tmp_path / name).format == "PNG"
    assert_no_empty_section(card)
