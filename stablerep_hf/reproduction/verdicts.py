"""From scores to a verdict, by a rule that was fixed before there was a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..evaluation import EvaluationResult, seed_interval
from .cells import Setting
from .claims import Claim, Statement

Verdict = Literal["agrees", "disagrees", "undecided"]
CONFIDENCE = 0.95
# setting -> seed -> measure -> what was measured
Measured = Mapping[Setting, Mapping[int, Mapping[str, EvaluationResult]]]

RULE = """\
A statement is a difference of scores (or of differences). It is taken seed by seed, since the trainings of one seed
start from the same weights and see captions in the same order, and gets Student's t interval over the seeds on each
of its measures, wide enough that all of them together hold with 95 % (Bonferroni). A statement **agrees** if on some
measure the whole interval lies on the claimed side of 0, and on none on the other; it **disagrees** if it is the other
way round; else it is **undecided**. A claim agrees if all of its statements do, disagrees as soon as one does, and is
undecided otherwise. Intervals are over trainings; each image set was drawn once."""


@dataclass(frozen=True)
class Difference:
    """A statement on one measure; shares in [-1, 1], above 0 is what is claimed."""

    measure: str
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def verdict(self) -> Verdict:
        """Where the interval lies."""
        return "agrees" if self.low > 0 else "disagrees" if self.high < 0 else "undecided"


@dataclass(frozen=True)
class Judged:
    """A statement and what came of it.

    Attributes:
        statement: the statement.
        differences: on each measure; none while fewer than two seeds are there.
        seeds: that all of its settings were trained with.
    """

    statement: Statement
    differences: tuple[Difference, ...]
    seeds: tuple[int, ...]

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        found = {difference.verdict for difference in self.differences}
        if "agrees" in found and "disagrees" not in found:
            return "agrees"
        if "disagrees" in found and "agrees" not in found:
            return "disagrees"
        return "undecided"


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what came of it; `planned` are the seeds that a complete run has."""

    claim: Claim
    statements: tuple[Judged, ...]
    planned: int

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        found = [judged.verdict for judged in self.statements]
        if "disagrees" in found:
            return "disagrees"
        return "agrees" if set(found) == {"agrees"} else "undecided"

    @property
    def seeds(self) -> int:
        """The fewest that any statement rests on."""
        return min(len(judged.seeds) for judged in self.statements)

    @property
    def complete(self) -> bool:
        """Whether every training of it was run."""
        return self.seeds >= self.planned


def judge(claim: Claim, measured: Measured, planned: int) -> JudgedClaim:
    """Judge a claim by what was measured so far."""
    return JudgedClaim(claim, tuple(judge_statement(one, measured) for one in claim.statements), planned)


def judge_statement(statement: Statement, measured: Measured) -> Judged:
    """Judge a statement by the seeds that all of its settings have."""
    settings = [setting for _, setting in statement.terms]
    seeds = sorted(set.intersection(*(set(measured.get(setting, {})) for setting in settings)))
    differences: list[Difference] = []
    if len(seeds) > 1:
        confidence = 1 - (1 - CONFIDENCE) / len(statement.measures)
        for measure in statement.measures:
            values = [
                sum(coefficient * measured[setting][seed][measure].value for coefficient, setting in statement.terms)
                for seed in seeds
            ]
            differences.append(Difference(measure, tuple(values), *seed_interval(values, confidence=confidence)))
    return Judged(statement, tuple(differences), tuple(seeds))


def summary(judged: JudgedClaim) -> str:
    """The verdict in a few words, and how far to trust that it stays."""
    counts: Sequence[tuple[Verdict, int]] = [
        (verdict, sum(one.verdict == verdict for one in judged.statements))
        for verdict in ("agrees", "disagrees", "undecided")
    ]
    parts = ", ".join(f"{count} {verdict}" for verdict, count in counts if count)
    incomplete = "" if judged.complete else f"; incomplete, {judged.seeds} of {judged.planned} seeds"
    return f"**{judged.verdict}** ({parts}{incomplete})"
