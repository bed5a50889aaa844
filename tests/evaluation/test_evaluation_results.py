from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stablerep_hf.errors import InputError
from stablerep_hf.evaluation import (
    EvaluationResult,
    combine_seeds,
    load_results,
    results_table,
    save_results,
    seed_interval,
)
from stablerep_hf.evaluation.comparison import with_differences
from stablerep_hf.evaluation.results import OVER_EPISODES


def make_result(encoder: str = "ours", metric: str = "accuracy", value: float = 0.5, **changes) -> EvaluationResult:
    values = {
        "encoder": encoder,
        "protocol": "retrieval" if metric.startswith("recall") else "knn",
        "metric": metric,
        "value": value,
        "low": value - 0.025,
        "high": value + 0.025,
        "interval": "bootstrap over test groups",
        "n": 1807,
        "dataset": "pictograms",
        "revision": "abc",
        "split": "held_out",
        "settings": {} if metric.startswith("recall") else {"k": 20, "temperature": 0.07},
    }
    return EvaluationResult(**{**values, **changes})


def test_results_come_back_from_disk_as_they_were(tmp_path):
    results = [make_result(seeds=(1, 2), chance=0.2), make_result(metric="recall@1", value=1 / 3)]
    save_results(tmp_path / "new" / "results.json", results)
    assert load_results(tmp_path / "new" / "results.json") == results
    stored = json.loads((tmp_path / "new" / "results.json").read_text())
    assert [entry["value"] for entry in stored] == [0.5, 1 / 3]
    assert stored[0]["seeds"] == [1, 2]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    save_results(path, [make_result(value=0.25)])

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"There is no room left for 'results.json'"):
        save_results(path, [make_result(value=0.75)])
    assert load_results(path)[0].value == 0.25
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"value": 1}', "no JSON list"),
        ('[{"value": 1}]', "unknown or missing fields dataset, encoder"),
    ],
)
def test_a_file_that_holds_no_results_is_refused(tmp_path, text, message):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match=message):
        load_results(tmp_path / "results.json")
    with pytest.raises(InputError, match="no results file"):
        load_results(tmp_path / "elsewhere.json")


def test_fields_of_another_version_are_named():
    with pytest.raises(InputError, match="accuracy_at_dawn"):
        EvaluationResult.from_dict({**make_result().to_dict(), "accuracy_at_dawn": 1})


@pytest.mark.parametrize(
    "changes", [{"value": float("nan")}, {"low": 0.9, "high": 0.1}, {"n": 0}, {"chance": float("inf")}]
)
def test_a_number_that_means_nothing_is_no_result(changes):
    with pytest.raises(InputError, match="The result"):
        make_result(**changes)


def test_runs_of_several_seeds_become_a_mean_with_students_interval():
    values = [0.50, 0.56, 0.53]
    runs = [make_result(value=value, seeds=(seed,)) for seed, value in enumerate(values)]
    runs += [make_result("other", value=value, seeds=(seed,)) for seed, value in enumerate([0.1, 0.2, 0.3])]
    ours, other = combine_seeds(runs)
    assert ours.value == pytest.approx(0.53)
    assert (ours.low, ours.high) == pytest.approx(seed_interval(values))
    assert ours.seeds == (0, 1, 2)
    assert ours.settings == {"k": 20, "temperature": 0.07, "values": values}
    assert ours.interval == "Student t over training seeds"
    assert other.value == pytest.approx(0.2)


