"""The sandbox as a process: it listens, ends, and is driven by the official SDK."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from google import genai
from google.genai import errors, types
from PIL import Image

from tests.sandbox.process import ROOT, sandbox_process, spawn
from tests.sandbox.wire import MODEL, asking

URL = f"/v1beta/models/{MODEL}:generateContent"


def client(base_url: str, key: str = "sandbox") -> genai.Client:
    return genai.Client(api_key=key, http_options=types.HttpOptions(base_url=base_url))


@pytest.fixture
def short_path():
    """A folder whose path leaves room in the 104 bytes of a Unix socket's address."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_example_of_the_price_sheet_saves_its_poster(tmp_path):
    """The owner's example on the official SDK, which takes `base_url` where it once took `client_options`."""
    with sandbox_process(tmp_path, latency_s=0) as base_url:
        client = genai.Client(api_key="sandbox", http_options=types.HttpOptions(base_url=base_url))

        resp = client.models.generate_content(
            model="gemini-3.1-flash-image-preview",
            contents="Generate a 1K banana-themed minimalist poster in bright yellow and white",
            config=types.GenerateContentConfig(
                response_modalities=["IMAGE", "TEXT"],
                image_config=types.ImageConfig(aspect_ratio="1:1", image_size="1K"),
            ),
        )

        for part in resp.parts or ():
            if image := part.as_image():
                image.save(str(tmp_path / "banana-poster.png"))
            elif part.text:
                print(part.text)  # noqa: T201
    with Image.open(tmp_path / "banana-poster.png") as poster:
        assert poster.size == (1024, 1024)
    (line,) = map(json.loads, (tmp_path / "bill.jsonl").read_text().splitlines())
    assert resp.usage_metadata is not None
    assert (line["image"], line["input"]) == (1120, resp.usage_metadata.prompt_token_count)


@pytest.mark.parametrize(
    ("faults", "code", "fragment"),
    [
        ("daily_quota=1", 429, "2h35m3.27s"),
        ("retired_404=1", 404, "is no longer available"),
        ("http_503_demand=1", 503, "high demand"),
        ("http_502_html=1", 502, "502 Bad Gateway"),
        ("error_list=1", 503, "currently unavailable"),
    ],
)
def test_sdk_sees_errors(tmp_path, faults, code, fragment):
    with (
        sandbox_process(tmp_path, faults=faults, latency_s=0) as base_url,
        client(base_url) as sdk,
        pytest.raises(errors.APIError) as caught,
    ):
        sdk.models.generate_content(model=MODEL, contents="a cat")
    assert caught.value.code == code
    assert fragment in str(caught.value)


def test_sdk_sees_unknown_models_and_wrong_settings(tmp_path):
    with sandbox_process(tmp_path, latency_s=0) as base_url, client(base_url) as sdk:
        with pytest.raises(errors.ClientError, match="404 NOT_FOUND"):
            sdk.models.generate_content(model="nobody", contents="a cat")
        with pytest.raises(errors.ClientError, match="Unsupported image_size '1k'"):
            sdk.models.generate_content(
                model=MODEL,
                contents="a cat",
                config=types.GenerateContentConfig(image_config=types.ImageConfig(image_size="1k")),
            )
        with client(base_url, "wrong") as stranger, pytest.raises(errors.ClientError, match="API key not valid"):
            stranger.models.get(model=MODEL)
        assert {f"models/{MODEL}"} <= {model.name for model in sdk.models.list()}


@pytest.mark.parametrize(
    ("fault", "reason"), [("image_safety", "IMAGE_SAFETY"), ("no_image", "NO_IMAGE"), ("words_only", "STOP")]
)
def test_sdk_sees_refusals(tmp_path, fault, reason):
    with sandbox_process(tmp_path, faults=f"{fault}=1", latency_s=0) as base_url, client(base_url) as sdk:
        answer = sdk.models.generate_content(model=MODEL, contents="a cat")
    (candidate,) = answer.candidates or [types.Candidate()]
    assert candidate.finish_reason == types.FinishReason(reason)
    assert not any(part.inline_data for part in answer.parts or ())


