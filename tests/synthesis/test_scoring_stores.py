from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from painters import Painter
from PIL import Image

from stablerep_hf.errors import InputError
from stablerep_hf.synthesis import (
    AlignmentScorer,
    DiversityScorer,
    SynthesisPlan,
    UnsafeScorer,
    read_provenance,
    score_histograms,
    score_store,
    synthesize,
    verify_store,
)
from stablerep_hf.synthesis.comparison import compare_folders, comparison_table, plot_comparison
from stablerep_hf.synthesis.store import ShardStore

MakePlan = Callable[..., SynthesisPlan]


class Brightness:
    """Scores by the mean pixel; `calls` counts shards."""

    def __init__(self, column: str = "alignment", factor: float = 1.0, die_at: int = -1) -> None:
        self.column, self.factor, self.die_at, self.calls = column, factor, die_at, 0

    def describe(self) -> dict[str, object]:
        return {"factor": self.factor}

    def __call__(self, images: Sequence[Image.Image], rows: Sequence[Any]) -> list[float]:
        if self.calls == self.die_at:
            raise KeyboardInterrupt
        self.calls += 1
        assert all(rows[place]["caption_id"] for place in range(len(images)))
        return [self.factor * float(np.asarray(image).mean()) / 255 for image in images]


@pytest.fixture
def folder(make_plan: MakePlan, tmp_path: Path) -> Path:
    synthesize(make_plan(10, image_format="png"), Painter(), tmp_path / "store", progress=False)
    return tmp_path / "store"


def load(folder: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(folder.parent / f"cache{np.random.rand()}"))


def test_scores_are_written_into_the_rows_and_nothing_else_changes(folder: Path, make_plan: MakePlan) -> None:
    before = load(folder).cast_column("image", datasets.Image(decode=False)).to_list()
    scorer = Brightness()
    summary = score_store(folder, [scorer], progress=False)
    assert (summary.num_images, summary.num_kept, scorer.calls) == (20, 0, 3)
    after = load(folder).cast_column("image", datasets.Image(decode=False)).to_list()
    for old, new in zip(before, after, strict=True):
        mean = np.asarray(Image.open(BytesIO(new["image"]["bytes"]))).mean() / 255
        assert new["alignment"] == pytest.approx(mean, abs=1e-6)
        assert {**new, "alignment": None} == old
    assert summary.means["alignment"] == pytest.approx(np.mean([row["alignment"] for row in after]), abs=1e-6)
    assert verify_store(folder, progress=False).problems == ()
    painter = Painter()
    assert synthesize(make_plan(10, image_format="png"), painter, folder, progress=False).num_drawn == 0


