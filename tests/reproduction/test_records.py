import dataclasses

import pytest
from study_data import result

from stablerep_hf.errors import InputError
from stablerep_hf.reproduction import Records, pack_results, unpack_results


def test_what_was_added_is_there_again(tmp_path):
    records = Records(tmp_path / "folder" / "records.jsonl")
    records.add({"key": "a", "value": 1})
    records.add({"key": "b", "value": "ä"})
    again = Records(records.path)
    assert list(again) == ["a", "b"]
    assert again["b"]["value"] == "ä"
    assert "c" not in again


def test_a_line_that_a_kill_left_torn_is_cut_off_before_the_next(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"key":"a"}\n{"key":"b","val')
    records = Records(path)
    assert list(records) == ["a"]
    records.add({"key": "c"})
    records.add({"key": "d"})
    assert path.read_text() == '{"key":"a"}\n{"key":"c"}\n{"key":"d"}\n'


def test_a_reader_leaves_the_line_that_a_writer_is_in_the_middle_of(tmp_path):
    path = tmp_path / "records.jsonl"
    Records(path).add({"key": "a"})
    with path.open("ab", buffering=0) as writer:
        writer.write(b'{"key":"b","val')
        assert list(Records(path)) == ["a"]
        writer.write(b'ue":1}\n')
    assert Records(path)["b"] == {"key": "b", "value": 1}


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"key":"a"}\nnonsense\n{"key":"b"}\n')
    with pytest.raises(InputError, match=r"Line 2 of records\.jsonl"):
        Records(path)


def test_results_come_back_under_the_name_that_is_asked_for():
    results = [result("knn accuracy", 0.4, 3), result("retrieval recall@1, frequency = tail", 0.2, 3)]
    results.append(dataclasses.replace(result("knn accuracy, other", 0.1, 3), dataset="others", revision="2"))
    back = unpack_results(pack_results(results), "renamed")
    assert list(back) == ["knn accuracy", "retrieval recall@1, frequency = tail", "knn accuracy, other"]
    assert list(back.values()) == [dataclasses.replace(one, encoder="renamed") for one in results]
