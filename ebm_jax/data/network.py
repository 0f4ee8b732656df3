"""Tests whether a host on the network responds."""

from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen


def no_answer(url: str, *, timeout: float = 10.0) -> str:
    """Returns the reason why the host of a URL does not respond, or "" if it does.

    Nothing is downloaded.

    Args:
        url: address of a file. The proxies set in the environment are used.
        timeout: seconds to wait for a connection.
    """
    try:
        urlopen(Request(url, method="HEAD"), timeout=timeout).close()
    except HTTPError as error:
        error.close()  # an HTTP error is a response, too
    except OSError as error:
        return f"{urlsplit(url).netloc} does not answer ({error})"
    return ""
