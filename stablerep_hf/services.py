"""Requests to a service over HTTP: many at once, sent again where they failed, within the limits that it states.

Where the service is, only the user says: no data set, plan or answer chooses an address, and no redirect is followed.
Keys come from the environment and go into the header of a request and nowhere else.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .errors import InputError, one_line

KEY = "OPENAI_API_KEY"
T = TypeVar("T")
S = TypeVar("S")
_ATTEMPTS = 8
_LONGEST_LIMIT = 3600.0  # seconds for which one request is refused for the rate of requests
_LONGEST_WAIT = 600.0  # seconds; who is told to come back later than that runs the command again
# By what code a service of OpenAI's kind says that there is no money left: it would be told so again.
_NO_CREDIT = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
# What such services call a prompt or an answer that they withhold.
_WITHHELD = ("content_policy_violation", "moderation_blocked", "content_filter")


class FailedRequest(Exception):
    """A request that may go well when it is sent again.

    Attributes:
        may_be_billed: Whether the service may have done the work, so that it counts.
        retry_after: Seconds to wait, where the service says so.
        is_limit: Whether the service only wants to be asked less often.
    """

    def __init__(
        self, said: str, *, may_be_billed: bool, retry_after: float | None = None, is_limit: bool = False
    ) -> None:
        super().__init__(said)
        self.may_be_billed, self.retry_after, self.is_limit = may_be_billed, retry_after, is_limit


class RefusedRequest(InputError):
    """A request that would be refused again.

    Attributes:
        code: What the service calls the reason; empty if it does not say.
        is_withheld: Whether it refuses what it is asked to show: that is its answer.
        may_be_billed: Never: no work was done.
    """

    may_be_billed = False

    def __init__(self, said: str, code: str = "") -> None:
        super().__init__(said)
        self.code, self.is_withheld = code, code in _WITHHELD


def is_address(name: str) -> bool:
    """Whether a name is the address of a service."""
    return name.startswith(("https://", "http://"))


class Patience:
    """Sends requests again: after what `Retry-After` says, else after a random time that grows up to a minute.

    When the service limits the rate of one request, all wait. One object serves many threads.
    """

    def __init__(self, *, attempts: int = _ATTEMPTS, first_wait: float = 1.0) -> None:
        """Set the limits.

        Args:
            attempts: How often a request may fail; to be refused by a rate limit is no failure, for an hour.
            first_wait: Seconds of which the first wait is a random part.
        """
        self._attempts, self._first_wait = attempts, first_wait
        self._not_before = 0.0

    def call(self, send: Callable[[], T]) -> T:
        """Call `send`, which raises `FailedRequest` where it is to be called again.

        Raises:
            InputError: It failed as often as allowed, or is to wait too long.
        """
        import tenacity

        failures = 0

        def is_over(state: Any) -> bool:
            nonlocal failures
            failures += not state.outcome.exception().is_limit
            return failures >= self._attempts or state.seconds_since_start > _LONGEST_LIMIT

        try:
            return tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(FailedRequest),
                stop=is_over,
                wait=self._wait,
                before=lambda state: time.sleep(max(0.0, self._not_before - time.monotonic())),
                reraise=True,
            )(send)
        except FailedRequest as error:
            raise InputError(
                f"A request failed {failures} times ({error}): what was answered is kept, so run the same command "
                "again later."
            ) from error

    def _wait(self, state: Any) -> float:
        from tenacity import wait_random_exponential

        after = state.outcome.exception().retry_after
        if after is None:
            return float(wait_random_exponential(multiplier=self._first_wait, max=60)(state))
        if after > _LONGEST_WAIT:
            raise InputError(
                f"The service asks to wait {after:,.0f} s, a limit of its own: what was answered is kept, so run the "
                "same command again then."
            )
        self._not_before = max(self._not_before, time.monotonic() + after)
        return float(after + random.uniform(0, self._first_wait))  # so that not all come back at once


class Service:
    """A server that speaks OpenAI's HTTP interface (vLLM, SGLang, llama.cpp, TGI, OpenAI).

    Attributes:
        address: Where it is, such as "https://host/v1".
    """

    def __init__(self, address: str, *, patience: Patience | None = None, timeout: float = 600.0) -> None:
        """Check the address; nothing is sent.

        Args:
            address: Up to what comes before "/images/generations" or "/chat/completions".
            patience: How requests are sent again.
            timeout: Seconds that the service may be silent. It may bill what takes longer, so be generous.

        Raises:
            InputError: It is no address, holds a key, or would have the key sent unencrypted.
        """
        import httpx2

        try:
            parts = urlsplit(address)
            host = parts.hostname if parts.port != 0 else None
        except ValueError:  # brackets that do not close, a port that is no number
            host = None
        if not is_address(address) or not host or parts.query or parts.fragment or "@" in parts.netloc:
            shown = address.partition("?")[0].partition("#")[0].rpartition("@")[2]  # the rest may be a secret
            raise InputError(
                f"{shown!r} is no address of a service: write it as https://host/v1, without name, password or key, "
                f"which {KEY} holds."
            )
        self._key = os.environ.get(KEY, "")
        if self._key and parts.scheme == "http" and not _is_loopback(host):
            raise InputError(
                f"{KEY} would be sent to {address!r} unencrypted: use https, or unset it if that service takes no key."
            )
        self.address, self._patience = address.rstrip("/"), patience or Patience()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(
            headers=headers,
            timeout=httpx2.Timeout(timeout, connect=30.0),
            limits=httpx2.Limits(),  # who calls says how many requests are under way
        )
        self._was_there = False

    def only_model(self) -> str:
        """The name of the one model that is served.

        Raises:
            InputError: The service cannot be reached, or serves several models or none.
        """
        answer = self._patience.call(lambda: self.send("GET", "models"))
        models = answer.get("data") if isinstance(answer.get("data"), list) else []
        names = [str(model["id"]) for model in models or [] if isinstance(model, Mapping) and "id" in model]
        if len(names) != 1:
            raise InputError(
                f"{self.address} serves {len(names)} models ({', '.join(names[:5]) or 'none is named'}): say which by "
                "`served_model`."
            )
        return names[0]

    def send(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request, once.

        Args:
            method: "GET" or "POST".
            path: Below the address, such as "chat/completions".
            content: JSON values.

        Returns:
            The JSON object that was answered.

        Raises:
            FailedRequest: It may go well another time.
            RefusedRequest: It would not.
        """
        import httpx2

        try:
            response = self._client.request(method, f"{self.address}/{path}", json=content)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            if not self._was_there:
                raise RefusedRequest(
                    f"{self.address} cannot be reached ({one_line(error)}): check the address, and that the server "
                    "runs."
                ) from error
            raise FailedRequest(f"{self.address}: {one_line(error)}", may_be_billed=False) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:  # cut off, too slow, or garbled
            said = one_line(error) or type(error).__name__
            raise FailedRequest(f"{self.address}: {said}", may_be_billed=True) from error
        self._was_there = True
        if not response.is_success:
            raise error_of(response, self.address, KEY, hide=self._key)
        try:
            answer = response.json()
        except ValueError as error:
            raise FailedRequest(f"{self.address} answered what is no JSON", may_be_billed=True) from error
        if not isinstance(answer, dict):
            raise FailedRequest(f"{self.address} answered no JSON object", may_be_billed=True)
        return answer


