import dataclasses

import numpy as np
import pytest
from scipy import stats
from study_data import measured, result

from stablerep_hf.reproduction import Claim, Scale, Setting, judge
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


def test_a_claim_falls_at_the_level_that_its_statements_share():
    """A difference that is significant among three measures, and not among those of four statements."""
    scores = measured({ONE: [0.5, 0.5, 0.5, 0.5, 0.5], OTHER: [0.525, 0.51, 0.518, 0.508, 0.52]}, MAIN)
    alone = judge(claim(STATEMENT), scores, 5)
    among = judge(claim(*[STATEMENT] * 8), scores, 5)
    assert alone.verdict == "disagrees"
    assert {judged.verdict for judged in among.statements} == {"disagrees"}, "each at its own level"
    assert among.verdict == "undecided"
    clear = measured({ONE: [0.1, 0.11, 0.1, 0.12, 0.1], OTHER: [0.5, 0.5, 0.5, 0.5, 0.5]}, MAIN)
    assert judge(claim(*[STATEMENT] * 8), clear, 5).verdict == "disagrees"


def test_without_an_effect_a_claim_seldom_disagrees_however_many_its_statements():
    """One statement too many in the family, and one study in seven would disagree."""
    generator = np.random.default_rng(0)
    others = [SCALE.train("simclr", 8 * place, 4) for place in range(1, 7)]
    statements = [better(str(place), ONE, other) for place, other in enumerate(others)]
    fell = 0
    for _ in range(150):
        scores = measured({ONE: [0.5] * 5}, MAIN)
        for other in others:
            scores[other] = {
                seed: {name: result(name, 0.5 + value, seed) for name, value in zip(MAIN, values, strict=True)}
                for seed, values in enumerate(generator.normal(0, 0.01, (5, len(MAIN))))
            }
        fell += judge(claim(*statements), scores, 5).verdict == "disagrees"
    assert fell <= 0.05 * 150


def test_a_setting_of_the_table_alone_counts_for_completeness_too():
    scores = measured({ONE: [0.5, 0.51, 0.52], OTHER: [0.4, 0.41, 0.42]}, MAIN)
    shown = SCALE.train("stablerep", 656, 4)
    wider = dataclasses.replace(claim(STATEMENT), settings={"one": ONE, "other": OTHER, "shown": shown})
    judged = judge(wider, scores, 3)
    assert (judged.verdict, judged.seeds, judged.complete) == ("agrees", 0, False)
    assert "incomplete, 0 of 3 seeds" in summary(judged)
    assert judge(wider, {**scores, shown: scores[ONE]}, 3).complete
    pixels = dataclasses.replace(wider, settings={**claim().settings, "pixels": Setting(objective="pixels")})
    found = {**scores, Setting(objective="pixels"): {0: scores[ONE][0]}}
    assert judge(pixels, found, 3).complete, "it has no seeds"


def test_an_unfinished_run_says_so():
    scores = measured({ONE: [0.5, 0.51], OTHER: [0.4, 0.41]}, MAIN)
    assert "incomplete, 2 of 5 seeds" in summary(judge(claim(STATEMENT), scores, 5))
    assert "incomplete" not in summary(judge(claim(STATEMENT), scores, 2))
