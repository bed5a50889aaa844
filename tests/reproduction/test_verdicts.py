import numpy as np
import pytest
from scipy import stats
from study_data import measured, result

from stablerep_hf.reproduction import Claim, Scale, judge
from stablerep_hf.reproduction.claims import MAIN, Statement, better
from stablerep_hf.reproduction.verdicts import judge_statement, summary

SCALE = Scale()
ONE, OTHER = SCALE.train("stablerep", 328, 4), SCALE.train("simclr", 328, 4)
STATEMENT = better("one above the other", ONE, OTHER)


def claim(*statements):
    return Claim(number=1, title="", source="", settings={"one": ONE, "other": OTHER}, statements=statements)


@pytest.mark.parametrize(
    ("one", "verdict"),
    [([0.52, 0.521, 0.519], "agrees"), ([0.48, 0.481, 0.479], "disagrees"), ([0.6, 0.4, 0.52], "undecided")],
)
def test_an_interval_on_one_side_of_zero_decides(one, verdict):
    assert judge_statement(STATEMENT, measured({ONE: one, OTHER: [0.5, 0.5, 0.5]}, MAIN)).verdict == verdict


def test_seeds_are_paired_and_the_measures_share_one_level():
    """Seeds differ much, the difference little: only a paired interval sees it. It is scipy's, at 1 - 0.05 / 3."""
    one, other = [0.31, 0.52, 0.71, 0.42], [0.30, 0.50, 0.70, 0.40]
    judged = judge_statement(STATEMENT, measured({ONE: one, OTHER: other}, MAIN))
    differences = np.subtract(one, other)
    low, high = stats.t.interval(
        1 - 0.05 / 3, 3, loc=differences.mean(), scale=differences.std(ddof=1) / np.sqrt(len(differences))
    )
    found = judged.differences[0]
    assert found.low == pytest.approx(low)
    assert found.high == pytest.approx(high)
    assert found.mean == pytest.approx(0.015)


def test_measures_that_contradict_each_other_decide_nothing():
    scores = measured({ONE: [0.5, 0.51, 0.5], OTHER: [0.4, 0.4, 0.41]}, MAIN)
    for seed in range(3):
        scores[ONE][seed][MAIN[0]] = result(MAIN[0], 0.1 + 0.01 * seed, seed)
    judged = judge_statement(STATEMENT, scores)
    assert {difference.verdict for difference in judged.differences} == {"agrees", "disagrees"}
    assert judged.verdict == "undecided"


def test_only_seeds_that_all_settings_have_count():
    judged = judge_statement(STATEMENT, measured({ONE: [0.5, 0.6, 0.7], OTHER: [0.4, 0.5]}, MAIN))
    assert judged.seeds == (0, 1)
    assert judge_statement(STATEMENT, measured({ONE: [0.5], OTHER: [0.4]}, MAIN)).verdict == "undecided"
    assert judge_statement(STATEMENT, {}).seeds == ()


def test_a_difference_of_differences_is_one_number():
    third, fourth = SCALE.train("clip", 328, 4), SCALE.train("stablerep+", 328, 4)
    statement = Statement(text="", terms=((1.0, ONE), (-1.0, OTHER), (-1.0, third), (1.0, fourth)))
    scores = {ONE: [0.5, 0.6], OTHER: [0.3, 0.3], third: [0.2, 0.2], fourth: [0.1, 0.1]}
    assert judge_statement(statement, measured(scores, MAIN)).differences[0].values == pytest.approx((0.1, 0.2))


def test_a_claim_needs_all_and_falls_by_one():
    good = measured({ONE: [0.5, 0.51, 0.52], OTHER: [0.4, 0.41, 0.42]}, MAIN)
    reverse = better("the other above the one", OTHER, ONE)
    unknown = better("nobody trained this", ONE, SCALE.train("clip", 328, 4))
    assert judge(claim(STATEMENT), good, 3).verdict == "agrees"
    assert judge(claim(STATEMENT, reverse), good, 3).verdict == "disagrees"
    assert judge(claim(STATEMENT, unknown), good, 3).verdict == "undecided"


def test_an_unfinished_run_says_so():
    scores = measured({ONE: [0.5, 0.51], OTHER: [0.4, 0.41]}, MAIN)
    assert "incomplete, 2 of 5 seeds" in summary(judge(claim(STATEMENT), scores, 5))
    assert "incomplete" not in summary(judge(claim(STATEMENT), scores, 2))
