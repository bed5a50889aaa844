"""`stablerep demo`: captions to images to encoders to scores, with what ships in the package."""

from __future__ import annotations

from collections.abc import Sequence

from ..runs.demo import DemoSettings, beside_shipped, run_demo
from .generate import loading_line
from .parsing import Command

COMMAND = Command(
    "demo",
    "Draw images of captions, train on them, measure on real pictograms. Started again, it goes on.",
    [DemoSettings],
)


def main(argv: Sequence[str]) -> None:
    """Parse, run, print the scores and how to load what was made."""
    (settings,) = COMMAND.parse(argv)
    from ..evaluation import results_table

    demo = run_demo(settings)
    print(f"""
{results_table(demo.results)}
data set   {demo.dataset}
encoders   {demo.encoders["StableRep"].parent}
report     {demo.report}
{beside_shipped(demo.results)}

from datasets import load_dataset; from transformers import AutoModel
dataset = {loading_line(str(demo.dataset)).removeprefix("datasets.")}
encoder = AutoModel.from_pretrained({str(demo.encoders["StableRep"])!r})""")
