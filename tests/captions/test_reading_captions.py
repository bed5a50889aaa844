from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_double import HubDouble
from PIL import Image

from stablerep_hf.captions import CaptionSet, read_captions
from stablerep_hf.errors import InputError

TEXTS = ['a "big" cat, sleeping', "ein Café", "a dog"]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def write_parquet(path: Path, columns: dict[str, object]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_text_with_windows_line_ends_a_byte_order_mark_and_empty_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "c.txt", b"\xef\xbb\xbf" + "\r\n\r\n".join([*TEXTS, TEXTS[0]]).encode())
    captions = read_captions(file)
    assert captions.captions == TEXTS
    assert (captions.num_merged, captions.num_empty) == (1, 3)


def test_csv_with_quotes_commas_and_line_breaks(tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", 'id,caption\n1,"a ""big"" cat,\n sleeping"\n2,ein Café\n3\n4,a dog\n')
    captions = read_captions(str(file))
    assert captions.captions == TEXTS
    assert captions.num_empty == 1  # the row without that field


def test_tsv_captions_may_begin_with_a_quote(tmp_path: Path) -> None:
    file = write(tmp_path / "c.tsv", 'url\ttext\nu\t"big" cat\nv\t"half a quote\nw\ta dog\n')
    assert read_captions(file, column="text").captions == ['"big" cat', '"half a quote', "a dog"]


def test_the_only_column_of_a_csv_file_is_named(tmp_path: Path) -> None:
    for heading, column in (("caption", None), ("text", "text")):
        file = write(tmp_path / "c.csv", f"{heading}\na dog\n")
        assert read_captions(file, column).captions == ["a dog"]


def test_json_lines_and_lists_of_objects_and_strings(tmp_path: Path) -> None:
    objects = [{"n": 1, "text": text} for text in TEXTS]
    lines = write(tmp_path / "c.jsonl", "\n".join(map(json.dumps, objects)) + "\n\n")
    assert read_captions(lines).captions == TEXTS  # the only column with text
    assert read_captions(write(tmp_path / "o.json", json.dumps(objects)), column="text").captions == TEXTS
    assert read_captions(write(tmp_path / "s.json", json.dumps([*TEXTS, None]))).captions == TEXTS
    assert read_captions(write(tmp_path / "s.ndjson", "\n".join(map(json.dumps, TEXTS)))).captions == TEXTS


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_with_any_kind_of_string(tmp_path: Path, kind: pa.DataType) -> None:
    columns = {"n": [1, 2, 3, 4], "text": pa.array([*TEXTS, None]).cast(kind), "title": ["x"] * 4}
    captions = read_captions(write_parquet(tmp_path / "c.parquet", columns), column="text")
    assert (captions.captions, captions.num_empty) == (TEXTS, 1)


def test_the_column_caption_wins_over_other_text(tmp_path: Path) -> None:
    assert read_captions(write_parquet(tmp_path / "c.parquet", {"a": ["x"], "caption": ["y"]})).captions == ["y"]


def test_a_folder_is_a_data_set_with_splits(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_parquet(folder / "train-00000-of-00001.parquet", {"n": [1, 2], "text": ["a", "b"]})
    write_parquet(folder / "test-00000-of-00001.parquet", {"n": [1], "text": ["c"]})
    assert read_captions(tmp_path).captions == ["a", "b"]
    assert read_captions(tmp_path, split="test").captions == ["c"]
    with pytest.raises(InputError, match="split 'validation'"):
        read_captions(tmp_path, split="validation")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train.csv", "n,caption\n1,a\n2,\n3,b\n"),
        ("train.txt", "a\n\nb\n"),
        ("train.jsonl", '{"n": 1, "text": "a"}\n{"n": 2, "text": null}\n{"n": 3, "text": "b"}\n'),
    ],
)
def test_a_folder_whose_files_name_no_types(tmp_path: Path, name: str, content: str) -> None:
    write(tmp_path / name, content)
    assert read_captions(tmp_path).captions == ["a", "b"]
    with pytest.raises(InputError, match=r"no column 'title'|a text file has no columns"):
        read_captions(tmp_path, column="title")


def test_a_folder_whose_file_has_a_heading_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "caption,n\n")
    with pytest.raises(InputError, match="holds nothing"):
        read_captions(tmp_path)


