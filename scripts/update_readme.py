"""Put measured numbers into the README: every table between markers is generated from a result file.

python scripts/update_readme.py            # rewrite
python scripts/update_readme.py --check    # exit 1 if the README is not what the results say (CI)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stablerep_hf.evaluation import load_results, results_table
from stablerep_hf.evaluation.tables import markdown_table
from stablerep_hf.reproduction import verdicts_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "model_cards" / "results"
CLAIMS = ROOT / "model_cards" / "reproduce" / "results.json"


def scores(name: str) -> str:
    """A table of evaluation results."""
    return results_table(load_results(RESULTS / f"{name}.json"))


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


TABLES: dict[str, Callable[[], str]] = {
    "index": index,
    "demo": lambda: scores("demo"),
    "claims": claims,
    "fine_tuning": lambda: scores("fine_tuning"),
    "fine_tuning_costs": costs_of_fine_tuning,
    "artist": lambda: scores("artist"),
}


def updated(text: str) -> str:
    """The README with every table made anew.

    Raises:
        ValueError: A marker is missing.
    """
    for name, make in TABLES.items():
        pattern = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end of results -->)", re.DOTALL)
        table = make()
        text, count = pattern.subn(lambda found, table=table: f"{found[1]}{table.strip()}\n{found[2]}", text)
        if count != 1:
            raise ValueError(f"README.md has {count} places for the results {name!r}, not one")
    return text


def main() -> int:
    """Rewrite or check."""
    readme = ROOT / "README.md"
    before = readme.read_text("utf-8")
    after = updated(before)
    if "--check" in sys.argv[1:]:
        return int(before != after)
    readme.write_text(after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
