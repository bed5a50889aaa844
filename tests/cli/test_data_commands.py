"""What becomes of a data set that is drawn: verify, show, regenerate, score, compare, export, and train on a part."""

import json
import re
import shutil

import datasets
import pytest
from certificates import write_certificate
from tiny_training import TRAIN_FLAGS
from transformers import ViTConfig, ViTModel

from stablerep_hf.files.locks import LOCK, lock_folder
from stablerep_hf.synthesis import read_provenance

FLAGS = ("--images-per-caption", 2, "--num-inference-steps", 2, "--captions-per-shard", 2)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    file = tmp_path_factory.mktemp("captions") / "captions.txt"
    file.write_text("a red ball\na blue house\na green tree\n")
    return file


@pytest.fixture
def folder(stablerep, captions, pipeline, tmp_path):
    output = tmp_path / "images"
    code, _, err = stablerep("generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", output)
    assert code == 0, err
    return output


def refused(result, *parts):
    code, out, err = result
    err = re.sub(r"(?m)^verifying: .*\n", "", err)
    assert code == 2, (out, err)
    assert err.strip().count("\n") == 0
    assert all(part in err for part in parts), err
    return True


def test_a_dry_run_measures_and_writes_nothing(stablerep, captions, pipeline, tmp_path):
    output = tmp_path / "images"
    flags = ["generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", output]
    code, out, err = stablerep(*flags, "--dry-run", "--dollars-per-hour", 2, "--batch-size", 4)
    assert code == 0, err
    found = {line.split()[0]: line.split()[1] for line in out.splitlines()}
    assert (found["images"], found["batches"]) == ("6", "2")
    hours = float(found["batches"]) * float(re.search(r"images, (.*) s each", out)[1]) / 3600
    assert float(found["cost"]) == pytest.approx(2 * hours, abs=0.011)  # both are rounded
    assert int(found["bytes"].replace(",", "")) > 6 * 300
    assert refused(stablerep(*flags, "--dry-run", "--batch-size", 0), "--batch-size 0")
    assert not output.exists()


def test_the_embedded_generator_is_not_taken_without_a_word(stablerep, captions, tmp_path):
    flags = ["generate", "--captions", captions, "--num-captions", 1, "--dry-run", "--output", tmp_path / "out"]
    code, out, err = stablerep(*flags)
    assert code == 0, err
    assert out.startswith("The embedded generator draws small pictograms")
    assert "it knows 3 of the 3 words" in out and "--generator" in out.splitlines()[0]


def test_options_reach_generator_and_plan(stablerep, captions, pipeline, tmp_path):
    flags = ["generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", tmp_path / "images"]
    code, _, err = stablerep(
        *flags, "--scheduler", "LCMScheduler", "--guidance-scale", 1, "--stored-size", 8, "--autoencoder", "slicing",
        "--attention", "slicing",
    )  # fmt: skip
    assert code == 0, err
    settings = read_provenance(tmp_path / "images").settings
    assert (settings["stored_size"], settings["generator"]["scheduler"]) == (8, "LCMScheduler")
    assert datasets.load_dataset(str(tmp_path / "images"), split="train")[0]["image"].size == (8, 8)
    assert refused(stablerep(*flags, "--height", 17, "--width", 16), "17 x 16", "divisible by 8")
    assert refused(stablerep(*flags, "--scheduler", "FooScheduler"), "FooScheduler")


def test_prompts_that_are_too_long_are_cut_and_counted(stablerep, pipeline, tmp_path):
    file = tmp_path / "long.txt"
    file.write_text(f"{'a' * 40}\nshort\n")
    flags = ["generate", "--captions", file, "--generator", pipeline, *FLAGS, "--output", tmp_path / "o"]
    assert re.search(r"truncated +1 prompts are longer", stablerep(*flags, "--dry-run")[1])
    assert not (tmp_path / "o").exists()
    code, _, err = stablerep(*flags)
    assert (code, err.count("stablerep generate: 1 prompts are longer than the 32 tokens")) == (0, 1), err


