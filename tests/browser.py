"""A headless Chromium that tests drive by its DevTools protocol, over a pipe: no port, no package."""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page; `said` is what it wrote to its console, errors among it."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._write = os.pipe()
        self._read, theirs_out = os.pipe()

        def pipes():  # Chromium reads descriptor 3 and writes 4
            ours = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(ours[0], 3)
            os.dup2(ours[1], 4)

        words = [CHROMIUM, *_FLAGS, f"--user-data-dir={self._folder.name}", "about:blank"]
        self._process = subprocess.Popen(
            words, preexec_fn=pipes, close_fds=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer, self._count, self._session = b"", 0, None
        self.said: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def call(self, method, timeout=60, **params):
        """The result of a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._until(lambda found: found.get("id") == self._count, timeout)["result"]

    def open(self, address, width=1280, height=900, dark=False):
        """Opens a page in a window of that size, and waits until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        page, _, anchor = address.partition("#")
        # The number makes it another page each time, where an anchor alone would load nothing.
        self.call("Page.navigate", url=f"{page}?{self._count}#{anchor}")
        self._until(lambda found: found.get("method") == "Page.loadEventFired", 60)

    def value(self, expression):
        """What JavaScript says, as JSON has it."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key, code, text=""):
        for kind, more in (("keyDown", {"text": text} if text else {}), ("keyUp", {})):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more,
            )  # fmt: skip

    def picture(self, path, **clip):
        """A PNG of the whole page, or of a part of it."""
        more = {"clip": {"scale": 1, **clip}} if clip else {}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, **more)
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def _until(self, is_it, timeout):
        end = time.monotonic() + timeout
        while True:
            while b"\0" in self._buffer:
                raw, _, self._buffer = self._buffer.partition(b"\0")
                found = json.loads(raw)
                self._note(found)
                if is_it(found):
                    assert "error" not in found, found
                    return found
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            part = os.read(self._read, 1 << 16)
            assert part, "the browser has ended"
            self._buffer += part

    def _note(self, found):
        params = found.get("params", {})
        if found.get("method") == "Runtime.exceptionThrown":
            self.said.append(str(params["exceptionDetails"]))
        elif found.get("method") == "Runtime.consoleAPICalled":
            self.said.append(str(params["args"]))
        elif found.get("method") == "Log.entryAdded":
            self.said.append(params["entry"]["text"])
        elif found.get("method") == "Network.requestWillBeSent":
            address = params["request"]["url"]
            if not address.startswith(("file:", "data:", "about:")):
                self.said.append(f"asked the network for {address}")
