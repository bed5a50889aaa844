"""What the client of the Hub raises."""

from huggingface_hub.errors import HfHubHTTPError


def client_error() -> type[Exception]:
    """The base of all errors of the client that huggingface_hub is built on: httpx in 1.x, httpx2 in 2.x."""
    return next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")