@pytest.mark.parametrize("damage", [b"PAR1 no", None])
def test_a_folder_with_a_damaged_second_file_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    for number in range(2):
        file = write_parquet(
            tmp_path / f"train-0000{number}-of-00002.parquet", {"caption": [f"{number} {i}" for i in range(1000)]}
        )
    content = file.read_bytes()
    file.write_bytes(damage or content[:20] + bytes(40) + content[60:])
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet' is not a readable parquet file") as caught:
        read_captions(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "column", "said"),
    [
        ("empty.txt", "", None, "'.*empty.txt' holds nothing, so there is no caption"),
        ("blank.txt", "\n \n", None, "only 2 empty lines"),
        ("empty.csv", "", None, "holds nothing"),
        ("header.csv", "caption\n", None, "holds nothing"),
        ("empty.json", "", None, "holds nothing"),
        ("binary.txt", b"\x89PNG\r\n\x1a\n\x00\x00", None, "is not UTF-8 text"),
        ("latin.txt", "ok\nCafé".encode("latin-1"), None, r"not UTF-8 text \(byte 0xe9"),
        ("nul.txt", "ok\na\0b", None, "Line 2 of 'nul.txt' holds a NUL byte"),
        ("c.txt", "a", "caption", "a text file has no columns"),
        ("c.xlsx", "a", None, "the suffix '.xlsx' is none of .txt, .csv"),
        ("c.csv", "a,b\n1,2\n", None, r"no column 'caption' and several that hold text: its columns are \['a', 'b'\]"),
        ("c.csv", "a dog\na cat\n", None, "The first line of 'c.csv' is 'a dog', a heading or a caption"),
        ("c.tsv", "dog\ncat\n", None, "The first line of 'c.tsv' is 'dog', a heading or a caption"),
        ("c.csv", "a,b\n1,2\n", "text", r"no column 'text': its columns are \['a', 'b'\]"),
        ("c.csv", 'caption\n"a"b\n', None, "Line 2 of 'c.csv' is not valid CSV"),
        ("c.jsonl", '{"caption": "a"}\n{"caption"\n', None, "Line 2 of 'c.jsonl' is not valid JSON"),
        ("c.jsonl", '{"caption": "a"}\n{"text": "b"}\n', None, r"\(entry 2\)' has no column 'caption'.*\['text'\]"),
        ("c.jsonl", "3\n", None, "Entry 1 of 'c.jsonl' is 3, but captions are text or objects"),
        ("c.jsonl", '{"caption": 3}\n', "caption", "3 is of type int, not text"),
        ("c.json", "3", None, "Entry 1 of 'c.json' is 3, but captions are text"),
        ("c.json", '{\n"caption": "a"}', None, "Line 1 of 'c.json' is not valid JSON"),
        ("c.jsonl", '\n\n"a"\n{\n', None, "Line 4 of 'c.jsonl' is not valid JSON"),
        (
            "c.csv",
            "caption\na red heart, on a blue ground\n",
            None,
            "Line 2 of 'c.csv' has 2 fields, .* names 1: .*quotes",
        ),
        ("c.csv", 'n,caption\n1,"a\nb"\n2,a,b,c\n', None, "Line 4 of 'c.csv' has 4 fields, .* names 2"),
        ("c.tsv", "n\tcaption\n1\ta\tb\n", None, "Line 2 of 'c.tsv' has 3 fields, .* names 2: .*tab"),
        ("c.csv", "n;caption\n1;a dog, asleep\n", None, "separated by semicolons and not by commas: .* with commas"),
        ("c.csv", "n;text\n1;a\n", "text", "separated by semicolons and not by commas"),
        ("c.csv", "n\tcaption\n1\ta\n", None, r"separated by tabs and not by commas: .*name it \.tsv"),
        ("c.tsv", "n,caption\n1,a\n", None, "separated by commas and not by tabs"),
        ("c.csv", "caption,caption\na,b\n", None, "has 2 columns 'caption'; rename all but one"),
        ("c.json", "[", None, "is not valid JSON"),
        ("c.json", "[" * 200_000, None, "'c.json' nests lists or objects too deeply"),
        ("c.jsonl", '"a"\n' + "[" * 200_000, None, "Line 2 of 'c.jsonl' nests lists or objects too deeply"),
        ("c.parquet", b"PAR1 no", None, "not a readable parquet file"),
    ],
)
def test_bad_files_get_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, column: str | None, said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read_captions(write(tmp_path / name, content), column=column)
    assert "\n" not in str(caught.value)


def test_a_parquet_column_without_text_is_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "c.parquet", {"n": [1], "text": ["a"]})
    with pytest.raises(InputError, match=r"column 'n' of 'c.parquet' holds int64, not text; choose one of \['text'\]"):
        read_captions(file, column="n")


