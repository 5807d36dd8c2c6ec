"""Web search as the last tier: SearXNG's JSON interface, and pages read as untrusted text.

    web = from_environment()                  # FINLAB_SEARCH_URL=http://localhost:8888; or None
    web.search("资管新规过渡期", count=3)        # [(passage, score), ...]

SearXNG is a search engine that one runs oneself (docs.searxng.org; `formats: [html, json]` in its
settings). What leaves the house is the question alone, see `tiers.outgoing`. A page is fetched only
from a public address, also behind a redirect; it is cut off at a size and at a time; its text is
quoted material, whatever it says.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import httpx

from finlab.data import documents
from finlab.evaluate.knowledge.index import Hit
from finlab.evaluate.knowledge.passages import Document, split
from finlab.evaluate.knowledge.tiers import coverage

VARIABLE = "FINLAB_SEARCH_URL"
REDIRECTS = 3
TEXT_TYPES = ("text/html", "text/plain", "application/xhtml+xml")


class Refused(ValueError):
    """A page, or the search itself, was not read. The error says why in one sentence."""


def is_public(address: str) -> bool:
    """Tell whether an address belongs to the open internet, and not to this house."""
    return ipaddress.ip_address(address).is_global


@dataclass
class WebSearch:
    """A SearXNG server, and the pages that it finds.

    Attributes:
        url: Of the server; it may be private, since a person has named it.
        seconds: For the search, and for each page.
        max_bytes: Of an answer or a page; what is longer is cut off.
        pages: So many results are read.
        allowed: Tells whether a page's address may be asked.
        refused: What was not read, {url, reason}.
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
            count: At most so many passages.
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
                text = self._page(str(result["url"]))
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
        """Return what SearXNG finds, {url, title, ...}."""
        address = f"{self.url.rstrip('/')}/search"
        with httpx.Client(timeout=self.seconds, follow_redirects=False) as client:
            request = client.build_request("GET", address, params={"q": query, "format": "json"})
            status, headers, body = self._read(client, request)
        if status == 403:
            raise Refused(
                f"{self.url} gives no JSON: put `formats: [html, json]` into SearXNG's settings"
            )
        if status != 200:
            raise Refused(f"{self.url} answers with status {status}")
        try:
            found = httpx.Response(200, headers=headers, content=body).json()["results"]
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
            source = httpx.Response(200, headers=_of_text(headers), content=body).text
            return source if kind == "text/plain" else documents.from_html(source)
        raise Refused(f"the page redirects more than {REDIRECTS} times")

    def _fetch(self, url: str) -> tuple[int, httpx.Headers, bytes]:
        """Ask for one address, after looking where its name leads.

        The connection goes to the very address that was looked at: a name that is looked up a
        second time might lead elsewhere.
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
        with httpx.Client(timeout=self.seconds, follow_redirects=False, trust_env=False) as client:
            request = client.build_request("GET", target, headers={"Host": parts.netloc})
            request.extensions["sni_hostname"] = host
            return self._read(client, request)

    def _read(
        self, client: httpx.Client, request: httpx.Request
    ) -> tuple[int, httpx.Headers, bytes]:
        """Send a request, and read its answer up to a size and a time.

        Args:
            client: Sends it.
            request: What is asked.
        """
        ends = time.monotonic() + self.seconds
        body = b""
        try:
            response = client.send(request, stream=True)
            try:
                for part in response.iter_bytes():
                    body += part
                    if len(body) >= self.max_bytes:
                        body = body[: self.max_bytes]
                        break
                    if time.monotonic() > ends:
                        raise Refused(f"it did not end within {self.seconds:g} s")
            finally:
                response.close()
        except httpx.TimeoutException:
            raise Refused(f"it did not answer within {self.seconds:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Refused(f"it cannot be reached ({type(error).__name__})") from None
        return response.status_code, response.headers, body


def _score(hit: Hit) -> float:
    """Return the score of a hit."""
    return hit[1]


def _of_text(headers: httpx.Headers) -> dict[str, str]:
    """Return what says how to decode a body that was decompressed already."""
    return {"content-type": headers.get("content-type", "text/html")}


def from_environment() -> WebSearch | None:
    """Return the search that FINLAB_SEARCH_URL names; None where it names none.

    Raises:
        ValueError: It is no http address.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        return None
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(
            f"{VARIABLE} is {url!r}: write the address of a SearXNG server, http://..."
        )
    return WebSearch(url)
