"""`stablerep demo-app`: the search page on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from ..errors import InputError


@dataclass
class ServingCommand:
    """Flags of `stablerep demo-app`, beside the settings of the page."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen at; 0.0.0.0 for all of this machine."})
    port: int = field(default=7860, metadata={"help": "The port, or the first free one of the hundred from there."})
    open_browser: bool = field(default=False, metadata={"help": "Open the page in a browser."})


def main(argv: Sequence[str]) -> None:
    """Parse, load, serve until interrupted."""
    if missing := [name for name in ("gradio", "limits", "usearch") if find_spec(name) is None]:
        raise InputError(f"The page needs {missing[0]}, which is not installed: pip install 'stablerep_hf[space]'.")
    from ..space import SpaceSettings, build_demo, launch
    from .parsing import parse_command

    settings, command = parse_command(
        [SpaceSettings, ServingCommand],
        argv,
        name="demo-app",
        description="Serve the search page: pictures found by picture or words, two encoders compared, a map, and "
        "what the guidance scale does. With no flags it shows what ships in the package, offline.",
    )
    launch(
        build_demo(settings),
        settings,
        server_name=command.host,
        server_port=command.port,
        inbrowser=command.open_browser,
    )
