"""The search page as a Space. What it shows is told by `config.yaml` and, above it, by environment variables."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gradio as gr

# In a clone the package lies two folders up; in a Space `stablerep publish space` has put it beside this file.
sys.path[:0] = [str(place) for place in (Path(__file__).parent, Path(__file__).resolve().parents[2])]

from stablerep_hf import space  # noqa: E402

SETTINGS = space.read_settings(Path(__file__).with_name("config.yaml"), os.environ)


def build_demo() -> gr.Blocks:
    """The page, ready to be launched with `stablerep_hf.space.launch`."""
    return space.build_demo(SETTINGS)


if __name__ == "__main__":
    space.launch(build_demo(), SETTINGS)