def test_a_parquet_file_that_is_damaged_inside_is_refused(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "c.parquet", {"caption": [f"thing {i}" for i in range(1000)]})
    content = bytearray(file.read_bytes())
    content[20:60] = bytes(40)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"'c\.parquet' is not a readable parquet file"):
        read_captions(file)


def test_missing_sources(tmp_path: Path) -> None:
    for source in (tmp_path / "none.txt", "none.csv", "./none", "/none/at/all"):
        with pytest.raises(InputError, match="does not exist"):
            read_captions(source)
    with pytest.raises(InputError, match="No captions could be read from 'nobody/nothing', split 'train'"):
        read_captions("nobody/nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"No captions could be read from .*folder"):
        read_captions(tmp_path / "folder")


def test_labels_are_read_beside_captions(tmp_path: Path) -> None:
    rows = [{"text": text, "kind": kind} for text, kind in zip(TEXTS, ["x", None, "z"], strict=True)]
    files = [
        write(tmp_path / "c.csv", 'kind,text\nx,"a ""big"" cat, sleeping"\n,ein Café\nz,a dog\n'),
        write(tmp_path / "c.jsonl", "\n".join(map(json.dumps, rows))),
        write_parquet(tmp_path / "c.parquet", {"text": TEXTS, "kind": ["x", None, "z"]}),
    ]
    for file in files:
        captions = read_captions(file, column="text", label_column="kind")
        assert captions.captions == TEXTS
        assert [label or None for label in captions.labels or []] == ["x", None, "z"]
        with pytest.raises(InputError, match="no column 'sort'"):
            read_captions(file, column="text", label_column="sort")
    with pytest.raises(InputError, match="a text file has no columns"):
        read_captions(write(tmp_path / "c.txt", "a"), label_column="kind")


def test_a_row_that_lacks_its_class_has_no_label(tmp_path: Path) -> None:
    kinds = datasets.Features({"caption": datasets.Value("string"), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"caption": ["a", "b", "c", "d"], "kind": [1, -1, None, 0]}, features=kinds)
    rows.to_parquet(tmp_path / "train.parquet")
    assert read_captions(tmp_path, label_column="kind").labels == ["dog", None, None, "cat"]


def test_a_file_gives_the_same_captions_alone_and_in_a_folder(tmp_path: Path) -> None:
    odd = ["None", "nan", "NA", "null", "N/A", "", "007", "1e5", "true", "#N/A"]
    rows = "".join(f'{number},"{text}"\n' for number, text in enumerate(odd))
    objects = [{"caption": text, "n": number} for number, text in enumerate(odd)]
    own = CaptionSet.from_texts([*odd, "NA"]).with_num_images(range(1, 10))
    own.write_parquet(tmp_path / "own.parquet")
    contents: dict[str, bytes] = {
        "c.csv": f"n,caption\n{rows}".encode(),
        "c.csv.gz": gzip.compress(f"n,caption\n{rows}".encode()),
        "c.tsv": ("n\tcaption\n" + rows.replace(",", "\t", 1).replace('"', "")).encode(),
        "c.jsonl": "\n".join(map(json.dumps, objects)).encode(),
        "c.json": json.dumps(objects).encode(),
        "lines.json": "\n".join(map(json.dumps, objects)).encode(),
        "c.txt": "\n".join(odd).encode(),
        "own.parquet": (tmp_path / "own.parquet").read_bytes(),
    }
    for name, content in contents.items():
        folder = tmp_path / f"of {name}"
        folder.mkdir()
        alone = read_captions(write(folder / name, content))
        inside = read_captions(folder)
        assert inside.table.equals(alone.table), name
        assert inside.num_empty == alone.num_empty, name
        if name == "c.csv":
            assert (alone.captions, alone.num_empty) == ([text for text in odd if text], 1)
        if name == "own.parquet":
            assert inside.num_images is not None
            assert inside.num_merged == 1


def test_several_files_of_one_s_own_are_one_set_with_their_numbers_of_images(tmp_path: Path) -> None:
    for number, texts in enumerate((["a", "b", "a"], ["c"])):
        captions = CaptionSet.from_texts(texts).with_num_images([3] * len(set(texts))).with_history(read=1)
        captions.write_parquet(tmp_path / f"train-{number}.parquet")
    both = read_captions(tmp_path)
    assert (both.captions, both.num_images.tolist(), both.num_merged) == (["a", "b", "c"], [3, 3, 3], 1)  # type: ignore[union-attr]
    assert both.history == {}
    (tmp_path / "train-2.parquet").write_bytes(pq_bytes({"caption": ["d", "a"]}))
    assert read_captions(tmp_path).captions == ["a", "b", "c", "d"]


def pq_bytes(columns: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def test_captions_of_a_folder_of_images_stand_in_its_table(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("0.png", "1.png"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    write(tmp_path / "metadata.csv", "file_name,caption\n0.png,None\n1.png,a dog\n")
    assert read_captions(tmp_path).captions == ["None", "a dog"]
    assert "2 files in" in caplog.text
    assert "2 .png" in caplog.text


@pytest.mark.parametrize("card", ["", "---\nconfigs: [{config_name: default, data_files: '*/a.csv'}]\n---\n"])
def test_a_folder_with_brackets_in_its_name_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, card: str
) -> None:
    folder = tmp_path / "mine [1]*"
    (folder / "part [2]").mkdir(parents=True)
    write(folder / "part [2]" / "a.csv", "caption\na red heart\n")
    write(folder / "notes.docx", "x")
    write(folder / "README.md", card)
    assert read_captions(folder).captions == ["a red heart"]
    assert caplog.messages[-1:] == [f"1 files in {str(folder)!r} are not read: 1 .docx."]
    with pytest.raises(InputError, match=r"mine \[1\]\*' has no split 'test'"):
        read_captions(folder, split="test")


def test_captions_of_archives_are_streamed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        archive.writestr("c.csv", "n,caption\n1,None\n2,a dog\n")
    assert read_captions(tmp_path).captions == ["None", "a dog"]


def test_files_of_a_folder_that_are_not_read_are_counted_by_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train.csv", "test.csv", "notes.csv", "sub/a.docx", "b.docx", "LICENSE", ".hidden", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, f"caption\n{name}\n" if name != "README.md" else "words\n")
    assert read_captions(tmp_path).captions == ["train.csv"]
    assert [record.getMessage() for record in caplog.records if record.name.startswith("stablerep_hf")] == [
        f"5 files in {str(tmp_path)!r} are not read: 1 .csv in the split 'test', 1 .csv of another format or in no "
        "split, 2 .docx, 1 without a suffix."
    ]
    caplog.clear()
    assert read_captions(tmp_path / "train.csv").captions == ["train.csv"]
    assert caplog.messages == []


def test_classes_of_a_file_are_its_labels_by_name(tmp_path: Path) -> None:
    kinds = datasets.Features({"caption": datasets.Value("string"), "kind": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"caption": ["a", "b", "c", "d"], "kind": [1, -1, None, 0]}, features=kinds)
    rows.to_parquet(tmp_path / "c.parquet")
    assert read_captions(tmp_path / "c.parquet", label_column="kind").labels == ["dog", None, None, "cat"]


def test_files_that_cannot_be_opened_get_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_captions(tmp_path / ("x" * 300 + ".txt"))
    loop = tmp_path / "loop.txt"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="does not exist"):
        read_captions(loop)
    with pytest.raises(InputError, match=r"'c\.txt\.gz' cannot be read after line 0 .*check the file"):
        read_captions(write(tmp_path / "c.txt.gz", b"no gzip"))
    torn = gzip.compress(b"a dog\n" * 1000)[:-20]
    with pytest.raises(InputError, match=r"'c\.txt\.gz' cannot be read after line"):
        read_captions(write(tmp_path / "c.txt.gz", torn))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("stablerep_hf.captions.caption_files.LocalFileSystem.open", refuse)
    with pytest.raises(InputError, match=r"'c\.txt' cannot be read after line 0 .*Permission denied"):
        read_captions(write(tmp_path / "c.txt", "a"))
    monkeypatch.setattr("os.stat", refuse)
    with pytest.raises(InputError, match=r"closed/c\.txt' is in a folder that may not be opened"):
        read_captions("closed/c.txt")


def test_captions_of_a_repository_are_those_of_its_files(
    hub_here: HubDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub_here.endpoint)
    write(tmp_path / "train.csv", "n,caption\n1,None\n2,a dog\n")
    write_parquet(tmp_path / "train.parquet", {"caption": ["NA", "a cat"], "kind": ["x", None]})
    for name in ("train.csv", "train.parquet"):
        repo = f"alice/of-{name.partition('.')[2]}"
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", exist_ok=True)
        api.upload_file(path_or_fileobj=tmp_path / name, path_in_repo=name, repo_id=repo, repo_type="dataset")
        captions = read_captions(repo)
        assert captions.table.equals(read_captions(tmp_path / name).table)
        with pytest.raises(InputError, match="no split 'test'; choose one of"):
            read_captions(repo, split="test")
    assert read_captions(repo, label_column="kind").labels == ["x", None]
