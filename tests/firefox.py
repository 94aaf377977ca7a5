"""A headless Firefox, driven over WebDriver BiDi."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

from tests.browser import Waiting

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")

_TIMEOUT = 60.0
"""Timeout in seconds."""


class Firefox(Waiting):
    """A page in Firefox.

    Attributes:
        complaints: messages of the console and errors of the script; there should be none.
    """

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(f"{address}/session", timeout=_TIMEOUT, suppress_origin=True)
        self.number = 0
        self.complaints: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        (self.tab,) = (context["context"] for context in self.call("browsingContext.getTree")["contexts"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol, and return the answer."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert message["type"] == "success", message
                return message["result"]
            if message.get("method") == "log.entryAdded":
                self.complaints.append(f"{message['params']['level']}: {message['params']['text']}")

    def open(self, file: Path) -> None:
        """Load a file completely."""
        self.call("browsingContext.navigate", context=self.tab, url=file.resolve().as_uri(), wait="complete")

    def size(self, width: int, height: int) -> None:
        """Set the size of the window, in CSS pixels."""
        self.call("browsingContext.setViewport", context=self.tab, viewport={"width": width, "height": height})

    def value(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page, as what JSON can hold."""
        answer = self.call(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then(value => JSON.stringify(value ?? null))",
            target={"context": self.tab},
            awaitPromise=True,
            userActivation=True,
        )
        assert answer["type"] == "success", answer
        return json.loads(answer["result"]["value"])

    def middle_of(self, selector: str) -> tuple[int, int]:
        """Scroll to an element, and return the position of its center in the window."""
        self.value(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center', behavior: 'instant'}})")
        x, y = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector({selector!r}).getBoundingClientRect())")
        return round(x), round(y)

    def drag(self, *corners: tuple[int, int]) -> None:
        """Drag the mouse along positions; a click, if there is one."""
        moves = [{"type": "pointerMove", "x": x, "y": y} for x, y in corners]
        actions = [moves[0], {"type": "pointerDown", "button": 0}, *moves[1:], {"type": "pointerUp", "button": 0}]
        self.call("input.performActions", context=self.tab, actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def click(self, selector: str) -> None:
        """Click on the center of an element."""
        self.drag(self.middle_of(selector))

    def type(self, text: str) -> None:
        """Type text into the focused element."""
        keys = [{"type": kind, "value": letter} for letter in text for kind in ("keyDown", "keyUp")]
        self.call("input.performActions", context=self.tab, actions=[{"type": "key", "id": "keys", "actions": keys}])

    def picture(self, file: Path) -> None:
        """Write a screenshot of the window."""
        file.write_bytes(base64.b64decode(self.call("browsingContext.captureScreenshot", context=self.tab)["data"]))


@contextmanager
def firefox(profile: Path) -> Iterator[Firefox]:
    """Start a browser with its own profile, which makes no requests by itself."""
    assert FIREFOX is not None
    quiet = ("network.captive-portal-service.enabled", "network.connectivity-service.enabled", "app.update.enabled")
    (profile / "user.js").write_text("".join(f'user_pref("{name}", false);\n' for name in quiet))
    command = [FIREFOX, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, errors="replace")
    try:
        assert process.stderr is not None
        address = next(found[0] for line in process.stderr if (found := re.search(r"ws://[\d.:]+", line)))
        browser = Firefox(address)
        yield browser
        browser.socket.close()
    finally:
        process.terminate()
        process.wait(_TIMEOUT)