def error_of(response: Any, service: str, key_name: str, *, hide: str = "") -> FailedRequest | RefusedRequest:
    """What an answer other than 2xx means.

    Args:
        response: Of httpx.
        service: Its name, for the message.
        key_name: The environment variable that holds the key.
        hide: A key that must not be in the message, should the service repeat it.
    """
    try:
        content = response.json()
    except (ValueError, RuntimeError):  # no JSON, or a stream that was not read
        content = {}
    error = content.get("error", content) if isinstance(content, Mapping) else {}
    code = str(error.get("code") or error.get("type") or "") if isinstance(error, Mapping) else ""
    said = (error.get("message") or error.get("detail") if isinstance(error, Mapping) else error) or ""
    shown = " ".join(str(said).split())[:200].rstrip(".")
    shown = f"{response.status_code}{': ' if shown else ''}{shown}"
    shown = shown.replace(hide, "***") if hide else shown
    if response.status_code == 402 or code in _NO_CREDIT:
        return RefusedRequest(
            f"{service} says that there is no credit left ({shown}): add some and run the same command again; what "
            "was answered is kept.",
            code,
        )
    if response.status_code in (401, 403):
        return RefusedRequest(f"{service} refuses the key in {key_name} ({shown}): set one that it takes.", code)
    if response.status_code in (408, 409, 425, 429) or response.status_code >= 500:
        after = _seconds(response.headers.get("Retry-After"))
        is_limit = response.status_code == 429
        return FailedRequest(f"{service} answered {shown}", may_be_billed=False, retry_after=after, is_limit=is_limit)
    return RefusedRequest(f"{service} refuses the request ({shown}): change what it does not take.", code)


def at_once(ask: Callable[[S], T], items: Sequence[S], concurrency: int) -> list[T]:
    """Ask for many things at once, and give the answers in the order of the items.

    After a failure no further request begins, those under way end (and are kept by whoever asks), then it is raised.

    Args:
        ask: Called in threads.
        items: What it is called with.
        concurrency: Calls at a time, at least 1.

    Raises:
        InputError: `concurrency` is below 1; and whatever `ask` raises.
    """
    if concurrency < 1:
        raise InputError(f"concurrency={concurrency} asks for nothing: give 1 or more.")
    stop = threading.Event()

    def guarded(item: S) -> Any:
        if not stop.is_set():
            try:
                return ask(item)
            except BaseException:
                stop.set()
                raise

    with ThreadPoolExecutor(concurrency, "request") as threads:
        futures = [threads.submit(guarded, item) for item in items]
        try:
            wait(futures)
        except BaseException:  # an interrupt
            stop.set()
            raise
    return [future.result() for future in futures]


def _seconds(retry_after: str | None) -> float | None:
    """A `Retry-After` header: seconds or a date."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
