"""The search page as a Space. `config.yaml` says what it shows; environment variables override it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import gradio as gr

# In a Space the package lies beside this file, where `stablerep publish space` puts it; in a clone two folders up.
for place in Path(__file__).resolve().parents:
    if (place / "stablerep_hf").is_dir():
        sys.path.insert(0, str(place))
        break

from stablerep_hf import space  # noqa: E402

SETTINGS = space.read_settings(Path(__file__).with_name("config.yaml"), os.environ)


def build_demo() -> gr.Blocks:
    """The page, to be served by `stablerep_hf.space.launch`."""
    return space.build_demo(SETTINGS)


if __name__ == "__main__":
    space.launch(build_demo(), SETTINGS)