def test_a_caption_that_no_generator_reads_is_refused_before_the_work(stablerep, pipeline, tmp_path):
    (tmp_path / "captions.txt").write_text("a cat\n" + "a dog " * 2000 + "\n")
    generate = ("generate", "--captions", tmp_path / "captions.txt", "--generator", pipeline, *FLAGS)
    assert refused(stablerep(*generate, "--output", tmp_path / "out"), "has 11,999 characters", "split it into lines")
    assert not (tmp_path / "out").exists()


def test_verify_finds_and_repairs(stablerep, folder, pipeline):
    assert "nothing is wrong" in stablerep("verify", folder)[1]
    files = sorted((folder / "data").glob("*.parquet"))
    before = [file.read_bytes() for file in files]
    files[0].write_bytes(before[0][:-20])
    assert refused(stablerep("verify", folder), "1 damaged shard", "--repair")
    assert files[0].read_bytes() == before[0][:-20]
    assert refused(stablerep("verify", folder, "--repair"), "'tiny'")  # the plan names no path
    assert files[0].exists()
    code, out, err = stablerep("verify", folder, "--repair", "--generator", pipeline)
    assert (code, "Repaired: 6 images" in out) == (0, True), err
    assert [file.read_bytes() for file in files] == before
    assert refused(stablerep("verify"), "required: DIR")
    assert refused(stablerep("verify", folder / "data"), "provenance/plan.json")


def test_who_writes_to_a_folder_keeps_the_other_commands_from_it(stablerep, folder, captions, pipeline):
    generate = ("generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", folder)
    score = ("score", folder, "--diversity-encoder", "embedded")
    shard = sorted(folder.glob("data/*.parquet"))[0]
    shard.unlink()
    repair = ("verify", folder, "--repair", "--generator", pipeline)
    before = sorted(path.name for path in folder.rglob("*"))
    with lock_folder(folder):
        for command in (generate, repair):
            assert refused(stablerep(*command), "Another process is writing to")
    with lock_folder(folder, shared=True):  # as another worker does
        assert refused(stablerep(*repair), "Another process is writing to")
        assert sorted(path.name for path in folder.rglob("*") if path.name != LOCK) == before
        assert stablerep(*generate)[0] == 0
        assert refused(stablerep(*score), "Another process is writing to")
    assert stablerep(*score)[0] == 0


def test_a_repair_that_does_not_hold_is_no_repair(stablerep, folder, pipeline, monkeypatch):
    from stablerep_hf.runs import verification

    path = sorted((folder / "data").glob("*.parquet"))[0]
    path.write_bytes(b"")
    monkeypatch.setattr(verification, "remove_problems", lambda folder, report: [])
    monkeypatch.setattr(verification, "synthesize", lambda *arguments, **settings: None)
    code, out, err = stablerep("verify", folder, "--repair", "--generator", pipeline)
    assert refused((code, out, err), "still is not what its plan says (1 damaged shard)")
    assert "Repaired" not in out


def test_lost_scores_are_told_and_the_card_follows(stablerep, folder, captions, pipeline, trained):
    """Of three captions in shards of two: a shard drawn again has no scores, neither by repair nor by `generate`."""
    scoring = ["score", folder, "--diversity-encoder", trained, "--device", "cpu"]
    assert stablerep(*scoring)[0] == 0
    again = ["generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", folder]
    for command in (["verify", folder, "--repair", "--generator", pipeline], again):
        assert "](scores.png)" in (folder / "README.md").read_text()
        path = sorted((folder / "data").glob("*.parquet"))[0]
        path.write_bytes(path.read_bytes()[:-20])
        code, out, err = stablerep(*command)
        assert code == 0, err
        assert "4 images lack scores that the folder has or had (diversity)" in out
        assert f"`stablerep score {folder}`" in out
        assert "](scores.png)" not in (folder / "README.md").read_text()
        assert "4 images scored, 2 had" in stablerep(*scoring)[1]
        assert "lack scores" not in stablerep(*again)[1]


