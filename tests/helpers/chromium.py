"""Drive a headless Chromium over its debugging pipe: open pages, note consoles and requests, take pictures."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pages import BROWSER

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--remote-debugging-pipe", "--force-color-profile=srgb", "--hide-scrollbars"),
)


class Browser:
    """A running browser: one command at a time, and what it reported in between.

    Attributes:
        console: Level and text of what pages and workers wrote to the console, exceptions and refusals included.
        requests: The addresses that pages and workers asked for.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.console: list[tuple[str, str]] = []
        self.requests: list[str] = []
        self._to, self._from = to_browser, from_browser
        self._pending, self._last = b"", 0
        self._session: str | None = None

    def send(self, method: str, *, session: str | None = None, seconds: float = 60, **parameters: Any) -> Any:
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        for answer in self._messages(seconds):
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
        raise TimeoutError(f"{method}: no answer in {seconds} seconds")

    def _messages(self, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield what the browser says until the time is over; what is an event is noted first."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            while b"\0" in self._pending:
                line, _, self._pending = self._pending.partition(b"\0")
                message = json.loads(line)
                self._note(message)
                yield message
            if select.select([self._from], [], [], left)[0]:
                part = os.read(self._from, 1 << 20)
                assert part, "the browser ended"
                self._pending += part

    def _note(self, message: dict[str, Any]) -> None:
        event, values = message.get("method"), message.get("params", {})
        if event == "Target.attachedToTarget":
            self._watch(values["sessionId"])
        elif event == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif event == "Runtime.consoleAPICalled":
            words = [str(each.get("value", each.get("description", ""))) for each in values["args"]]
            self.console.append((values["type"], " ".join(words)))
        elif event == "Runtime.exceptionThrown":
            self.console.append(("error", json.dumps(values["exceptionDetails"])))
        elif event == "Log.entryAdded":
            self.console.append((values["entry"]["level"], values["entry"]["text"]))

    def _watch(self, session: str) -> None:
        """Ask for the events of a page or worker, which waits until then; the answers are not waited for."""
        for method, parameters in (
            ("Network.enable", {}),
            ("Runtime.enable", {}),
            ("Log.enable", {}),
            ("Target.setAutoAttach", {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}),
            ("Runtime.runIfWaitingForDebugger", {}),
        ):
            self._last += 1
            message = {"id": self._last, "method": method, "params": parameters, "sessionId": session}
            os.write(self._to, json.dumps(message).encode() + b"\0")

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        """Open an address in the one page that there is, afresh."""
        if self._session is None:
            target = self.send("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self.send("Page.enable", session=self._session)
        self.console.clear()
        self.requests.clear()
        is_phone = width < 600
        self.send(
            "Emulation.setDeviceMetricsOverride",
            session=self._session,
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )
        self.send("Page.navigate", session=self._session, url=url)

    def evaluate(self, expression: str, *, seconds: float = 60) -> Any:
        """Return the value of an expression in the page; a promise is waited for."""
        result = self.send(
            "Runtime.evaluate",
            session=self._session,
            seconds=seconds,
            expression=expression,
            awaitPromise=True,
            returnByValue=True,
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition: str, *, seconds: float = 60) -> None:
        """Wait until an expression in the page is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, (condition, self.evaluate("document.body.innerText"), self.console)
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press a key, such as Tab or Enter."""
        codes = {"Tab": 9, "Enter": 13, " ": 32}
        values = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        if key == "Enter":
            values["text"] = "\r"
        self.send("Input.dispatchKeyEvent", session=self._session, type="keyDown", **values)
        self.send("Input.dispatchKeyEvent", session=self._session, type="keyUp", **values)

    def picture(self, path: Path) -> None:
        """Save a picture of the whole page."""
        shot = self.send("Page.captureScreenshot", session=self._session, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


# The browser reads from descriptor 3 and writes to 4; a shell may take numbers of one digit only.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


@contextmanager
def browser(folder: Path, *more: str) -> Iterator[Browser]:
    """Start a browser whose profile is in a folder; end it at the end."""
    (their_read, to_browser), (from_browser, their_write) = os.pipe(), os.pipe()
    passed = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (their_read, their_write)]
    chromium = [str(BROWSER), *ARGUMENTS, f"--user-data-dir={folder}", *more]
    command = [sys.executable, "-c", START, *map(str, passed), *chromium]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, pass_fds=passed, **quiet) as process:
        for descriptor in (*passed, their_read, their_write):
            os.close(descriptor)
        running = Browser(to_browser, from_browser)
        try:
            yield running
        finally:
            with suppress(AssertionError, OSError, TimeoutError):
                running.send("Browser.close", seconds=10)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            os.close(to_browser)
            os.close(from_browser)