def test_sdk_sends_references_in_its_own_mixture_of_spellings(tmp_path):
    """Snake case below camel case and the other base64 alphabet: what the SDK really sends is understood."""
    config = types.GenerateContentConfig(
        response_modalities=["IMAGE"],
        system_instruction="No lettering.",
        thinking_config=types.ThinkingConfig(thinking_level=types.ThinkingLevel.HIGH, include_thoughts=True),
        safety_settings=[
            types.SafetySetting(
                category=types.HarmCategory.HARM_CATEGORY_HARASSMENT,
                threshold=types.HarmBlockThreshold.BLOCK_ONLY_HIGH,
            )
        ],
        tools=[types.Tool(google_search=types.GoogleSearch())],
    )
    with sandbox_process(tmp_path, latency_s=0) as base_url, client(base_url) as sdk:
        first = sdk.models.generate_content(model=MODEL, contents="a cat", config=config)
        picture = next(part for part in first.parts or () if part.inline_data and not part.thought)
        turn = types.Content(role="user", parts=[types.Part.from_text(text="at night"), picture])
        second = sdk.models.generate_content(model=MODEL, contents=turn, config=config)
    assert second.usage_metadata is not None
    assert (second.usage_metadata.prompt_token_count or 0) > 516


def test_unix_socket_and_a_stale_file_in_its_place(tmp_path, short_path):
    """The socket that a killed sandbox left is replaced, and the next one counts on from its files."""
    uds = short_path / "s"
    child, base_url = spawn(tmp_path, uds=uds, latency_s=0)
    with child, httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url=base_url) as http:
        assert http.post(URL, json=asking(), headers={"x-goog-api-key": "sandbox"}).status_code == 200
        child.kill()
    assert uds.is_socket()
    with (
        sandbox_process(tmp_path, uds=uds, latency_s=0) as base_url,
        httpx.Client(transport=httpx.HTTPTransport(uds=str(uds)), base_url=base_url) as http,
    ):
        assert http.post(URL, json=asking(), headers={"x-goog-api-key": "sandbox"}).status_code == 200
    rows = [json.loads(line) for line in (tmp_path / "bill.jsonl").read_text().splitlines()]
    assert [(row["n"], row["seen"]) for row in rows] == [(1, 1), (2, 2)]


def test_end_of_stdin_ends_it(tmp_path):
    """A parent that dies takes the sandbox with it, also in the middle of an answer."""
    child, base_url = spawn(tmp_path, latency_s=1000)
    with child, socket.create_connection(("127.0.0.1", int(base_url.rsplit(":", 1)[1]))) as waiting:
        body = json.dumps(asking()).encode()
        waiting.sendall(
            f"POST {URL}?key=sandbox HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        waiting.sendall(body)
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(10) == 0


def test_it_outlives_nobody(tmp_path):
    """The parent is killed and closes nothing: the kernel closes its end of the pipe."""
    code = (
        "import sys, pathlib\n"
        "from tests.sandbox.process import spawn\n"
        "print(spawn(pathlib.Path(sys.argv[1]))[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        with socket.create_connection(
            ("127.0.0.1", int(parent.stdout.readline().rsplit(":", 1)[1])), 10
        ) as witness:
            parent.kill()
            assert witness.recv(1) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(tmp_path, number):
    child, _ = spawn(tmp_path)
    with child:
        child.send_signal(number)
        assert child.wait(10) == 0


def test_the_child_starts_light(tmp_path):
    """Neither Pillow nor what only the runner needs is loaded before the first picture."""
    code = "import sys, runner.sandbox; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"PIL", "pydantic", "sqlmodel", "sqlalchemy", "typer", "rich", "httpx", "yaml"} & {*loaded}