def test_what_somebody_wrote_into_the_card_stays(stablerep, folder, captions, pipeline, trained):
    flags = ["generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", folder]
    scoring = ["score", folder, "--diversity-encoder", trained, "--device", "cpu"]
    card = folder / "README.md"
    card.unlink()
    assert stablerep(*flags, "--license", "mit")[0] == 0
    written = card.read_text()
    assert "\nlicense: mit\n" in written
    assert "by hand" not in stablerep(*flags)[1]
    assert card.read_text() == written  # its licence too
    card.write_text(written.replace("license: mit", "license: cc0-1.0") + "\nMy own sentence.\n")
    assert "was written or edited by hand" in stablerep(*scoring)[1]
    (changed,) = set(card.read_text().splitlines()) - {*written.splitlines(), "license: cc0-1.0", "My own sentence."}
    assert " images of plan " in changed  # what makes load_dataset read the new rows
    card.write_text("My own card.\n")
    for command in (flags, scoring):
        code, out, err = stablerep(*command)
        assert (code, "was written or edited by hand" in out) == (0, True), err
    assert card.read_text() == "My own card.\n"


def test_an_image_says_how_it_came_to_be_and_is_drawn_again(stablerep, folder, pipeline, tmp_path):
    row = datasets.load_dataset(str(folder), split="train").cast_column("image", datasets.Image(decode=False))[3]
    key = ["--caption-id", row["caption_id"], "--image-index", row["image_index"]]
    code, out, err = stablerep("show", folder, *key)
    assert code == 0, err
    for part in (row["prompt"], str(row["seed"]), "trainedAlgorithmicMedia", "DDIMScheduler"):
        assert part in out
    (tmp_path / "image.jpg").write_bytes(row["image"]["bytes"])
    out = stablerep("show", tmp_path / "image.jpg")[1]
    assert str(row["caption_id"]) in out
    assert "trainedAlgorithmicMedia" in out
    code, listed, err = stablerep("show", folder)
    assert (code, listed.count(" 2 images  a ")) == (0, 3), err
    assert "3 captions: --caption TEXT" in listed
    assert (
        stablerep("show", folder, "--caption", f" {row['caption']} ", "--image-index", 1)[1]
        == (stablerep("show", folder, "--caption-id", row["caption_id"], "--image-index", 1)[1])
    )
    assert refused(stablerep("show", folder, "--caption", "a red bal"), "did you mean 'a red ball'?")
    assert refused(stablerep("show", folder, "--caption", "xyz"), "no caption 'xyz' among its 3")
    assert refused(stablerep("regenerate", folder), "`--caption`", "`stablerep show")
    assert refused(stablerep("show", tmp_path / "none.jpg"), "none.jpg")

    again = ["regenerate", folder, *key, "--generator", pipeline, "--output", tmp_path / "again.jpg"]
    code, out, err = stablerep(*again)
    assert (code, out.startswith("The same")) == (0, True), (out, err)
    assert (tmp_path / "again.jpg").exists()
    assert refused(stablerep("regenerate", folder, "--caption-id", 5, "--generator", pipeline), "caption_id 5")
    assert refused(stablerep("regenerate", folder, *key, "--generator", "embedded"), "not the one that drew")


def test_outputs_that_cannot_be_written_are_refused_before_the_work(stablerep, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("stablerep_hf.synthesis.comparison.read_provenance", None)
    for output, said in (("none/plot.png", "does not exist"), (".", "is a folder"), ("table.md", "name the plot")):
        assert refused(stablerep("compare", folder, folder, "--output", tmp_path / output), said)
        if output != "table.md":
            assert refused(stablerep("regenerate", folder, "--caption-id", 1, "--output", tmp_path / output), said)


def test_a_torn_shard_is_not_compared(stablerep, folder):
    path = sorted((folder / "data").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-20])
    assert refused(stablerep("compare", folder, folder), path.name, "cannot be read", "verify --repair")


