"""A headless browser, driven over the DevTools protocol."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import websocket
from numpy.typing import NDArray
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_TIMEOUT = 30.0
"""Timeout in seconds."""


class Waiting:
    """A page that can be waited for."""

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        raise NotImplementedError

    def until(self, expression: str) -> Any:
        """Wait until a JavaScript expression is true, and return its value."""
        began = time.monotonic()
        while not (value := self.value(expression)):
            assert time.monotonic() - began < _TIMEOUT, f"not within {_TIMEOUT} s: {expression}"
            time.sleep(0.02)
        return value


class Browser(Waiting):
    """A page in Chromium.

    Attributes:
        complaints: messages of the console, the security policy and the script, and dialogs; there should be none.
        requests: addresses that the page has requested, except data: and blob:.
    """

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=_TIMEOUT, suppress_origin=True)
        self.number, self.session = 0, ""
        self.events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol, and return the answer."""
        self.number += 1
        session = {"sessionId": self.session} if self.session else {}
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters, **session}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        name, values = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(values["exceptionDetails"]))
        elif name == "Runtime.consoleAPICalled":
            self.complaints.append(json.dumps(values["args"]))
        elif name == "Log.entryAdded":
            self.complaints.append(f"{values['entry']['level']}: {values['entry']['text']}")
        elif name == "Page.javascriptDialogOpening":
            self.complaints.append(f"a dialog: {values['message']}")
        elif name == "Network.requestWillBeSent":
            url = values["request"]["url"]
            if not url.startswith(("data:", "blob:")):
                self.requests.append(url)

    def open(self, file: Path) -> None:
        """Load a file completely."""
        self.complaints.clear()
        self.requests.clear()
        self.events.clear()
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def frames(self, n: int = 3) -> None:
        """Wait for n frames."""
        self.value(f"new Promise(done => {{ let n = {n}; const next = () => n-- ? requestAnimationFrame(next) : done(1); next(); }})")

    def size(self, width: int, height: int, *, ratio: float = 1, touch: bool = False) -> None:
        """Set the size of the window, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)

    def colors(self, scheme: str) -> None:
        """Set the color scheme of the system, "light" or "dark", without motion, so that a click lands where the element was."""
        features = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[{"name": name, "value": value} for name, value in features.items()])

    def middle_of(self, selector: str) -> tuple[float, float]:
        """Scroll to an element, and return the position of its center in the window."""
        self.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        self.frames()
        box = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())")
        return box[0], box[1]

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.frames()

    def press(self, x: float, y: float) -> None:
        """Click at a position."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.frames()

    def drag(self, *corners: tuple[float, float], shift: bool = False) -> None:
        """Drag the mouse along positions."""
        keys = 8 if shift else 0
        for kind, (x, y) in [
            ("mousePressed", corners[0]),
            *(("mouseMoved", corner) for corner in corners[1:]),
            ("mouseReleased", corners[-1]),
        ]:
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1, modifiers=keys)
        self.frames()

    def click(self, selector: str) -> None:
        """Click on the center of an element."""
        self.press(*self.middle_of(selector))

    def type(self, text: str) -> None:
        """Type text into the focused element."""
        self.call("Input.insertText", text=text)

    def key(self, key: str, code: int = 0) -> None:
        """Press a key."""
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        for kind in ("keyDown", "keyUp"):
            printed = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **printed)
        self.frames()

    def downloads_to(self, folder: Path) -> None:
        """Save downloads in a folder."""
        session, self.session = self.session, ""
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.session = session

    def exported(self, folder: Path, button: str = "#export") -> list[dict[str, str]]:
        """Click a button that downloads a CSV file to an empty folder, and return its rows."""
        folder.mkdir()
        self.downloads_to(folder)
        self.click(button)
        began = time.monotonic()
        while not (files := list(folder.glob("*.csv"))):
            assert time.monotonic() - began < _TIMEOUT, f"no file within {_TIMEOUT} s"
            time.sleep(0.05)
        with io.StringIO(files[0].read_bytes().decode("utf-8"), newline="") as text:
            return list(csv.DictReader(text))

    def pixels(self) -> NDArray[np.int64]:
        """Return the colors of the window, (height, width, 3)."""
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """Write a screenshot of the window, or of the whole page."""
        area: dict[str, Any] = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            area = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **area)["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    """Start a browser with its own profile, which makes no requests by itself."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-dev-shm-usage"]
    command = [CHROMIUM, *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
    try:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"ws://\S+", line)))
        browser = Browser(address)
        yield browser
        # Close it properly, so that its profile is complete when the folder is deleted.
        browser.session = ""
        browser.call("Browser.close")
        with suppress(subprocess.TimeoutExpired):  # on a busy machine
            process.wait(_TIMEOUT)
    finally:
        process.kill()
        process.wait()
