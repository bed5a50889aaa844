"""From scores to a verdict, by a rule that was fixed before there was a score, except for `CORRECTION`."""

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
A statement is a difference of scores (or of differences). It is taken seed by seed, since the training runs of one
seed start from the same weights and, where they draw batches from as many captions, see them in the same order (SimCLR
draws images), and gets Student's t interval over the seeds on each of its measures, wide enough that all of them
together hold with 95 % (Bonferroni). A statement **agrees** if on some measure the whole interval lies on the claimed
side of 0, and on none on the other; it **disagrees** if it is the other way round; else it is **undecided**. A claim
agrees if all of its statements do. It disagrees if one of its statements does, and does so still by intervals wide
enough that those of all statements of the claim together hold with 95 %. Otherwise it is undecided. Intervals are
over training runs; each image set was drawn once."""

CORRECTION = """\
That last level was corrected after the first results had been seen. The rule that was fixed before there was a score
let a claim disagree as soon as one statement did at its own level, so that of studies without any effect one in seven
would have found that a claim of six statements disagrees. By that rule claims 2 and 3 disagreed in the first results;
by this one they are undecided. The verdicts of statements are what they were."""


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
        return _verdict(self.low, self.high)


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
        """By the rule, at its own level."""
        return self.verdict_among(1)

    def verdict_among(self, statements: int) -> Verdict:
        """By intervals that hold together with those of so many statements of as many measures."""
        confidence = 1 - (1 - CONFIDENCE) / (len(self.statement.measures) * statements)
        found = {_verdict(*seed_interval(one.values, confidence=confidence)) for one in self.differences}
        if "agrees" in found and "disagrees" not in found:
            return "agrees"
        if "disagrees" in found and "agrees" not in found:
            return "disagrees"
        return "undecided"


@dataclass(frozen=True)
class JudgedClaim:
    """A claim and what came of it.

    Attributes:
        claim: the claim.
        statements: with their own verdicts.
        seeds: the fewest that any of its settings was trained with.
        planned: the seeds that a complete run has.
    """

    claim: Claim
    statements: tuple[Judged, ...]
    seeds: int
    planned: int

    @property
    def verdict(self) -> Verdict:
        """By the rule."""
        if any(self.falls_by(judged) for judged in self.statements):
            return "disagrees"
        return "agrees" if all(judged.verdict == "agrees" for judged in self.statements) else "undecided"

    def falls_by(self, judged: Judged) -> bool:
        """Whether a statement disagrees, and does so still at the level that all of them share."""
        return judged.verdict == judged.verdict_among(len(self.statements)) == "disagrees"

    @property
    def complete(self) -> bool:
        """Whether all its training runs were done."""
        return self.seeds >= self.planned


def judge(claim: Claim, measured: Measured, planned: int) -> JudgedClaim:
    """Judge a claim by what was measured so far."""
    statements = tuple(judge_statement(one, measured) for one in claim.statements)
    trained = [
        len(measured.get(setting, {})) * (1 if setting.has_seeds else planned) for setting in claim.settings.values()
    ]
    return JudgedClaim(claim, statements, min(*trained, *(len(one.seeds) for one in statements)), planned)


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


def _verdict(low: float, high: float) -> Verdict:
    return "agrees" if low > 0 else "disagrees" if high < 0 else "undecided"