def test_scores_filters_and_comparison(stablerep, folder, trained, tmp_path):
    assert refused(stablerep("score", folder), "Nothing is to be scored")
    code, out, err = stablerep("score", folder, "--diversity-encoder", trained, "--device", "cpu")
    assert (code, "6 images scored" in out, "diversity" in out) == (0, True, True), err
    assert "6 had these scores" in stablerep("score", folder, "--diversity-encoder", trained)[1]
    values = datasets.load_dataset(str(folder), split="train")["diversity"][:]
    assert all(1 <= value <= 2.0001 for value in values)
    code, out, err = stablerep("compare", folder, folder)
    assert (code, out.count("| images |")) == (0, 2), err
    assert refused(stablerep("compare", folder), "two or more")
    assert refused(stablerep("compare", folder, folder, "--output", tmp_path / "plot.png"), "lacks alignment")
    assert not (tmp_path / "plot.png").exists()


def test_scores_while_drawing_stand_in_rows_and_card(stablerep, captions, pipeline, trained, tmp_path):
    output = tmp_path / "scored"
    flags = ["generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", output]
    scoring = ["--diversity-encoder", trained, "--device", "cpu"]
    assert refused(stablerep(*flags, "--alignment-model", trained), "compares no images with text")
    assert not output.exists()
    code, _, err = stablerep(*flags, *scoring)
    assert code == 0, err
    drawn = datasets.load_dataset(str(output), split="train")
    assert all(1 <= value <= 2.0001 for value in drawn["diversity"][:])
    assert "](scores.png)" in (output / "README.md").read_text()
    assert (output / "scores.png").exists()
    before = [path.read_bytes() for path in sorted((output / "data").iterdir())]
    assert "6 had these scores" in stablerep("score", output, *scoring)[1]
    assert stablerep(*flags)[0] == 0  # the plan is the same without the scores
    assert [path.read_bytes() for path in sorted((output / "data").iterdir())] == before
    assert refused(stablerep(*flags[:-1], tmp_path / "x", "--nsfw-model", "/none"), "/none")
    assert not (tmp_path / "x").exists()


def test_a_signed_folder_is_shown_proved_and_repaired(stablerep, captions, pipeline, tmp_path):
    chain, key = write_certificate(tmp_path / "pem")
    signing, output = ["--certificate", chain, "--private-key", key], tmp_path / "signed"
    flags = ["generate", "--captions", captions, "--generator", pipeline, *FLAGS, "--output", output]
    assert refused(stablerep(*flags, "--certificate", chain), "give both")
    assert refused(stablerep(*flags, "--certificate", key, "--private-key", key), "do not sign")
    assert not output.exists()
    assert stablerep(*flags, *signing)[0] == 0
    assert refused(stablerep(*flags), "images of another plan: signature is")
    row = datasets.load_dataset(str(output), split="train").cast_column("image", datasets.Image(decode=False))[3]
    identity = ["--caption-id", row["caption_id"], "--image-index", row["image_index"]]
    (tmp_path / "image.jpg").write_bytes(row["image"]["bytes"])
    for shown in (stablerep("show", output, *identity)[1], stablerep("show", tmp_path / "image.jpg")[1]):
        found = dict(line.split(maxsplit=1) for line in shown.splitlines())
        assert (found["C2PA.state"], found["C2PA.signer"]) == ("Valid", "Signer")
        assert "trainedAlgorithmicMedia" in found["DigitalSourceType"]
    assert "pixel by pixel" in stablerep("regenerate", output, *identity, "--generator", pipeline)[1]
    path = sorted((output / "data").iterdir())[0]
    path.write_bytes(path.read_bytes()[:-9])
    repair = ["verify", output, "--repair", "--generator", pipeline]
    assert refused(stablerep(*repair), "What signs the images is not what the plan says")
    assert path.exists()
    assert "Repaired: 6 images" in stablerep(*repair, *signing)[1]


