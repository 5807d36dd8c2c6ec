"""Web search as the last tier: SearXNG's JSON interface, and pages read as untrusted text.

    web = from_environment()                  # FINLAB_SEARCH_URL=http://localhost:8888; or None
    web.search("资管新规过渡期", count=3)        # [(passage, score), ...]

SearXNG is a search engine that you run yourself (docs.searxng.org; `formats: [html, json]` in its
settings). Only the question is sent outside, see `tiers.outgoing`. A page is fetched only from a
public address, also after a redirect. Its size and the time for it are limited. Its text is always
treated as quoted material, never as an instruction.
"""

from __future__ import annotations

import ipaddress
import json
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2

from finlab.data import documents
from finlab.evaluate.knowledge.index import Hit
from finlab.evaluate.knowledge.passages import Document, split
from finlab.evaluate.knowledge.tiers import coverage

VARIABLE = "FINLAB_SEARCH_URL"
REDIRECTS = 3
TRANSLATED = tuple(
    map(ipaddress.ip_network, ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16"))
)
CHARSETS = ("utf-8", "gb18030", "gbk", "gb2312", "big5", "utf-16", "iso-8859-1", "windows-1252")
META_CHARSET = re.compile(rb"<meta[^>]{0,200}charset=[\"']?([\w-]{2,20})", re.I)
TEXT_TYPES = ("text/html", "text/plain", "application/xhtml+xml")


class Refused(ValueError):
    """A page, or the search itself, was not read. The error says why in one sentence."""


def is_public(address: str) -> bool:
    """Tell whether an IP address is on the public internet, not in a private network."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        # These IPv6 addresses stand for IPv4 addresses, which may be private.
        if found.is_site_local or any(found in network for network in TRANSLATED):
            return False
    return found.is_global and not found.is_multicast


@dataclass
class WebSearch:
    """A SearXNG server, and the pages that it finds.

    Attributes:
        url: Address of the server; it may be private, since a person has named it.
        seconds: Time limit in seconds for the search, and for each page.
        max_bytes: Maximum number of bytes of an answer or a page; the rest is cut off.
        pages: How many results are read.
        allowed: Tells whether the IP address of a page may be asked.
        refused: Rows {url, reason} of what was not read.
    """

    url: str
    seconds: float = 8.0
    max_bytes: int = 1_000_000
    pages: int = 4
    allowed: Callable[[str], bool] = is_public
    refused: list[dict[str, str]] = field(default_factory=list)

    def search(self, query: str, count: int = 5, date: str = "") -> list[Hit]:
        """Return passages of the pages that fit a question best.

        Args:
            query: The question, without personal data.
            count: Maximum number of passages to return.
            date: Not used: a search engine knows no versions.
        """
        hits: list[Hit] = []
        try:
            results = self._results(query)
        except Refused as error:
            self.refused.append({"url": self.url, "reason": str(error)})
            return []
        for result in results[: self.pages]:
            try:
                text = _within(2 * self.seconds, self._page, str(result["url"]))
                page = Document(
                    str(result["url"]),
                    text,
                    title=str(result.get("title") or result["url"])[:120],
                    date=str(result.get("publishedDate") or "")[:10],
                    licence="unknown: a page of the web",
                    source="search",
                    url=str(result["url"]),
                )
                passages = split(page)
            except ValueError as error:
                self.refused.append({"url": str(result["url"]), "reason": str(error)})
                continue
            hits += [(passage, coverage(query, passage)) for passage in passages]
        return sorted(hits, key=_score, reverse=True)[:count]

    def _results(self, query: str) -> list[dict]:
        """Return the results of SearXNG as rows {url, title, ...}."""
        address = f"{self.url.rstrip('/')}/search"
        options = {"timeout": self.seconds, "follow_redirects": False, "trust_env": False}
        with httpx2.Client(**options) as client:
            request = client.build_request("GET", address, params={"q": query, "format": "json"})
            status, _, body = _within(2 * self.seconds, self._read, client, request)
        if status == 403:
            raise Refused(
                f"{self.url} gives no JSON: put `formats: [html, json]` into SearXNG's settings"
            )
        if status != 200:
            raise Refused(f"{self.url} answers with status {status}")
        try:
            found = json.loads(body)["results"]
            return [each for each in found if isinstance(each, dict) and each.get("url")]
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{self.url} answers in another form than SearXNG's JSON") from None

    def _page(self, url: str) -> str:
        """Return the main text of a page; every address on the way to it must be public."""
        for _ in range(REDIRECTS + 1):
            status, headers, body = self._fetch(url)
            if status in (301, 302, 303, 307, 308) and headers.get("location"):
                url = urljoin(url, headers["location"])
                continue
            if status != 200:
                raise Refused(f"the page answers with status {status}")
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind not in TEXT_TYPES:
                raise Refused(f"the page is {kind or 'of no stated kind'}, not text")
            source = _decoded(body, headers.get("content-type", ""))
            return source if kind == "text/plain" else documents.from_html(source)
        raise Refused(f"the page redirects more than {REDIRECTS} times")

    def _fetch(self, url: str) -> tuple[int, httpx2.Headers, bytes]:
        """Request one URL, after checking the IP addresses of its host name.

        The connection goes to the IP address that was checked. A second look-up of the name might
        give another address.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Refused("the address is neither http nor https")
        host = parts.hostname
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, ValueError, UnicodeError):
            raise Refused(f"the name {host} leads nowhere") from None
        addresses = [str(each[4][0]) for each in found]
        for address in addresses:
            if not self.allowed(address):
                raise Refused(f"{host} is the private address {address}")
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        target = parts._replace(netloc=f"{address}:{port}", fragment="").geturl()
        with httpx2.Client(timeout=self.seconds, follow_redirects=False, trust_env=False) as client:
            request = client.build_request("GET", target, headers={"Host": parts.netloc})
            request.extensions["sni_hostname"] = host
            return self._read(client, request)

    def _read(
        self, client: httpx2.Client, request: httpx2.Request
    ) -> tuple[int, httpx2.Headers, bytes]:
        """Send a request, and read its answer up to a limit of size and time.

        Args:
            client: The client that sends the request.
            request: The request to send.
        """
        ends = time.monotonic() + self.seconds
        body = b""
        # Uncompressed, since a few bytes can unpack to gigabytes.
        request.headers["Accept-Encoding"] = "identity"
        try:
            response = client.send(request, stream=True)
            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise Refused("it is compressed, though it was asked not to be")
                for part in response.iter_raw():
                    body += part
                    if len(body) >= self.max_bytes:
                        body = body[: self.max_bytes]
                        break
                    if time.monotonic() > ends:
                        raise Refused(f"it did not end within {self.seconds:g} s")
            finally:
                response.close()
        except httpx2.TimeoutException:
            raise Refused(f"it did not answer within {self.seconds:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise Refused(f"it cannot be reached ({type(error).__name__})") from None
        return response.status_code, response.headers, body


def _score(hit: Hit) -> float:
    """Return the score of a hit."""
    return hit[1]


def _decoded(body: bytes, content_type: str) -> str:
    """Return a page as text, decoded by the charset in its HTTP header or HTML head.

    Args:
        body: The bytes of the page.
        content_type: The content type in its HTTP header.
    """
    stated = re.search(r"charset=[\"']?([\w-]{2,20})", content_type, re.I)
    named = [stated[1]] if stated else []
    named += [each.decode("ascii") for each in META_CHARSET.findall(body[:4096])]
    # Python's other codecs, such as zip, do not give text.
    known = [each.lower() for each in named if each.lower() in CHARSETS]
    for charset in [*known, "utf-8", "gb18030"]:
        try:
            return body.decode(charset)
        except UnicodeError:
            continue
    return body.decode("utf-8", "replace")


def _within(seconds: float, function: Callable, *arguments: Any) -> Any:
    """Return what a function returns; raise Refused if it takes longer than allowed.

    The client's time-out does not stop the look-up of a name, or a server that sends its header
    one byte at a time.

    Args:
        seconds: Time limit in seconds.
        function: The function. After the time limit it continues in its thread, and its result is
            ignored.
        *arguments: The arguments of the function.
    """
    answers: queue.Queue = queue.Queue()

    def work() -> None:
        try:
            answers.put((function(*arguments), None))
        except Exception as error:  # raised again by the waiting thread
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise Refused(f"it did not end within {seconds:g} s") from None
    if error:
        raise error
    return value


def from_environment() -> WebSearch | None:
    """Return the search at the address in FINLAB_SEARCH_URL; None if that is empty.

    Raises:
        ValueError: The variable is not an http or https address.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        return None
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(
            f"{VARIABLE} is {url!r}: write the address of a SearXNG server, http://..."
        )
    return WebSearch(url)
