from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
from painters import Painter

from stablerep_hf.captions import CaptionSet, caption_id
from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import SynthesisPlan, image_seed
from stablerep_hf.synthesis.plan import describe_difference

MakePlan = Callable[..., SynthesisPlan]


def test_a_seed_is_the_documented_hash_and_each_number_counts() -> None:
    digest = blake2b(b"7/123/4", digest_size=8).digest()
    assert image_seed(7, 123, 4) == int.from_bytes(digest, "big") >> 1
    seeds = {image_seed(base, caption, index) for base in range(5) for caption in range(50) for index in range(20)}
    assert len(seeds) == 5 * 50 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert image_seed(1, 11, 1) != image_seed(11, 1, 1) != image_seed(1, 1, 11)


def test_shards_cover_the_captions_once_and_in_order(make_plan: MakePlan) -> None:
    plan = make_plan(10, captions_per_shard=4)
    parts = [plan.shard_captions(shard).captions for shard in range(plan.num_shards)]
    assert [len(part) for part in parts] == [4, 4, 2]
    assert [text for part in parts for text in part] == plan.captions.captions
    assert (plan.num_shards, plan.num_images) == (3, 20)


def test_siblings_walk_the_templates_from_a_place_the_caption_gives(make_plan: MakePlan) -> None:
    templates = ("a {caption}", "{caption}, {x} style", "{caption} and {caption}")
    plan = make_plan(60, prompt_templates=templates)
    for text, number in zip(plan.captions, plan.captions.caption_ids.tolist(), strict=True):
        prompts = [plan.prompt(text, number, index) for index in range(6)]
        assert prompts[:3] == prompts[3:]
        assert set(prompts) == {f"a {text}", f"{text}, {{x}} style", f"{text} and {text}"}
    firsts = [plan.prompt("", number, 0) for number in plan.captions.caption_ids.tolist()]
    assert all(10 <= firsts.count(first) <= 30 for first in set(firsts))  # one image a caption still uses all three
    assert len(set(firsts)) == 3


def test_text_that_looks_like_a_placeholder_is_left_alone(make_plan: MakePlan) -> None:
    assert make_plan(1, prompt_templates=("a {caption}",)).prompt("{0} {caption} %s", 5, 0) == "a {0} {caption} %s"


@pytest.mark.parametrize(
    "change",
    [
        {"captions": CaptionSet.from_texts(["thing 1", "thing 0", *(f"thing {i}" for i in range(2, 10))])},
        {"number": 9},
        {"generator": {**Painter().describe(), "guidance_scale": 2.5}},
        {"generator": {**Painter().describe(), "revision": "r2"}},
        {"images_per_caption": 3},
        {"prompt_templates": ("a {caption}",)},
        {"prompt_templates": ("{caption}", "{caption}!")},
        {"base_seed": 1},
        {"image_format": "png"},
        {"captions_per_shard": 5},
        {"stored_size": 4},
        {"captions": CaptionSet.from_texts(f"thing {i}" for i in range(10)).with_num_images([2] * 9 + [3])},
    ],
)
def test_everything_that_changes_a_row_changes_the_hash(make_plan: MakePlan, change: dict[str, Any]) -> None:
    plan, same, other = make_plan(), make_plan(), make_plan(**change)
    assert plan.hash == same.hash != other.hash
    assert describe_difference(plan.settings, same.settings) == ""
    assert describe_difference(plan.settings, other.settings) != ""


def test_the_hash_never_changes_by_itself() -> None:
    plan = SynthesisPlan(
        CaptionSet.from_texts(["a cat"]), {"name": "x", "guidance_scale": 2.0}, captions_per_shard=256
    )
    # It stands in published folders: a new value here strands them, so it goes with a new PLAN_VERSION.
    assert plan.hash == "4040d7804a62300db23734a8187e7ef7"


def test_json_round_trip(make_plan: MakePlan) -> None:
    plan = make_plan(prompt_templates=("ein {caption} in Öl",), base_seed=3, image_format="webp")
    copy = SynthesisPlan.from_json(plan.to_json(), plan.captions)
    assert (copy.hash, copy.settings, copy.prompt_templates) == (plan.hash, plan.settings, plan.prompt_templates)
    with pytest.raises(InputError, match=r"captions are 10 of digest .* there and 9 of digest"):
        SynthesisPlan.from_json(plan.to_json(), plan.captions.head(9))


def test_a_damaged_or_foreign_plan_is_refused(make_plan: MakePlan) -> None:
    plan = make_plan()
    edited = plan.to_json().replace('"base_seed": 0', '"base_seed": 1')
    for text in (edited, "", "[]", '{"hash": 3}', plan.to_json()[:-40]):
        with pytest.raises(InputError, match="does not match its own hash"):
            SynthesisPlan.from_json(text, plan.captions)
    settings = {**plan.settings, "plan_version": 99}
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    text = json.dumps({"hash": blake2b(canonical.encode(), digest_size=16).hexdigest(), **settings})
    with pytest.raises(InputError, match="version 99"):
        SynthesisPlan.from_json(text, plan.captions)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images_per_caption": 0}, "images_per_caption=0 draws nothing"),
        ({"captions_per_shard": 0}, "captions_per_shard=0 draws nothing"),
        ({"stored_size": 0}, "stored_size=0 leaves no pixel"),
        ({"captions": CaptionSet.from_texts([])}, "0 captions"),
        ({"prompt_templates": ()}, "no prompt template"),
        ({"prompt_templates": ("a photo",)}, "'a photo' has no {caption}"),
        ({"image_format": "gif"}, "'gif' is not supported: use one of jpeg, png, webp"),
    ],
)
def test_impossible_plans_get_one_sentence(make_plan: MakePlan, settings: dict[str, Any], said: str) -> None:
    captions = settings.pop("captions", CaptionSet.from_texts(["a"]))
    with pytest.raises(InputError, match=said):
        SynthesisPlan(captions, {}, **settings)


def test_too_many_files_are_refused(monkeypatch: pytest.MonkeyPatch, make_plan: MakePlan) -> None:
    monkeypatch.setattr("stablerep_hf.synthesis.plan.MOST_SHARDS", 2)
    with pytest.raises(InputError, match="make 3 files, more than 2: raise `captions_per_shard`"):
        make_plan(10)


def test_the_plan_costs_no_more_than_its_ids() -> None:
    captions = CaptionSet.from_texts(f"thing {i}" for i in range(50_000))
    plan = SynthesisPlan(captions, {}, captions_per_shard=1)
    assert len(plan.to_json()) < 1000
    last = plan.shard_captions(49_999)
    assert last.captions == ["thing 49999"]
    assert last.caption_ids.tolist() == [caption_id("thing 49999")]
    address = captions.table.column("caption").chunk(0).buffers()[2].address
    assert plan.shard_captions(3).table.column("caption").chunk(0).buffers()[2].address == address  # a view