def test_a_generator_that_went_away_is_one_sentence_and_nothing_is_lost(stablerep, captions, pipeline, tmp_path):
    here, output = tmp_path / "here", tmp_path / "images"
    shutil.copytree(pipeline, here)
    flags = ["generate", "--captions", captions, "--generator", here, *FLAGS, "--output", output]
    assert stablerep(*flags)[0] == 0
    before = {path.name: path.read_bytes() for path in (output / "data").iterdir()}
    shutil.rmtree(here)
    assert refused(stablerep(*flags), "neither a folder nor of the form owner/name")
    assert {path.name: path.read_bytes() for path in (output / "data").iterdir()} == before


def test_training_keeps_what_fulfils_a_condition(stablerep, folder, tmp_path):
    (tmp_path / "concepts.txt").write_text("ball\ntree\n")
    flags = ["train", "--data", folder, *TRAIN_FLAGS]
    keep = ["--keep", "caption != 'a red ball'", "--keep-concepts", tmp_path / "concepts.txt"]
    code, out, err = stablerep(
        *flags, *keep, "--captions_per_batch", 2, "--images_per_caption", 2, "--output", tmp_path / "encoder"
    )
    assert code == 0, err
    assert "kept 4 rows, dropped 2; 1 captions have none left" in out + err
    assert "ball: dropped 2 of 2" in out + err
    assert refused(stablerep(*flags, "--keep", "alignment > 0.2", "--output", tmp_path / "x"), "`stablerep score`")
    streaming = [*flags, "--streaming"]
    code, out, err = stablerep(
        *streaming, *keep[:2], "--captions_per_batch", 2, "--images_per_caption", 2, "--output", tmp_path / "streamed"
    )
    assert code == 0, err
    data = json.loads((tmp_path / "streamed" / "training.json").read_text())["data"]
    assert (data["num_captions"], data["num_images"]) == (2, 4) and data["revision"]
    assert refused(
        stablerep(*streaming, *keep, "--output", tmp_path / "x"), "--keep-concepts", "counts what is dropped"
    )
    assert refused(stablerep(*streaming, "--keep", "alignment > 0.2", "--output", tmp_path / "x"), "gives no row")
    assert refused(stablerep(*streaming, "--keep", "colour > 2", "--output", tmp_path / "x"), "names 'colour'")
    assert refused(stablerep(*streaming, "--output", tmp_path / "x"), "--images-per-caption 3", "follow one another")
    assert refused(stablerep(*flags, "--keep", "exit()", "--output", tmp_path / "x"), "not a comparison")
    assert not (tmp_path / "x").exists()


