"""A headless Chromium through its DevTools protocol: what a visitor sees, and what is loaded.

`--dump-dom` and `--screenshot` alone would not do: they look before the page has heard from its
server.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--no-proxy-server",
)
PATIENCE_S = 60.0
FAINT = """const faintOf = selector => {
  const channels = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const faint = [];
  for (const element of document.querySelectorAll(selector)) {
    if (![...element.childNodes].some(node => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.getClientRects().length) continue;
    const look = getComputedStyle(element), drawn = element.closest("svg") !== null;
    let behind = element;
    while (!/^rgb\\(/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const colours = [drawn ? look.fill : look.color, getComputedStyle(behind).backgroundColor];
    const [low, high] = colours.map(channels).map(light).sort((a, b) => a - b);
    const contrast = (high + .05) / (low + .05);
    if (contrast < 4.5) faint.push(`${element.textContent.trim().slice(0, 30)} ${contrast}`);
  }
  return faint;
};"""
"""JavaScript: the texts below a selector whose contrast is under 4.5."""


@dataclass(frozen=True)
class Visit:
    """What a visitor saw at the end, and what the page asked for."""

    text: str
    html: str
    requests: tuple[str, ...]
    """addresses, `data:` ones left out"""
    overflow: int
    """pixels by which the page is wider than the window; a phone's would grow with the page"""
    errors: tuple[str, ...]
    """uncaught errors of the page's scripts"""


def find_browser() -> str | None:
    """Path of Chromium; None where there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def visit(
    url: str,
    *,
    steps: Sequence[str],
    width: int = 1280,
    height: int = 1000,
    dark: bool = False,
    picture: Path | None = None,
) -> Visit:
    """Open a page and take steps on it.

    Args:
        url: Address.
        steps: JavaScript expressions; each is evaluated again and again until it is true.
        width: Of the window, pixels.
        height: Of the window, pixels.
        dark: Whether the visitor prefers dark pages.
        picture: Where to write a screenshot (PNG) of the whole page.
    """
    browser = find_browser()
    assert browser is not None
    with _running(browser) as address:
        return asyncio.run(
            asyncio.wait_for(
                _visit(address, url, steps, (width, height), dark, picture), PATIENCE_S
            )
        )


@contextlib.contextmanager
def _running(browser: str) -> Iterator[str]:
    """Address of the DevTools of a fresh browser."""
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        contextlib.ExitStack() as stack,
    ):
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
        stack.callback(process.kill)
        assert process.stderr is not None
        lines = (line.decode(errors="replace") for line in process.stderr)
        yield next(line.split()[-1] for line in lines if line.startswith("DevTools listening on"))


async def _visit(
    address: str,
    url: str,
    steps: Sequence[str],
    size: tuple[int, int],
    dark: bool,
    picture: Path | None,
) -> Visit:
    numbers, requests, errors = itertools.count(1), [], []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(address, max_msg_size=0) as socket,
    ):

        async def call(method: str, page: str | None = None, **params: Any) -> dict[str, Any]:
            number = next(numbers)
            await socket.send_json(
                {"id": number, "method": method, "params": params}
                | ({"sessionId": page} if page else {})
            )
            async for message in socket:
                heard = json.loads(message.data)
                if heard.get("method") == "Network.requestWillBeSent":
                    requests.append(heard["params"]["request"]["url"])
                elif heard.get("method") == "Runtime.exceptionThrown":
                    errors.append(str(heard["params"]["exceptionDetails"]))
                elif heard.get("id") == number:
                    assert "error" not in heard, heard["error"]
                    return dict(heard["result"])
            raise ConnectionError("the browser is gone")

        target = (await call("Target.createTarget", url="about:blank"))["targetId"]
        page = (await call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]

        async def evaluate(expression: str) -> Any:
            return (await call("Runtime.evaluate", page, expression=expression))["result"].get(
                "value"
            )

        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        for domain in ("Network", "Runtime", "Page"):
            await call(f"{domain}.enable", page)
        await call("Emulation.setDeviceMetricsOverride", page, **metrics)
        await call("Emulation.setEmulatedMedia", page, features=scheme)
        await call("Page.navigate", page, url=url)
        for step in steps:
            until_s = time.monotonic() + PATIENCE_S / 2
            while await evaluate(step) is not True:
                if time.monotonic() > until_s:
                    text = await evaluate("document.body.innerText")
                    raise AssertionError(f"{step} is not true of this page: {text}")
                await asyncio.sleep(0.1)
        if picture is not None:
            await asyncio.sleep(0.5)  # for transitions
            taken = await call("Page.captureScreenshot", page, captureBeyondViewport=True)
            picture.write_bytes(base64.b64decode(taken["data"]))
        overflow = await evaluate(f"document.documentElement.scrollWidth - {width}")
        html = await evaluate("document.documentElement.outerHTML")
        text = await evaluate("document.body.innerText")
    addresses = tuple(url for url in requests if not url.startswith(("data:", "blob:")))
    return Visit(text, html, addresses, overflow, tuple(errors))
