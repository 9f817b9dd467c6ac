"""A service that holds every answer until it is told to let go, so that a test decides what is in flight when."""

import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

WAIT_S = 30


def _picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (512, 512), "yellow").save(file, "PNG")
    return file.getvalue()


ANSWER = json.dumps(
    {
        "candidates": [
            {
                "content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": ""}}]},
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 3,
            "candidatesTokenCount": 747,
            "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 747}],
        },
    }
).replace('"data": ""', f'"data": "{base64.b64encode(_picture()).decode()}"')


class Holding:
    """`arrived` counts requests; `release` answers those held and all that follow."""

    def __init__(self) -> None:
        self.base_url = ""
        self.answer = ANSWER
        self._arrived = 0
        self._changed = threading.Condition()
        self._open = threading.Event()

    def wait_for(self, requests: int) -> None:
        """Return once so many requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._arrived >= requests, WAIT_S), f"{self._arrived} arrived"

    @property
    def arrived(self) -> int:
        with self._changed:
            return self._arrived

    def release(self) -> None:
        self._open.set()

    def hold(self) -> None:
        with self._changed:
            self._arrived += 1
            self._changed.notify_all()
        self._open.wait(WAIT_S)


@contextmanager
def holding_service() -> Iterator[Holding]:
    service = Holding()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            service.hold()
            body = service.answer.encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.base_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        service.release()
        server.shutdown()
        thread.join()
        server.server_close()
