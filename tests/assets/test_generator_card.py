"""The card of the embedded generator says what was measured."""

import json
import re
from pathlib import Path

from embedded_generator import report

from stablerep_hf import assets

ROOT = Path(__file__).parents[2]


def test_the_cards_say_what_the_results_say():
    results = json.loads((ROOT / report.CARD / "results.json").read_text("utf-8"))
    for folder, with_pictures in ((ROOT / report.CARD, True), (assets.generator_path(), False)):
        card = (folder / "README.md").read_text("utf-8")
        assert card == report.render_card(results, with_pictures=with_pictures), (
            "scripts/measure_embedded_generator.py"
        )


def test_no_number_is_typed():
    prose = re.sub(r"\{[^}]*\}", "", report.BODY)
    assert set(re.findall(r"\b\d+(?:\.\d+)?", prose)) == {
        "4.0",
        "2.0",
        "1",
        "5",
        "0",
    }  # licences, artists, R@1, R@5, [0]
