"""A headless Chromium, driven over its own pipe: what a page does is asked of the page itself."""

import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0
"""Seconds that an answer may take."""


def find_browser() -> str | None:
    """Return the path of a Chromium: that of the variable STEERLENS_CHROMIUM, one on the path, or
    the one that playwright has downloaded."""
    if named := os.environ.get("STEERLENS_CHROMIUM"):
        return named
    cached = sorted(Path.home().glob(".cache/ms-playwright/chromium*/chrome-linux*/*"))
    found = [str(p) for p in cached if p.name in ("chrome", "headless_shell")]
    return next((path for name in NAMES if (path := shutil.which(name))), None) or next(
        iter(found), None
    )


class Page:
    """One page of a browser: open a file, evaluate, press keys, look at it.

    `said` has what the console and the page's errors said, `asked` every address that was asked
    for.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._number = read, write, b"", 0
        self._session: str | None = None
        self.said: list[str] = []
        self.asked: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the devtools protocol and return its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, path: Path, fragment: str = "", *, wait: str = "true") -> None:
        """Open a file, and wait until it is loaded."""
        self.call("Page.navigate", url="about:blank")  # another fragment alone would load nothing
        self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        end = time.monotonic() + PATIENCE
        while not self.ask(
            f"document.readyState === 'complete' && location.href !== 'about:blank' && ({wait})"
        ):
            assert time.monotonic() < end, f"{path} does not load: {self.said}"
            time.sleep(0.02)

    def ask(self, expression: str) -> Any:
        """Return the value of an expression of the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, and let it go."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Set the window's size, and whether the user asks for dark pages."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, *, whole: bool = True) -> str:
        """Return a screenshot, base64 of PNG."""
        return self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)[
            "data"
        ]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found = json.loads(message)
        about = found.get("params", {})
        match found.get("method"):
            case "Runtime.consoleAPICalled":
                self.said.append(str([x.get("value") for x in about["args"]]))
            case "Runtime.exceptionThrown":
                self.said.append(str(about["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(str(about["entry"]))
            case "Network.requestWillBeSent":
                self.asked.append(about["request"]["url"])
        return found


@contextmanager
def browser(path: str) -> Iterator[Page]:
    """Run a Chromium and give one page of it."""
    to_browser, ours_out = os.pipe()
    ours_in, from_browser = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        # the browser reads commands from descriptor 3 and writes to 4; a shell puts them there
        shell = ["bash", "-c", f'exec "$@" 3<&{to_browser} 4>&{from_browser}', "bash", *command]
        process = subprocess.Popen(
            shell, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        for end in (to_browser, from_browser):
            os.close(end)
        try:
            yield Page(ours_in, ours_out)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for end in (ours_in, ours_out):
                os.close(end)


def assert_inert(page: Page, file: Path, attack: str) -> None:
    """Open a page in which others wrote an attack: it is there as text, and nothing happens."""
    page.said.clear()
    page.asked.clear()
    page.open(file)
    found = [
        page.ask("window.pwned"),
        page.ask("document.images.length"),
        page.ask("document.querySelectorAll('a[href^=javascript]').length"),
    ]
    assert found == [None, 0, 0]
    assert page.said == []
    assert {address.split(":")[0] for address in page.asked} <= {"file", "about", "data"}
    assert page.ask("document.body.textContent").count(attack) > 5
