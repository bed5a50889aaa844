"""The command `stablerep`: one file a command, each loaded only when it is called, so that `--help` is instant."""

from __future__ import annotations

import difflib
import errno
import importlib
import io
import logging
import os
import select
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import InputError
from .wording import in_flags

COMMANDS = {
    "demo": "captions to images to encoder to scores, with what ships in the package",
    "captions": "clean, balance, audit or write captions",
    "adapt-generator": "teach a text-to-image pipeline your domain from a few captioned images",
    "generate": "draw several images of each caption into a data set",
    "retrieve": "write the real images nearest to each caption into a data set",
    "verify": "check a data set's files, rows and images, and repair them",
    "show": "say how an image came to be",
    "regenerate": "draw one image of a data set again and compare",
    "score": "measure alignment, nsfw and diversity of a data set",
    "compare": "speed, alignment and diversity of several data sets",
    "export": "large parquet shards for the Hub, or WebDataset tars",
    "train": "train an encoder on caption-grouped images",
    "finetune": "turn an encoder and labelled images into a classifier, whole or by adapters",
    "blend": "an encoder between a start and its adaptation, that forgets little",
    "evaluate": "measure encoders side by side on labelled or captioned images",
    "reproduce": "the paper's claims, tested in small",
    "embed": "write the features of a data set's images to a Parquet file",
    "index": "make the images of a data set findable by an encoder",
    "demo-app": "the search page, in a browser",
    "convert": "turn checkpoints of the release, timm and transformers into encoder folders",
    "publish": "push a data set or an encoder folder to the Hub",
    "env": "versions, devices and caches: what a bug report needs",
    "completion": "print what makes a shell complete these commands and their flags",
}

# What an operating system says of a name that no command can work with, wherever it is first looked at.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG)
_SURROUNDINGS = {
    # Progress and one sentence are what a person reads here; the libraries' own notices and bars stay off.
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}

USAGE = "\n".join(
    [
        "usage: stablerep COMMAND [options]",
        "",
        "commands:",
        *(f"  {name:<15} {purpose}" for name, purpose in COMMANDS.items()),
        "",
        "`stablerep COMMAND --help` lists a command's options.",
    ]
)


_LOCAL = {"-h", "--help", "--help-all", "--version", "env", "completion"}  # these need no network


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: The command's name and its options; the process's own if not given.

    Returns:
        Exit code: 0 done, 2 input that cannot work (one sentence on standard error), 130 interrupted, 141 the
        reader of the output has gone (`stablerep ... | head`).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a caption may hold what this terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    if argv is None and "HF_HUB_OFFLINE" not in os.environ and not _LOCAL.intersection(sys.argv) and _hub_is_unknown():
        os.environ["HF_HUB_OFFLINE"] = "1"  # its client would try five times a file, for half a minute
    try:
        try:
            code = _run(list(sys.argv[1:] if argv is None else argv))
        except SystemExit:  # of --help; what it printed is still to be written
            sys.stdout.flush()
            raise
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        if not _is_unread(sys.stdout.fileno()):
            raise  # it was another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more as it ends
        return 141


def _hub_is_unknown() -> bool:
    """Whether this machine knows no address of the Hub; behind a proxy it need not know one."""
    import socket
    import urllib.parse
    import urllib.request  # half of the time that this file takes to import

    if urllib.request.getproxies().keys() & {"http", "https", "all"}:
        return False
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(endpoint).hostname, 443)
    except OSError:
        return True
    return False


def _is_unread(pipe: int) -> bool:
    """Whether the other end of a pipe is closed."""
    poll = select.poll()
    poll.register(pipe, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if arguments[0] == "--version":
        print(f"stablerep {__version__}")
        return 0
    name, *rest = arguments
    name = name.replace("_", "-")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.7)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(COMMANDS)}."
        print(f"stablerep: there is no command {name!r}: {hint}", file=sys.stderr)
        return 2
    for variable, value in _SURROUNDINGS.items():
        os.environ.setdefault(variable, value)
    if not sys.stderr.isatty() or "--quiet" in rest:  # a bar in a file is one endless line
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # data need no card
    module = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    try:
        module.main(rest)
    except InputError as error:
        print(f"stablerep {name}: {in_flags(str(error), module.COMMAND.field_names())}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in _UNUSABLE or error.filename is None:
            raise
        print(
            f"stablerep {name}: {str(error.filename)[:200]!r} cannot be used ({error.strerror}): name another place, "
            "or ask for the permission.",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(
            f"stablerep {name}: interrupted; the same command goes on from what was saved until now, if anything was.",
            file=sys.stderr,
        )
        return 130
    return 0
