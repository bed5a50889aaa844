"""What the Hub and its client answer: transient errors are tried again, refusals become a sentence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

from ..errors import InputError
from ..files.hub_client import client_error

_WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds between tries of what huggingface_hub itself does not try again
_TRANSIENT = (408, 429, 500, 502, 503, 504)

T = TypeVar("T")


def retrying(call: Callable[[], T]) -> T:
    """Call again after a transient error, which huggingface_hub does for uploads, but not for commits and settings.

    A call must find out by itself what an earlier try has done, whose answer may have been lost.
    """
    for wait in _WAITS:
        try:
            return call()
        except client_error() as error:
            response = getattr(error, "response", None)
            if response is not None and response.status_code not in _TRANSIENT:
                raise
            time.sleep(max(wait, _retry_after(response)))
    return call()


def _retry_after(response: Any) -> float:
    """Seconds that a refusal asks to wait, at most five minutes, which is how long the Hub's rate limits last."""
    asked = response.headers.get("Retry-After", "") if response is not None else ""
    return min(float(asked), 300.0) if asked.isdecimal() else 0.0


@contextmanager
def readable_refusals(repository: str, *others: type[Exception]) -> Iterator[None]:
    """Turn what the Hub and its client say into a sentence.

    Args:
        repository: What is being published.
        others: Further errors that stop it.

    Raises:
        InputError: In place of those errors.
    """
    refusals: tuple[type[Exception], ...] = (HFValidationError, client_error(), *others)
    try:
        yield
    except InputError:
        raise
    except OfflineModeIsEnabled as error:
        raise InputError(f"Publishing {repository} needs the Hub, but HF_HUB_OFFLINE is set: unset it.") from error
    except refusals as error:
        # The client wraps what stopped an upload: "Error while uploading 'a.parquet' to the Hub."
        cause = error.__cause__ if type(error) is RuntimeError and isinstance(error.__cause__, Exception) else error
        raise InputError(f"Publishing {repository} stopped: {_reason(cause)}") from error


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, HFValidationError):
        return f"the name cannot be that of a repository ({said.rstrip('.')}); give OWNER/NAME."
    if status == 401:
        return "the Hub does not know the token; run `hf auth login` or set HF_TOKEN to a valid one."
    if status == 403:
        return f"the token may not write there ({said.rstrip('.')}); choose a namespace of yours (`hf auth whoami`)."
    if status == 412:
        return "somebody changed the repository meanwhile; look at it, then run the command again."
    server = getattr(error, "server_message", None)
    return f"{server or said}; what has arrived is kept, so run the command again."