def test_only_what_is_missing_is_measured(folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        score_store(folder, [Brightness(die_at=2)], progress=False)
    part = score_store(folder, [Brightness("nsfw", 0.1)], progress=False, rank=1, world_size=2)
    assert not part.is_complete and part.means == {}
    scorer, other = Brightness(), Brightness("nsfw", 0.5)
    summary = score_store(folder, [scorer, other], progress=False)
    assert summary.is_complete and (scorer.calls, other.calls, summary.num_images) == (1, 3, 20)
    changed = Brightness(factor=2.0)
    assert score_store(folder, [changed, other], progress=False).num_images == 20
    assert (changed.calls, other.calls) == (3, 3)
    assert score_store(folder, [changed], progress=False).num_kept == 20
    assert read_provenance(folder).shards[0]["scores"] == {"alignment": {"factor": 2.0}, "nsfw": {"factor": 0.5}}


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_kill_between_any_two_files_leaves_the_shard_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """A shard is rewritten by three renames: the record that announces it, the shard, the record."""
    real, renames = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames > place:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        score_store(folder, [Brightness()], progress=False)
    monkeypatch.setattr(Path, "replace", real)
    assert verify_store(folder, progress=False).is_sound
    scorer = Brightness()
    score_store(folder, [scorer], progress=False)
    assert scorer.calls == (3 if place < 2 else 2)
    assert not [value for value in load(folder)["alignment"] if value is None]


def test_a_worker_that_ends_does_not_take_the_shard_that_another_scores(
    folder: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every record stands while a finished folder is scored, so whoever ends then tidies up."""
    real, ended = ShardStore._write_record, 0

    def write_record(self: ShardStore, shard: int, record: Any) -> None:
        nonlocal ended
        if "coming" in record and ended < 2:
            ended += 1
            synthesize(make_plan(10, image_format="png"), Painter(), folder, progress=False)
        real(self, shard, record)

    monkeypatch.setattr(ShardStore, "_write_record", write_record)
    summary = score_store(folder, [Brightness()], progress=False)
    assert ended == 2
    assert verify_store(folder, progress=False).problems == ()
    assert summary.means["alignment"] == pytest.approx(np.mean(load(folder)["alignment"][:]), abs=1e-6)


def test_scores_of_drawing_are_the_scores_of_later_and_no_part_of_the_plan(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    """Drawn with them, drawn without and scored later, begun without and finished with them: one and the same."""
    plan = make_plan(10, image_format="png")
    settings: dict[str, Any] = {"progress": False, "batch_size": 4}
    first = synthesize(
        plan, Painter(), tmp_path / "drawn", scorers=[Brightness(), Brightness("nsfw", 0.5)], **settings
    )
    assert (first.num_drawn, first.num_scored) == (20, 0)
    synthesize(plan, Painter(), tmp_path / "later", **settings)
    score_store(tmp_path / "later", [Brightness(), Brightness("nsfw", 0.5)], progress=False)
    synthesize(plan, Painter(), tmp_path / "mixed", rank=1, world_size=2, **settings)
    painter, scorer, other = Painter(), Brightness(), Brightness("nsfw", 0.5)
    summary = synthesize(plan, painter, tmp_path / "mixed", scorers=[scorer, other], **settings)
    assert (summary.num_drawn, summary.num_scored, scorer.calls) == (12, 8, 3)
    files = {name: sorted((tmp_path / name / "data").iterdir()) for name in ("drawn", "later", "mixed")}
    expected = [path.read_bytes() for path in files["drawn"]]
    assert all([path.read_bytes() for path in paths] == expected for paths in files.values())
    assert all(value is not None for value in load(tmp_path / "drawn")["alignment"])
    records = [read_provenance(tmp_path / name).shards for name in files]
    assert all([record["scores"] for record in shards] == [records[0][0]["scores"]] * 3 for shards in records)
    again = Brightness()
    assert synthesize(plan, Painter(), tmp_path / "drawn", scorers=[again], progress=False).num_scored == 0
    assert again.calls == 0
    assert synthesize(plan, Painter(), tmp_path / "drawn", progress=False).num_drawn == 0  # and without: they stay
    assert read_provenance(tmp_path / "drawn").shards[0]["scores"]["alignment"] == {"factor": 1.0}


def test_without_a_scorer_no_image_is_decoded_again(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stablerep_hf.synthesis.scoring._open", None)
    assert synthesize(make_plan(4), Painter(), tmp_path, progress=False).num_drawn == 8


def test_a_kill_while_scores_are_drawn_loses_no_more_than_a_shard(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(10, image_format="png")
    with pytest.raises(KeyboardInterrupt):
        synthesize(plan, Painter(), tmp_path, scorers=[Brightness(die_at=1)], progress=False)
    assert verify_store(tmp_path, progress=False).counts == {"missing shard": 2}
    scorer = Brightness()
    assert synthesize(plan, Painter(), tmp_path, scorers=[scorer], progress=False).num_shards_drawn == 2
    assert scorer.calls == 2
    assert not [value for value in load(tmp_path)["alignment"] if value is None]


def test_folders_and_scorers_that_cannot_serve(folder: Path) -> None:
    class Broken(Brightness):
        def __call__(self, images, rows):  # type: ignore[no-untyped-def]
            return [float("nan")] * len(images)

    with pytest.raises(InputError, match="not finite"):
        score_store(folder, [Broken()], progress=False)
    next((folder / "data").iterdir()).unlink()
    with pytest.raises(InputError, match=r"1 of 3 shards of .* are missing or damaged"):
        score_store(folder, [Brightness()], progress=False)
    with pytest.raises(InputError, match=r"no readable provenance/plan.json"):
        score_store(folder / "data", [Brightness()], progress=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of random weights with tokenizer and image processor."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**tower, "vocab_size": len(words), "max_position_embeddings": 32,
                         "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1},
            vision_config={**tower, "image_size": 16, "patch_size": 8},
            projection_dim=8,
        )
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    model.save_pretrained(folder)
    CLIPTokenizer(
        vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=32
    ).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_alignment_is_the_cosine_of_image_and_prompt(folder: Path, clip: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    scorer = AlignmentScorer(str(clip), device="cpu")
    score_store(folder, [scorer], progress=False)
    rows = load(folder)
    model, tokenizer = AutoModel.from_pretrained(clip), AutoTokenizer.from_pretrained(clip)
    processor = AutoImageProcessor.from_pretrained(clip)
    with torch.inference_mode():
        for row in rows.select([0, 7, 19]):
            outputs = model(
                **tokenizer([row["prompt"]], return_tensors="pt"),
                **processor(images=[row["image"]], return_tensors="pt"),
            )
            cosine = (outputs.image_embeds * outputs.text_embeds).sum().item()
            assert row["alignment"] == pytest.approx(cosine, abs=1e-4)
    recorded = json.loads((folder / "provenance/shard-00000.json").read_text())["scores"]["alignment"]
    assert recorded["model"] == "tiny-clip"
    assert str(clip.parent) not in json.dumps(recorded)


def test_a_long_prompt_is_cut_where_the_model_ends_whatever_the_tokenizer_says(clip: Path, tmp_path: Path) -> None:
    shutil.copytree(clip, tmp_path / "boundless")
    path = tmp_path / "boundless/tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["model_max_length"]
    path.write_text(json.dumps(settings))
    image, long = Image.new("RGB", (16, 16), "red"), "a red ball " * 50
    both = [
        AlignmentScorer(str(folder), device="cpu")([image], [{"prompt": long}])
        for folder in (clip, tmp_path / "boundless")
    ]
    assert both[0] == pytest.approx(both[1], abs=1e-6)


def test_our_own_model_with_text_aligns_too(folder: Path, clip: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from stablerep_hf.models import StableRepConfig, StableRepModel

    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = AutoTokenizer.from_pretrained(clip)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32, "eos_token_id": tokenizer.eos_token_id}
    config = StableRepConfig(
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        text_config={**tower, **text},
        projection_dim=8, projection_hidden_dim=16, image_text_dim=8,
    )  # fmt: skip
    StableRepModel(config).save_pretrained(tmp_path / "own")
    others = {"tokenizer": str(clip), "image_processor": str(clip), "device": "cpu"}
    scorer = AlignmentScorer(str(tmp_path / "own"), **others)
    assert -1 <= score_store(folder, [scorer], progress=False).means["alignment"] <= 1
    textless = StableRepConfig(vision_config=config.vision_config, projection_dim=8, projection_hidden_dim=16)
    StableRepModel(textless).save_pretrained(tmp_path / "textless")
    with pytest.raises(InputError, match=r"'.*textless' is a StableRepModel, which compares no images with text"):
        AlignmentScorer(str(tmp_path / "textless"), **others)


def test_unsafe_scores_are_probabilities_of_the_labels(folder: Path, clip: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8,
        id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1},
    )  # fmt: skip
    model = ViTForImageClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.8, 0.2]).log())
    model.save_pretrained(tmp_path / "nsfw")
    AutoImageProcessor.from_pretrained(clip).save_pretrained(tmp_path / "nsfw")
    score_store(folder, [UnsafeScorer(str(tmp_path / "nsfw"), device="cpu")], progress=False)
    assert load(folder)["nsfw"][:] == pytest.approx([0.2] * 20)
    with pytest.raises(InputError, match=r"no label 'bad'; its labels are \['normal', 'nsfw'\]"):
        UnsafeScorer(str(tmp_path / "nsfw"), ["bad"])
    with pytest.raises(InputError, match="cannot load '/none'"):
        UnsafeScorer("/none")


def test_diversity_is_the_vendi_score_of_siblings_and_folders_compare(
    folder: Path, clip: Path, make_plan: MakePlan, tmp_path: Path
) -> None:
    from stablerep_hf.evaluation import extract_features
    from stablerep_hf.evaluation.vendi import vendi_score

    scorer = DiversityScorer(str(clip), device="cpu")
    score_store(folder, [scorer, Brightness()], progress=False)
    rows = load(folder)
    features = extract_features(str(clip), rows, columns=["caption_id"], progress=False)
    for caption_id in set(rows["caption_id"][:]):
        expected = vendi_score(features.features[features.columns["caption_id"] == caption_id])
        found = [row["diversity"] for row in rows if row["caption_id"] == caption_id]
        assert found == pytest.approx([expected] * 2, abs=1e-4)

    facts = score_histograms(folder, bins=5)
    assert set(facts) == {"diversity", "alignment"}
    assert (sum(facts["diversity"]["counts"]), sum(facts["alignment"]["counts"])) == (10, 20)
    assert facts["alignment"]["scorer"] == {"factor": 1.0}
    assert facts["diversity"]["mean"] == pytest.approx(np.mean(rows["diversity"][:]), abs=1e-5)

    fast = Painter(guidance_scale=1.0)
    other = tmp_path / "fast"
    synthesize(make_plan(10, generator=fast.describe()), fast, other, progress=False)
    with pytest.raises(InputError, match="lacks alignment or diversity"):
        plot_comparison(compare_folders([folder, other]), BytesIO())
    score_store(other, [scorer, Brightness()], progress=False)
    measures = compare_folders([folder, other])
    assert [row.name for row in measures] == ["store", "fast"]
    low, high = measures[0].alignment[1:]  # type: ignore[index]
    assert low <= measures[0].alignment[0] <= high  # type: ignore[index]
    table = comparison_table(measures)
    assert "guidance 1.0" in table
    assert "not scored" not in table
    picture = BytesIO()
    plot_comparison(measures, picture)
    assert Image.open(picture).size[0] > 500
    score_store(other, [Brightness(factor=3.0)], progress=False)
    with pytest.raises(InputError, match="cannot be compared; score both with the same"):
        compare_folders([folder, other])