def test_a_full_disk_under_an_index_is_one_sentence(stablerep, folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError("9216 requested and 8160 written")  # as NumPy says it

    monkeypatch.setattr("numpy.save", full)
    index = ("index", folder, "embedded", "--cache", "none", "--output", tmp_path / "index")
    assert refused(stablerep(*index, "--quiet"), "There is no room left for 'vectors.npy'")


def test_export_writes_large_shards_or_tars(stablerep, folder, tmp_path):
    code, out, err = stablerep("export", folder, "--output", tmp_path / "hub")
    assert (code, "train-00000-of-00001.parquet" in out) == (0, True), err
    assert datasets.load_dataset(str(tmp_path / "hub"), split="train").num_rows == 6
    assert "train-00000.tar" in stablerep("export", folder, "--format", "webdataset", "--output", tmp_path / "wds")[1]
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    assert stablerep("export", folder, "--output", tmp_path / "hub")[0] == 0, "found finished"
    shard = tmp_path / "hub/data/train-00000-of-00001.parquet"
    assert shard.stat().st_mtime_ns == made[shard], "not written again"
    other = stablerep("export", folder, "--format", "webdataset", "--output", tmp_path / "hub")
    assert refused(other, "holds no part of this export")


def test_embedded_models_score_and_the_record_names_no_path(stablerep, folder):
    code, _, err = stablerep("score", folder, "--alignment-model", "embedded", "--diversity-encoder", "embedded")
    assert code == 0, err
    scores = read_provenance(folder).shards[0]["scores"]
    assert (scores["alignment"]["model"], scores["diversity"]["encoder"]) == ("embedded", "embedded")
    assert len(scores["alignment"]["revision"]) == 32
    rows = datasets.load_dataset(str(folder), split="train")
    assert all(-1 <= value <= 1 for value in rows["alignment"]) and all(value >= 1 for value in rows["diversity"])


def test_python_makes_the_same_files_as_the_command(stablerep, folder, captions, pipeline, tmp_path):
    from stablerep_hf.runs.generation import GenerationRun
    from stablerep_hf.synthesis import GenerationSettings

    settings = GenerationSettings(
        captions=str(captions),
        generator=str(pipeline),
        images_per_caption=2,
        num_inference_steps=2,
        captions_per_shard=2,
        output=str(tmp_path / "by hand"),
    )
    result = GenerationRun(settings).run(progress=False)
    assert (result.is_complete, result.summary.num_drawn) == (True, 6)
    for one in sorted((folder / "data").iterdir()):
        assert (tmp_path / "by hand" / "data" / one.name).read_bytes() == one.read_bytes()
    assert (tmp_path / "by hand" / "provenance/plan.json").read_text() == (folder / "provenance/plan.json").read_text()


def test_the_embedded_generator_says_what_it_knows_in_the_card_too(stablerep, tmp_path):
    (tmp_path / "c.txt").write_text("a red heart\nan xylophonist in Reykjavik\n")
    flags = ["--captions", tmp_path / "c.txt", "--images-per-caption", 1, "--num-inference-steps", 1]
    code, out, err = stablerep("generate", *flags, "--output", tmp_path / "o")
    assert code == 0, err
    said = re.search(r"it knows (\d) of the 7 words of these captions", out)
    assert 3 <= int(said[1]) <= 5
    assert said[0] in (tmp_path / "o" / "README.md").read_text()


def test_the_printed_line_loads_a_folder_with_brackets(stablerep, captions, pipeline, tmp_path):
    flags = ["--captions", captions, "--generator", pipeline, *FLAGS, "--output", tmp_path / "a[1]" / "d[b]"]
    code, out, err = stablerep("generate", *flags)
    assert code == 0, err
    line = out.splitlines()[-1].partition(": ")[2]
    assert eval(line, {"datasets": datasets})["train"].num_rows == 6


def test_a_caption_cannot_steer_the_terminal(stablerep, pipeline, tmp_path):
    (tmp_path / "captions.txt").write_text("a \x1b[31mred\x1b[0m ball\x07 é\n")
    words = ["--captions", tmp_path / "captions.txt", "--generator", pipeline, *FLAGS, "--output", tmp_path / "out"]
    assert stablerep("generate", *words)[0] == 0
    shown = stablerep("show", tmp_path / "out")[1]
    assert r"a \x1b[31mred\x1b[0m ball\x07 é" in shown
    shown += stablerep("show", tmp_path / "out", "--caption-id", shown.split()[0])[1]
    assert "\x1b" not in shown and "\x07" not in shown


def test_a_loop_of_links_and_an_impossible_encoder_are_one_sentence(stablerep, folder, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    ViTModel(ViTConfig(hidden_size=8, num_attention_heads=1, num_hidden_layers=1)).save_pretrained(tmp_path / "vit")
    config = tmp_path / "vit" / "config.json"
    config.write_text(config.read_text().replace('"num_attention_heads": 1', '"num_attention_heads": 0'))
    train = ["--use-cpu", "--size", "micro", "--output", tmp_path / "out"]
    for words in (
        ["train", "--data", tmp_path / "loop", *train],
        ["train", "--data", folder, "--init-from", tmp_path / "vit", *train],
        ["index", folder, tmp_path / "vit", "--output", tmp_path / "out"],
        ["index", tmp_path / "loop", tmp_path / "vit", "--output", tmp_path / "out"],
        ["evaluate", tmp_path / "vit", "--data", folder, "--split", "train"],
    ):
        code, _, err = stablerep(*words)
        assert code == 2 and "Traceback" not in err, err
