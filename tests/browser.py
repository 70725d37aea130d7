"""A headless Chromium with a keyboard, over its debugging pipe."""

import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 60  # for an answer
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --remote-debugging-pipe"
)
KEYS = {"Tab": 9, " ": 32}


class Browser:
    """One tab; what its console says of errors is kept in `errors`.

    Args:
      profile: an empty folder.
    """

    def __init__(self, profile):
        there, self._out = os.pipe()
        self._in, back = os.pipe()
        start = f'exec "$0" "$@" 3<&{there} 4>&{back}'
        command = ["bash", "-c", start, CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(there)
        os.close(back)
        self._read, self._calls, self._session, self.errors = b"", 0, None, []
        tab = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def close(self):
        os.close(self._out)  # which ends it
        self._process.wait(timeout=SECONDS)
        os.close(self._in)

    def open(self, address, *, width=1200, dark=False):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=address)
        end = time.monotonic() + SECONDS
        while self.run("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < end

    def run(self, script):
        """What an expression is."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    def press(self, key):
        code = {"key": key, "windowsVirtualKeyCode": KEYS[key], "text": key.strip("Tab")}
        self._call("Input.dispatchKeyEvent", type="keyDown", **code)
        self._call("Input.dispatchKeyEvent", type="keyUp", **code)

    def _call(self, method, **params):
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._calls:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown" or (
                answer.get("method") == "Log.entryAdded"
                and answer["params"]["entry"]["level"] == "error"
            ):
                self.errors.append(answer["params"])

    def _next(self):
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._in], [], [], SECONDS)
            assert ready, "the browser does not answer"
            self._read += os.read(self._in, 1 << 20)
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)
