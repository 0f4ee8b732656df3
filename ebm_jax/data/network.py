"""Whether a host on the network answers."""

from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen


def no_answer(url: str, *, timeout: float = 10.0) -> str:
    """Returns why the host of a file does not answer, or "" if it does; nothing is downloaded.

    Args:
        url: the file's address. Proxies of the environment are used.
        timeout: seconds to wait for a connection.
    """
    try:
        urlopen(Request(url, method="HEAD"), timeout=timeout).close()
    except HTTPError as error:
        error.close()  # an answer
    except OSError as error:
        return f"{urlsplit(url).netloc} does not answer ({error})"
    return ""