def test_a_setting_on_which_runs_differ_is_not_claimed_for_all():
    runs = [make_result(seeds=(seed,), settings={"k": 20, "c": float(seed)}) for seed in (1, 2)]
    assert combine_seeds(runs)[0].settings == {"k": 20, "values": [0.5, 0.5]}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"seeds": (1,)}, {"seeds": (1,)}, "one of its own"),
        ({"seeds": (1,)}, {"seeds": ()}, "one of its own"),
        ({"seeds": (1,)}, {"seeds": (2,), "n": 5}, "same data"),
        ({"seeds": (1,)}, {"seeds": (2,), "revision": "def"}, "same data"),
        ({"seeds": (1,)}, {"seeds": (2,), "split": "other"}, "at least 2 seeds"),
    ],
)
def test_runs_that_do_not_belong_together_are_not_averaged(first, second, message):
    with pytest.raises(InputError, match=message):
        combine_seeds([make_result(**first), make_result(**second)])


def test_the_table_is_this_one():
    results = [
        make_result("ours", value=0.533, chance=0.2),
        make_result("ours", "recall@1", 0.31, chance=0.004, n=1700),
        make_result("pipe|named", value=0.4, chance=0.2),
    ]
    assert results_table(results) == (
        "| encoder | kNN accuracy (k = 20) | cross-artist retrieval recall@1 |\n"
        "| :--- | ---: | ---: |\n"
        "| ours | 53.3 [50.8, 55.8] | 31.0 [28.5, 33.5] |\n"
        "| pipe\\|named | 40.0 [37.5, 42.5] |  |\n"
        "| *chance* | 20.0 | 0.4 |\n\n"
        "Per cent, 95 % intervals in brackets (bootstrap over test groups). pictograms, split `held_out`, revision "
        "`abc`: 1,807 images (kNN accuracy (k = 20)), 1,700 images (cross-artist retrieval recall@1) scored.\n"
    )


def test_columns_name_their_data_when_there_are_several():
    table = results_table([make_result(), make_result(dataset="photos"), make_result(settings={"k": 5})])
    assert table.splitlines()[0] == (
        "| encoder | kNN accuracy (k = 20), pictograms held_out | kNN accuracy (k = 20), photos held_out "
        "| kNN accuracy (k = 5), pictograms held_out |"
    )


def test_no_cell_is_overwritten_in_silence():
    with pytest.raises(InputError, match="combine the seeds"):
        results_table([make_result(seeds=(1,)), make_result(seeds=(2,))])
    with pytest.raises(InputError, match="0 results"):
        results_table([])


def test_results_can_be_read_without_torch():
    import subprocess
    import sys

    code = "from stablerep_hf.evaluation import load_results\nimport sys\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_the_samples_of_a_mean_vary_with_items_and_with_seeds():
    rng = np.random.default_rng(0)
    items = rng.normal(0, 0.02, 4000)
    runs = [
        replace(make_result(value=value), seeds=(seed,), drawn=value + items)
        for seed, value in enumerate((0.40, 0.50, 0.60))
    ]
    (mean,) = combine_seeds(runs)
    # the mean of three seeds that spread by 0.1 is known to 0.1 / sqrt(3)
    assert mean.drawn.std() == pytest.approx((0.02**2 + 0.1**2 / 3) ** 0.5, rel=0.03)
    others = [replace(run, encoder="other", value=run.value - 0.1, drawn=run.drawn - 0.1) for run in runs]
    compared = with_differences([mean, *combine_seeds(others)])
    assert compared[0].settings["minus"]["other"] == pytest.approx([0.1, 0.1, 0.1]), "paired in both"
    assert combine_seeds([runs[0], replace(runs[1], drawn=None)])[0].drawn is None


def test_episodes_are_no_samples_of_a_mean():
    rng = np.random.default_rng(0)
    runs = [
        replace(make_result(value=value), seeds=(seed,), interval=OVER_EPISODES, drawn=value + rng.normal(0, 0.1, 600))
        for seed, value in enumerate((0.5, 0.5, 0.5))
    ]
    (mean,) = combine_seeds(runs)
    assert mean.drawn is None, "their spread is that of one episode, not that of the mean"
    other = combine_seeds([replace(run, encoder="other") for run in runs])
    assert "minus" not in with_differences([mean, *other])[0].settings
