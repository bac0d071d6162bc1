"""A real browser for tests of pages: what a reader sees, and what a page asks for."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any


class Moved(Exception):
    """The page that was asked has given place to another one."""


class Browser:
    """A headless Chromium without a network, driven through its DevTools protocol."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs, self.outbox = os.pipe()
        self.inbox, ours = os.pipe()
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1400,900",
            "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        plumbing = f'exec "$0" "$@" 3<&{theirs} 4>&{ours}'  # where Chromium looks for its pipes
        self.process = subprocess.Popen(
            ["bash", "-c", plumbing, program, *flags],
            pass_fds=(theirs, ours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(ours)
        self.events: list[dict[str, Any]] = []
        self.received, self.sent, self.session = b"", 0, None
        page = self.wait(lambda: self._page(), "a page")
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def _page(self) -> str | None:
        targets = self.call("Target.getTargets")["targetInfos"]
        return next((one["targetId"] for one in targets if one["type"] == "page"), None)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.outbox, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self.sent:
            self.events.append(answer)
        if "navigated" in answer.get("error", {}).get("message", ""):
            raise Moved
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.inbox], [], [], 30)
            chunk = os.read(self.inbox, 1 << 20) if ready else b""
            assert chunk, "Chromium says nothing"
            self.received += chunk
        message, _, self.received = self.received.partition(b"\0")
        return json.loads(message)

    def run(self, script: str, **where: Any) -> Any:
        """The value of a JavaScript expression."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, **where)
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, look: Any, what: str) -> Any:
        """What ``look()`` finds, as soon as it finds something."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(Moved):
                if found := look():
                    return found
            time.sleep(0.05)
        raise AssertionError(f"{what} did not appear")

    def wait_for(self, script: str) -> Any:
        return self.wait(lambda: self.run(script), script)

    def click(self, words: str) -> None:
        """Click on the entry of the menu that says ``words``."""
        self.run(
            f"[...document.querySelectorAll('nav a')].find(a => a.textContent == {words!r}).click()"
        )

    def framed(self, name: str) -> str:
        """The text of the page ``name`` that is shown in a frame."""

        def child() -> str | None:
            frames = self.call("Page.getFrameTree")["frameTree"].get("childFrames", [])
            urls = {one["frame"]["id"]: one["frame"]["url"] for one in frames}
            return next((key for key, url in urls.items() if f"filename={name};" in url), None)

        frame = self.wait(child, name)
        world = self.call("Page.createIsolatedWorld", frameId=frame)["executionContextId"]
        look = "document.readyState == 'complete' && document.body.innerText"
        return self.wait(lambda: self.run(look, contextId=world), f"text of {name}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.inbox)
        os.close(self.outbox)

    def check_that_it_stayed_here(self) -> None:
        """No page asked for anything but files, and no script failed."""
        asked = [event["params"] for event in self.events if event["method"].endswith("willBeSent")]
        urls = [one["request"]["url"] for one in asked]
        assert [url for url in urls if not url.startswith(("file:", "data:", "blob:"))] == []
        assert not [one for one in self.events if one["method"] == "Runtime.exceptionThrown"]
