"""The report: from records to verdicts, tables, plots and JSON."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..evaluation import EvaluationResult, combine_seeds
from ..evaluation.tables import markdown_table, percent
from ..files.atomic import write_file
from .cells import Cell, ImageSet
from .claims import Claim
from .figures import name_of
from .plots import plot_claim
from .records import Records, unpack_results
from .verdicts import CORRECTION, RULE, Judged, JudgedClaim, Measured, judge, summary
from .world import World

Key = Callable[[Cell | ImageSet], str]
_OF_DIFFERENCES = ("measure", "mean", "low", "high", "values", "verdict")


@dataclass(frozen=True)
class Study:
    """Claims, and what was recorded of them.

    Attributes:
        claims: some of `make_claims(world)`.
        world: of the study.
        records: what was measured.
        key: cell or image set -> the name of its record.
    """

    claims: Sequence[Claim]
    world: World
    records: Records
    key: Key

    @cached_property
    def measured(self) -> Measured:
        """Setting -> seed -> measure -> result, as far as there are records."""
        found: dict[Any, dict[int, dict[str, EvaluationResult]]] = {}
        for setting in dict.fromkeys(one for claim in self.claims for one in claim.settings.values()):
            for seed in range(self.world.scale.seeds if setting.has_seeds else 1):
                key = self.key(Cell(setting=setting, seed=seed))
                if key in self.records:
                    found.setdefault(setting, {})[seed] = unpack_results(self.records[key], setting.objective)
        return found

    @cached_property
    def judged(self) -> tuple[JudgedClaim, ...]:
        """The claims with their verdicts."""
        return tuple(judge(claim, self.measured, self.world.scale.seeds) for claim in self.claims)

    def combined(self, claim: Claim) -> dict[str, dict[str, EvaluationResult]]:
        """Label -> measure -> the mean over seeds with its interval; of a single seed its own."""
        rows: dict[str, dict[str, EvaluationResult]] = {}
        for label, setting in claim.settings.items():
            runs = [
                [dataclasses.replace(result, encoder=label) for result in by_measure.values()]
                for _, by_measure in sorted(self.measured.get(setting, {}).items())
            ]
            if not runs:
                continue
            results = combine_seeds([one for run in runs for one in run]) if len(runs) > 1 else runs[0]
            # measures keep their order in all runs
            rows[label] = dict(zip(self.measured[setting][min(self.measured[setting])], results, strict=True))
        return rows

    def images(self, claim: Claim) -> dict[ImageSet, dict[str, Any]]:
        """What the images of a claim are like, as far as that was recorded."""
        keys = {images: self.key(images) for images in claim.described_images}
        return {images: self.records[key] for images, key in keys.items() if key in self.records}


def write_study(study: Study, output: str | Path, command: str) -> Path:
    """Write `report.md`, `results.json` and a plot for each claim that has something to show.

    Args:
        study: claims and records.
        output: folder; made if it is not there, files of an earlier report are replaced.
        command: what made it, for the report.

    Returns:
        The path of `report.md`.
    """
    folder = Path(output)
    world = study.world
    entries = [_claim_json(study, judged) for judged in study.judged]
    sections = [
        f"# The paper's claims, in small: {world.name}",
        f"Made by `{command}`. {_setting_words(world)}",
        verdicts_table(entries),
        "## How it was judged",
        RULE,
        CORRECTION,
        f"Read it with care. {world.limits} {_LIMITS}".replace("  ", " "),
    ]
    for judged in study.judged:
        sections += _claim_sections(study, judged)
        if (plot := plot_claim(judged.claim, study.combined(judged.claim), study.images(judged.claim))) is not None:
            name = f"claim-{judged.claim.number}.png"
            write_file(folder / name, plot)
            sections.append(f"![{judged.claim.title}]({name})")
    without_labels = correlations(study)
    sections += _label_free_sections(without_labels)
    sections.append(_cost(study))
    sections.append(
        "All numbers are in [results.json](results.json), each training run in [records.jsonl](records.jsonl)."
    )
    contents = {
        "command": command,
        "scale": dataclasses.asdict(world.scale),
        "claims": entries,
        "label_free": without_labels,
    }
    text = json.dumps(contents, indent=2, ensure_ascii=False)
    write_file(folder / "results.json", f"{text}\n".encode())
    path = folder / "report.md"
    write_file(path, ("\n\n".join(sections) + "\n").encode())
    return path


def correlations(study: Study) -> list[dict[str, Any]]:
    """How well what is measured without labels ranks the training runs by each of the world's main measures.

    Returns:
        For each probe and measure Spearman's rank correlation over all runs, and its mean over the objectives with
        five runs or more, of the runs of each: "probe", "measure", "runs", "all", "within".
    """
    from scipy.stats import spearmanr

    runs: list[tuple[str, dict[str, float], Mapping[str, EvaluationResult]]] = []
    for setting, seeds in study.measured.items():
        for seed, results in seeds.items():
            record = study.records[study.key(Cell(setting=setting, seed=seed))]
            if setting.images is not None and "label_free" in record:
                runs.append((setting.objective, record["label_free"], results))
    found = []
    for probe, measure in itertools.product(runs[0][1] if len(runs) > 4 else (), study.world.main):
        of: dict[str, list[tuple[float, float]]] = {}
        for objective, probes, results in runs:
            of.setdefault(objective, []).append((probes[probe], results[measure].value))
        every = [pair for pairs in of.values() for pair in pairs]
        within = [float(spearmanr(*zip(*pairs, strict=True)).statistic) for pairs in of.values() if len(pairs) > 4]
        found.append(
            {
                "probe": probe,
                "measure": measure,
                "runs": len(every),
                "all": float(spearmanr(*zip(*every, strict=True)).statistic),
                "within": sum(within) / len(within) if within else None,
            }
        )
    return found


def _label_free_sections(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    measures = list(dict.fromkeys(one["measure"] for one in found))
    rows = [["without labels", *map(name_of, measures)]]
    for probe in dict.fromkeys(one["probe"] for one in found):
        cells = [
            f"{one['all']:.2f}" + ("" if one["within"] is None else f" ({one['within']:.2f})")
            for one in found
            if one["probe"] == probe
        ]
        rows.append([{"sibling_gap": "sibling gap", "rankme": "RankMe", "lidar": "LiDAR"}[probe], *cells])
    return [
        "## Choosing without labels",
        f"Spearman's rank correlation of three measures that need no labels with those that do, over "
        f"{found[0]['runs']} training runs; in brackets the mean over objectives, of the runs of each.",
        markdown_table(rows),
    ]


def verdicts_table(claims: Sequence[Mapping[str, Any]]) -> str:
    """The claims of `results.json` in a table: what is said, and what came of it here."""
    rows = [["claim", "verdict", "statements"]]
    for claim in claims:
        name, progress = f"{claim['number']}. {claim['title']}", f"{claim['seeds']} of {claim['planned']} seeds"
        if not any(len(one["seeds"]) > 1 for one in claim["statements"]):
            rows.append([name, f"not judged yet ({progress})", ""])
            continue
        by_verdict = (
            f"*{verdict}*: " + "; ".join(one["text"] for one in claim["statements"] if one["verdict"] == verdict)
            for verdict in ("agrees", "disagrees", "undecided")
            if any(one["verdict"] == verdict for one in claim["statements"])
        )
        incomplete = "" if claim["complete"] else f" (incomplete: {progress})"
        rows.append([name, f"**{claim['verdict']}**{incomplete}", ". ".join(by_verdict)])
    return markdown_table(rows, align_right=False)


_LIMITS = (
    "A disagreement says that the paper's effect does not show here, not that it is not there. Hyper-parameters were "
    "chosen before, and not anew for a claim."
)


def _setting_words(world: World) -> str:
    scale = world.scale
    return (
        f"Every encoder is {world.about} that saw {scale.steps:,} batches of {scale.views} views "
        f"({scale.steps * scale.views:,} in all, of single images two of each) where nothing else is said; "
        f"{scale.seeds} seeds of each setting; the largest image set has {scale.captions:,} captions."
    )


def _claim_sections(study: Study, judged: JudgedClaim) -> list[str]:
    claim = judged.claim
    sections = [f"## {claim.number}. {claim.title}", claim.source, f"Here: {summary(judged)}."]
    if claim.note:
        sections.append(claim.note)
    sections.append(_statements_table(judged))
    if combined := study.combined(claim):
        rows = [["encoder", *map(name_of, claim.measures)]]
        for label, results in combined.items():
            rows.append([label, *(_score(results.get(measure)) for measure in claim.measures)])
        sections += [markdown_table(rows), _scores_note(claim, combined)]
    if described := study.images(claim):
        rows = [["images", "alignment", "diversity of siblings"]]
        for images, record in described.items():
            label = "; ".join(label for label, setting in claim.settings.items() if setting.images == images)
            rows.append([label, *(_plain(record[name]) for name in ("alignment", "diversity"))])
        sections += [
            markdown_table(rows),
            "Alignment: mean cosine of image and caption for a StableRep+ that learned from the real images. "
            "Diversity: Vendi score of the images of a caption in its features, 1 if they are all "
            "alike. Intervals: bootstrap over captions.",
        ]
    return sections


def _statements_table(judged: JudgedClaim) -> str:
    measures = list(dict.fromkeys(measure for one in judged.statements for measure in one.statement.measures))
    rows = [["statement", *map(name_of, measures), "verdict"]]
    for one in judged.statements:
        found = {difference.measure: difference for difference in one.differences}
        shown = {
            measure: f"{100 * part.mean:+.1f} [{percent(part.low)}, {percent(part.high)}]"
            for measure, part in found.items()
        }
        cells = [shown.get(measure, "") for measure in measures]
        rows.append([one.statement.text, *cells, _statement_verdict(judged, one)])
    note = "Differences in percentage points, above 0 for the statement, with the intervals that judge it."
    return f"{markdown_table(rows)}\n\n{note}"


def _statement_verdict(claim: JudgedClaim, judged: Judged) -> str:
    if not judged.differences:
        return f"undecided ({len(judged.seeds)} seeds so far)"
    alone = judged.verdict == "disagrees" and not claim.falls_by(judged)
    return "disagrees, but not at the claim's level" if alone else judged.verdict


def _score(result: EvaluationResult | None) -> str:
    return "" if result is None else f"{percent(result.value)} [{percent(result.low)}, {percent(result.high)}]"


def _scores_note(claim: Claim, combined: Mapping[str, Mapping[str, EvaluationResult]]) -> str:
    shown = [
        (measure, results[measure])
        for results in combined.values()
        for measure in claim.measures
        if measure in results
    ]
    intervals = sorted({result.interval for _, result in shown})
    data = dict.fromkeys(f"{result.dataset}, revision `{result.revision}`" for _, result in shown)
    chance = {name_of(measure): result.chance for measure, result in shown if result.chance is not None}
    words = f" Chance: {', '.join(f'{name} {percent(value)}' for name, value in chance.items())}." if chance else ""
    return f"Per cent, 95 % intervals ({' or, of a single run, '.join(intervals)}); {'; '.join(data)}.{words}"


def _plain(values: Mapping[str, float]) -> str:
    return f"{values['value']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"


def _cost(study: Study) -> str:
    keys = [study.key(Cell(setting=setting, seed=seed)) for setting, seeds in study.measured.items() for seed in seeds]
    hours = sum(study.records[key]["cpu_seconds"] for key in keys) / 3600
    return f"{len(keys):,} runs stand behind it, {hours:.1f} hours of one CPU core, drawing included."


def _claim_json(study: Study, judged: JudgedClaim) -> dict[str, Any]:
    return {
        "number": judged.claim.number,
        "title": judged.claim.title,
        **{name: getattr(judged, name) for name in ("verdict", "seeds", "planned", "complete")},
        "statements": [
            {
                "text": one.statement.text,
                "verdict": one.verdict,
                "seeds": one.seeds,
                "differences": [{name: getattr(part, name) for name in _OF_DIFFERENCES} for part in one.differences],
            }
            for one in judged.statements
        ],
        "results": [
            results[measure].to_dict()
            for results in study.combined(judged.claim).values()
            for measure in judged.claim.measures
            if measure in results
        ],
        "images": list(study.images(judged.claim).values()),
    }
