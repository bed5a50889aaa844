"""Put measured numbers into README and docs: every table between markers is generated from a result file.

python scripts/update_tables.py            # rewrite
python scripts/update_tables.py --check    # exit 1 if a page is not what the results say (CI)
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import throughput_on_paper

from stablerep_hf.evaluation import EvaluationResult, load_results, results_table
from stablerep_hf.evaluation.tables import markdown_table
from stablerep_hf.reproduction import verdicts_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "model_cards" / "results"
CLAIMS = ROOT / "model_cards" / "reproduce" / "results.json"
STUDY_OF_PHOTOS = ROOT / "model_cards" / "reproduce_photos"


def scores(name: str) -> str:
    """A table of evaluation results."""
    return results_table(load_results(RESULTS / f"{name}.json"))


def photos() -> str:
    """Scores on real photos: encoders that learned from real ones, and those that learned longest."""
    study: dict[str, Any] = json.loads((STUDY_OF_PHOTOS / "results.json").read_text("utf-8"))
    first, longer = (claim["results"] for claim in study["claims"] if claim["number"] in (1, 7))
    longer = [value for value in longer if value["encoder"].endswith(" 1,024,000 views")]
    results = [EvaluationResult.from_dict(value) for value in first + longer]
    kept = [one for one in results if one.protocol in ("linear_probe", "knn")]
    return results_table([dataclasses.replace(one, variant="") for one in kept])  # the data set says as much


def claims() -> str:
    """The verdicts of the reproduction and the command that made them."""
    study: dict[str, Any] = json.loads(CLAIMS.read_text("utf-8"))
    return f"{verdicts_table(study['claims'])}\n\nMade by `{study['command']}`."


def costs_of_fine_tuning() -> str:
    """What each way of fine-tuning takes."""
    rows = [["fine-tuning", "learning rate", "trained parameters", "seconds", "peak of the process"]]
    for cost in json.loads((RESULTS / "fine_tuning_costs.json").read_text("utf-8")):
        memory = f"{cost['peak_memory'] / 2**20:,.0f} MiB"
        name = f"{cost['mode']}, {cost['shots']} images a class"
        rows.append(
            [name, f"{cost['learning_rate']:g}", f"{cost['trained_parameters']:,}", f"{cost['seconds']:.1f}", memory]
        )
    return markdown_table(rows)


def index() -> str:
    """How fast and how complete the index of many vectors is."""
    found = json.loads((RESULTS / "retrieval_index.json").read_text("utf-8"))
    graph, scan = found["milliseconds a query"], found["milliseconds a query, exact scan"]
    rows = [["vectors", "recall@10", "p50, ms", "p99, ms", "exact scan, p50, ms", "opened in, s", "bytes"]]
    vectors = f"{found['facts']['count']:,} x {found['facts']['dimensions']}"
    times = [f"{value:.2f}" for value in (graph["p50"], graph["p99"], scan["p50"], found["seconds to open"])]
    rows.append([vectors, f"{found['recall@10']:.3f}", *times, f"{found['bytes']:,}"])
    return markdown_table(rows)


def adaptation() -> str:
    """Scores of each adaptation, their differences from the frozen start, and what was measured without labels."""
    facts = json.loads((RESULTS / "adaptation_probes.json").read_text("utf-8"))
    probes = {"sibling_gap": "sibling gap", "rankme": "RankMe", "lidar": "LiDAR"}
    rows = [["encoder", "domain", "less the frozen start", "general", "less the frozen start", *probes.values()]]
    scored: dict[str, list[EvaluationResult]] = {}
    for result in load_results(RESULTS / "adaptation.json"):
        scored.setdefault(result.encoder, []).append(result)
    for name, results in scored.items():
        runs = [run for run in facts["runs"] if run["setting"] == name] or [facts["frozen"]]
        row = [name]
        for result in results:
            minus = result.settings.get("minus", {}).get("frozen start")
            shown = "{:+.1f} [{:.1f}, {:.1f}]".format(*(100 * value for value in minus)) if minus else ""
            row += [f"{100 * result.value:.1f} [{100 * result.low:.1f}, {100 * result.high:.1f}]", shown]
        for probe in probes:
            value = f"{sum(run[probe] for run in runs) / len(runs):.3g}"
            row.append(f"**{value}**" if facts["chosen"][probe] == name else value)
        rows.append(row)
    for side in ("domain", "general"):
        ranks = [f"{facts['rank_correlations'][probe][side]:.2f}" for probe in probes]
        rows.append([f"rank correlation, {side}", "", "", "", "", *ranks])
    return markdown_table(rows)


def breaking() -> str:
    """What was tried to break it, and how often it survived."""
    rows = [["command", "kind", "tried", "survived"]]
    for run in json.loads((RESULTS / "breaking.json").read_text("utf-8")).values():
        for kind, of in run["kinds"].items():
            rows.append([f"`{run['command']}`", kind, f"{of['tried']:,}", f"{of['survived']:,}"])
    return markdown_table(rows)


def many_captions() -> str:
    """What preparing captions takes on one machine."""
    rows = [["captions", "step", "CPU seconds", "peak memory, GiB", "captions left"]]
    for of in json.loads((RESULTS / "captions.json").read_text("utf-8")):
        seconds, memory = f"{of['cpu_seconds']:,.0f}", f"{of['peak_gib']:.1f}"
        rows.append([f"{of['captions']:,}", of["step"], seconds, memory, f"{of['left']:,}"])
    return markdown_table(rows)


TABLES: dict[str, Callable[[], str]] = {
    "index": index,
    "photos": photos,
    "demo": lambda: scores("demo"),
    "claims": claims,
    "fine_tuning": lambda: scores("fine_tuning"),
    "fine_tuning_costs": costs_of_fine_tuning,
    "artist": lambda: scores("artist"),
    "adaptation": adaptation,
    "breaking": breaking,
    "many_captions": many_captions,
    "throughput": throughput_on_paper.table,
}


PAGES = [ROOT / "README.md", *sorted((ROOT / "spaces" / "docs").rglob("*.md"))]


def updated(text: str) -> tuple[str, set[str]]:
    """A page with every table made anew, and the names of its tables.

    Raises:
        KeyError: A marker names no table.
    """
    names = set(re.findall(r"<!-- results: (\w+) -->\n", text))
    for name in names:
        pattern = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end of results -->)", re.DOTALL)
        table = TABLES[name]().strip()
        text = pattern.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text)
    return text, names


def main() -> int:
    """Rewrite or check."""
    shown: set[str] = set()
    stale = []
    for page in PAGES:
        before = page.read_text("utf-8")
        after, names = updated(before)
        shown |= names
        if before != after:
            stale.append(page)
            if "--check" not in sys.argv[1:]:
                page.write_text(after, "utf-8")
    if missing := TABLES.keys() - shown:
        print(f"No page shows the results {', '.join(sorted(missing))}.", file=sys.stderr)
        return 1
    return int("--check" in sys.argv[1:] and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
