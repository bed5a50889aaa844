"""Put measured numbers into the README: every table between markers is generated from a result file.

python scripts/update_readme.py            # rewrite
python scripts/update_readme.py --check    # exit 1 if the README is not what the results say (CI)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from stablerep_hf.evaluation import load_results, results_table
from stablerep_hf.reproduction import verdicts_table

ROOT = Path(__file__).parents[1]
CARDS = ROOT / "model_cards"


def tables() -> dict[str, str]:
    """Marker -> table."""
    claims = json.loads((CARDS / "reproduce" / "results.json").read_text("utf-8"))["claims"]
    return {"demo": results_table(load_results(CARDS / "results" / "demo.json")), "claims": verdicts_table(claims)}


def updated(text: str) -> str:
    """The README with every table made anew.

    Raises:
        ValueError: A marker is missing.
    """
    for name, table in tables().items():
        pattern = re.compile(rf"(<!-- results: {name} -->\n).*?(<!-- end of results -->)", re.DOTALL)
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
