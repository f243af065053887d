"""Headless Chromium over its debugging pipe: what a page really does, with nothing but the standard library."""

import json
import os
import shutil
import subprocess
import tempfile
import time
from base64 import b64decode
from pathlib import Path

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


class Browser:
    """One page of one browser. ``events`` holds what the browser told: console messages, errors, requests."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="browser-")
        read_commands, self.commands = os.pipe()
        self.answers, write_answers = os.pipe()
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-pipe",
            "--disable-extensions",
        ]
        # the browser reads commands from descriptor 3 and answers on 4
        shell = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, BINARY, *flags, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """One command; its answer. Events that arrive meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self.buffer:
            data = os.read(self.answers, 1 << 16)
            if not data:
                raise RuntimeError("the browser went away")
            self.buffer += data
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path, width=1280, height=1000, dark=False):
        """Load a file in a window of that size and wait until it is drawn."""
        self.events.clear()
        self._size(width, height)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Page.navigate", url=Path(path).as_uri())
        deadline = time.monotonic() + 60
        while self.run("document.readyState !== 'complete' || location.href === 'about:blank'"):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path} did not load")
            time.sleep(0.05)
        time.sleep(0.3)  # fonts and the first layout

    def _size(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def resize(self, width, height):
        """Another window, the same page; back when it is laid out and plots have followed."""
        self._size(width, height)
        self.run("new Promise((done) => setTimeout(() => requestAnimationFrame(done), 400))")

    def run(self, script):
        """The value of an expression in the page (promises are awaited)."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def errors(self):
        """Console errors and warnings, exceptions, blocked resources."""
        self.run("new Promise((done) => setTimeout(done, 100))")
        told = []
        for event in self.events:
            kind, detail = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown":
                told.append(detail["exceptionDetails"]["exception"].get("description"))
            elif kind == "Log.entryAdded" and detail["entry"]["level"] in {"error", "warning"}:
                told.append(detail["entry"]["text"])
            elif kind == "Runtime.consoleAPICalled" and detail["type"] in {"error", "warning", "assert"}:
                told.append(str(detail["args"]))
        return told

    def requests(self):
        """Addresses asked for, data inside the page left out."""
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def screenshot(self, path, full=True):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=full)["data"]
        Path(path).write_bytes(b64decode(data))

    def pdf(self, path):
        Path(path).write_bytes(b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.commands)
        os.close(self.answers)
        shutil.rmtree(self.profile, ignore_errors=True)
