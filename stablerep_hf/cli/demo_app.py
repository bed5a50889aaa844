"""`stablerep demo-app`: the search page on this machine."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..setting import setting
from ..space.settings import SpaceSettings
from .parsing import Command


@dataclass
class ServingCommand:
    """Flags of `stablerep demo-app`, beside the settings of the page."""

    host: str = setting("127.0.0.1", "Address to listen at; 0.0.0.0 for all of this machine.")
    port: int | None = setting(
        None, "The port, 0 for any free one; the first free one of the hundred from 7860 if not given."
    )
    open_browser: bool = setting(False, "Open the page in a browser.")


COMMAND = Command(
    "demo-app",
    "Serve the search page: pictures found by picture or words, two encoders compared, a map, and what the guidance "
    "scale does. With no flags it shows what ships in the package, offline.",
    [ServingCommand, SpaceSettings],
    titles=("serving", "the page"),
)


def main(argv: Sequence[str]) -> None:
    """Parse, load, serve until interrupted."""
    from ..extras import require

    command, settings = COMMAND.parse(argv)
    require("The page", "space", "gradio", "limits", "usearch")
    from ..space import build_demo, launch

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # a log file has the address at once
    page = build_demo(settings)
    try:
        launch(page, settings, server_name=command.host, server_port=command.port, inbrowser=command.open_browser)
    except (OSError, OverflowError) as error:  # Gradio's own sentence names flags of its own
        where = command.host if command.port is None else f"{command.host}:{command.port}"
        raise InputError(
            f"The page cannot listen at {where}, which is taken or not an address of this machine: give another "
            "--port or --host, or none for the first free port."
        ) from error
