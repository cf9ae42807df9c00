"""A real ComfyUI server with this pack in it, as a process of its own, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from real_comfyui.install import comfyui, frontend

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
FOLDERS = ("custom_nodes", "models/loras", "models/diffusers", "input", "output", "temp", "user")


class Server:
    """A running server: its URL, its base folder, its log, its process."""

    def __init__(self, url: str, base: Path, process: subprocess.Popen):
        self.url, self.base, self.process, self.log = url, base, process, base / "server.log"
        self._defaults: dict[str, dict] = {}

    def http(self, path: str, data: Any = None) -> tuple[int, Any]:
        """The status and the decoded body of a GET, or of a POST of ``data`` as JSON."""
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(
            self.url + path, body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                raw, status = reply.read(), reply.status
        except urllib.error.HTTPError as error:
            raw, status = error.read(), error.code
        try:
            return status, json.loads(raw) if raw else None
        except ValueError:
            return status, raw

    def node(self, kind: str, **inputs: Any) -> dict:
        """A node of a graph. Required inputs that are not given have their defaults, as on the page."""
        if kind not in self._defaults:
            required = self.http(f"/object_info/{kind}")[1][kind]["input"]["required"]
            self._defaults[kind] = {name: _default(*spec) for name, spec in required.items()}
        return {"class_type": kind, "inputs": {**self._defaults[kind], **inputs}}

    def queue(self, graph: dict) -> str:
        """The id of a graph that was put into the queue."""
        status, reply = self.http("/prompt", {"prompt": graph, "client_id": "tests"})
        assert status == 200, reply
        return reply["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 240) -> dict:
        """The history of a graph once it has ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            _, history = self.http(f"/history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.05)
        raise TimeoutError(self.log.read_text()[-4000:])

    def run(self, graph: dict) -> dict:
        """What the graph's nodes showed, {node: {name: [...]}}; an AssertionError if it failed."""
        history = self.wait(self.queue(graph))
        assert history["status"]["status_str"] == "success", error_of(history) or history["status"]
        return history["outputs"]

    def show(self, graph: dict, node: str, *slots: int) -> list[list]:
        """What outputs of a node are, each a list with an entry for each time that the node behind it ran."""
        shown = {
            f"slot {slot}": {"class_type": "TestShow", "inputs": {"value": [node, slot]}}
            for slot in slots
        }
        outputs = self.run({**graph, **shown})
        return [outputs[name]["text"] for name in shown]

    def fail(self, graph: dict) -> str:
        """The message of the node that failed, or of the validation."""
        status, reply = self.http("/prompt", {"prompt": graph, "client_id": "tests"})
        if status != 200:
            return json.dumps(reply)
        history = self.wait(reply["prompt_id"])
        assert history["status"]["status_str"] == "error", history["status"]
        return error_of(history)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the process and wait for it."""
        self.process.send_signal(number)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _default(kind: Any, options: dict | None = None) -> Any:
    """The default of an input; the first choice of a list, which older servers give as the input's type."""
    options = options or {}
    choices = kind if isinstance(kind, list) else options.get("options")
    return options.get("default", choices[0] if choices else None)


def error_of(history: dict) -> str:
    """The message of the node that ended a graph, or nothing."""
    for kind, fields in history["status"]["messages"]:
        if kind == "execution_error":
            return f"{fields['exception_type']}: {fields['exception_message']}"
        if kind == "execution_interrupted":
            return "interrupted"
    return ""


@contextlib.contextmanager
def serving(
    base: Path, version: str = "0.30.0", pack: Path = ROOT, **environment: str
) -> Iterator[Server]:
    """A server over the folder ``base``, with the pack and the tests' own nodes linked in; ended on leaving."""
    folder, python = comfyui(version)
    for name in FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    for name, target in (("ARR-RPO", pack), ("tests", HERE / "pack")):
        if not (base / "custom_nodes" / name).exists():
            (base / "custom_nodes" / name).symlink_to(target, target_is_directory=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "PYTHONPATH": str(HERE / "shims"),
        "ARR_JUDGES": str(base / "judges.yaml"),
        **environment,
    }
    command = [
        python,
        "main.py",
        "--cpu",
        "--listen",
        "127.0.0.1",
        "--port",
        str(port),
        "--disable-auto-launch",
        "--disable-api-nodes",
        "--base-directory",
        base,
        "--database-url",
        "sqlite:///:memory:",
    ]
    if page := frontend(version):
        command += ["--front-end-root", page]
    with (base / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=env
        )
    server = Server(f"http://127.0.0.1:{port}", base, process)
    try:
        _await(server)
        yield server
    finally:
        server.stop()


def _await(server: Server) -> None:
    for _ in range(1500):
        if server.process.poll() is not None:
            raise RuntimeError("ComfyUI ended at start:\n" + server.log.read_text()[-4000:])
        with contextlib.suppress(OSError):
            server.http("/system_stats")
            return
        time.sleep(0.2)
    raise TimeoutError("ComfyUI did not start:\n" + server.log.read_text()[-4000:])
