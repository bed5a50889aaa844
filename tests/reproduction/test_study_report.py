import json
import re
from dataclasses import replace

import pytest
from PIL import Image
from study_data import result

from stablerep_hf.reproduction import (
    Cell,
    Records,
    Scale,
    Study,
    all_settings,
    make_claims,
    pack_results,
    read_world,
    write_study,
)
from stablerep_hf.reproduction.claims import REST, TAIL
from stablerep_hf.reproduction.report import correlations
from stablerep_hf.reproduction.world import MAIN, ZERO_SHOT

SCALE = Scale(captions=64, steps=3, views=16, seeds=3)
WORLD = replace(read_world(), scale=SCALE)
MEASURES = [*MAIN, *ZERO_SHOT, *(f"{measure}, {part}" for measure in MAIN for part in (TAIL, REST))]


def key(task):
    return task.key({})


def better_with_siblings(setting, seed):
    """Scores in which StableRep is best and guidance helps SimCLR."""
    value = 0.3 + 0.003 * seed
    if setting.images is not None:
        value += 0.1 * setting.objective.startswith("stablerep") + 0.01 * setting.images.images_per_caption
        value += 0.01 * setting.images.guidance_scale * (1 if setting.objective == "simclr" else -1)
    return value


@pytest.fixture
def study(tmp_path):
    claims = make_claims(WORLD)
    records = Records(tmp_path / "records.jsonl")
    for setting in all_settings(claims):
        for seed in range(SCALE.seeds if setting.has_seeds else 1):
            cell = Cell(setting=setting, seed=seed)
            scores = [result(m, better_with_siblings(setting, seed), seed) for m in MEASURES]
            records.add({"key": key(cell), **cell.describe(), **pack_results(scores), "cpu_seconds": 1.0})
    for images in dict.fromkeys(images for claim in claims for images in claim.described_images):
        numbers = {"value": 0.2, "low": 0.1, "high": 0.3}
        records.add(
            {"key": key(images), **images.describe(), "alignment": numbers, "diversity": numbers, "cpu_seconds": 1.0}
        )
    return Study(claims, WORLD, records, key)


def test_the_report_says_of_each_claim_what_came_of_it(study, tmp_path):
    path = write_study(study, tmp_path, "stablerep reproduce")
    text = path.read_text("utf-8")
    numbers = [1, 2, 3, 4, 5, 6, 8]
    assert re.findall(r"^## (\d)\. ", text, re.MULTILINE) == [str(number) for number in numbers]
    assert "incomplete" not in text
    for number in numbers:
        assert f"](claim-{number}.png)" in text
        picture = Image.open(tmp_path / f"claim-{number}.png").convert("L")
        darkest, lightest = picture.getextrema()
        assert darkest < 100 < lightest, "there is ink"
    found = {claim["number"]: claim for claim in json.loads((tmp_path / "results.json").read_text())["claims"]}
    assert found[3]["verdict"] == "agrees"
    assert [one["verdict"] for one in found[1]["statements"]].count("agrees") >= 2
    assert found[2]["statements"][1] == {
        **found[2]["statements"][1],
        "text": "StableRep: guidance 2 above 8",
        "verdict": "agrees",
        "seeds": [0, 1, 2],
    }
    assert found[2]["statements"][1]["differences"][0]["values"] == pytest.approx([0.06] * 3)


def test_the_same_records_give_the_same_files(study, tmp_path):
    study = Study(study.claims[2:3], WORLD, study.records, key)
    for folder in ("one", "two"):
        write_study(study, tmp_path / folder, "stablerep reproduce")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_run_that_has_only_begun_has_a_report(study, tmp_path):
    few = Records(tmp_path / "few.jsonl")
    for name in list(study.records)[:4]:
        few.add(study.records[name])
    text = write_study(Study(study.claims, WORLD, few, key), tmp_path / "few", "x").read_text("utf-8")
    assert "incomplete, 0 of 3 seeds" in text
    assert "not judged yet (0 of 3 seeds)" in text
    assert not (tmp_path / "few" / "claim-5.png").exists()
    empty = Study(study.claims, WORLD, Records(tmp_path / "none.jsonl"), key)
    assert "incomplete" in write_study(empty, tmp_path / "none", "x").read_text("utf-8")


def test_measures_without_labels_are_ranked_by_those_with(study, tmp_path):
    assert correlations(study) == [], "nothing was measured without labels"
    records = Records(tmp_path / "more.jsonl")
    for name in study.records:
        record = study.records[name]
        if record.get("setting", {}).get("images"):
            value = record["results"][0]["value"]
            simclr = record["setting"]["objective"] == "simclr"
            record = {**record, "label_free": {"lidar": value, "rankme": -value if simclr else value}}
        records.add(record)
    found = {(one["probe"], one["measure"]): one for one in correlations(replace(study, records=records))}
    assert len(found) == 2 * len(MAIN)
    best, mixed = found["lidar", MAIN[0]], found["rankme", MAIN[0]]
    assert (best["all"], best["within"]) == pytest.approx((1, 1))
    assert best["runs"] == sum(bool(records[name].get("setting", {}).get("images")) for name in records)
    assert -1 < mixed["within"] < 1 and mixed["all"] < 0.9
    text = write_study(replace(study, records=records), tmp_path, "stablerep reproduce").read_text("utf-8")
    assert "| LiDAR | 1.00 (1.00) | 1.00 (1.00) | 1.00 (1.00) |" in text
