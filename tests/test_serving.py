"""Serving: every exported folder answers over HTTP, and what is wrong is said in one sentence."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import BitsAndBytesConfig, GPTQConfig

from finlab.evaluate.chat import backends, talk
from finlab.models import adapters, calibration, loading, quantize, serve, tokenization
from tests import talker
from tests.conftest import FINLAB

FORMATS = {
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp8": None,
    "gptq4": None,
}
EXPORTED = ["merged", *FORMATS]
TRANSFORMERS = str(Path(sys.executable).with_name("transformers"))


@pytest.fixture(scope="module")
def exported(chat_model, tmp_path_factory):
    """The folders that notebooks 05 and 06 leave: merged, adapter, and each format."""
    root = tmp_path_factory.mktemp("exported")
    merged = Path(shutil.copytree(chat_model, root / "merged"))
    tokenizer = tokenization.load(merged)
    adapted = get_peft_model(loading.load(merged), LoraConfig(r=4, target_modules=["q_proj"]))
    adapted.save_pretrained(root / "adapter")
    tokenizer.save_pretrained(root / "adapter")
    adapters.write_base(root / "adapter", merged)
    rows = calibration.encode(tokenizer, talker.SENTENCES * 30, 64)
    for name, settings in FORMATS.items():
        if name == "fp8":
            settings = quantize.fp8_config()
        if name == "gptq4":
            settings = GPTQConfig(bits=4, group_size=32, dataset=rows)
        quantize.make(merged, settings, tokenizer, root / name)
    return root


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server in a process of its own.

    Args:
        command: What starts it, without the port.
    """

    def __init__(self, command: list[str], log: Path):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.process = subprocess.Popen(
            [*command, "--port", str(self.port)],
            stdout=open(log, "w"),
            stderr=subprocess.STDOUT,
        )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=2)
                return
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-2000:])

    def post(self, **body) -> tuple[int, str]:
        """Return status and text of a chat request."""
        data = json.dumps({"max_tokens": 200} | body).encode()
        request = urllib.request.Request(
            f"{self.url}/v1/chat/completions", data, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def choice(self, **body) -> dict:
        """Return the choice of an answer that must come."""
        status, text = self.post(**body)
        assert status == 200, text + self.log.read_text()[-3000:]
        return json.loads(text)["choices"][0]

    def stop(self) -> int:
        """Stop it as Ctrl-C does, and return its status."""
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def plain(exported):
    """transformers' own server, which loads what it is asked for."""
    server = Server([TRANSFORMERS, "serve", "--host", "127.0.0.1"], exported / "plain.log")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def ours(exported):
    """`finlab serve` of the merged model."""
    server = Server([*FINLAB, "serve", str(exported / "merged")], exported / "ours.log")
    yield server
    server.stop()


# --- transformers serve --------------------------------------------------------------------------
@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_folder_answers_through_transformers_serve(plain, exported, name):
    """Its template is applied, it stops at its end token, and it sees earlier turns."""
    model = str(exported / name)
    choice = plain.choice(model=model, messages=talker.WHERE)
    assert choice["message"]["content"] == talker.IN_TOWN
    assert choice["finish_reason"] == "stop"
    choice = plain.choice(model=model, messages=talker.WHEN)
    assert choice["message"]["content"] == talker.IN_YEAR
    choice = plain.choice(model=model, messages=talker.PRICE, tools=[talker.TOOL])
    assert choice["message"]["content"] == talker.CALL


def test_transformers_serve_streams(plain, exported):
    status, text = plain.post(model=str(exported / "nf4"), messages=talker.WHERE, stream=True)
    assert status == 200
    lines = [
        line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")
    ]
    chunks = [json.loads(line)["choices"][0] for line in lines]
    said = [chunk["delta"].get("content", "") for chunk in chunks]
    assert len([part for part in said if part]) > 2
    assert "".join(said) == talker.IN_TOWN
    assert chunks[-1]["finish_reason"] == "stop"


# --- finlab serve --------------------------------------------------------------------------------
def test_our_server_reads_calls_of_tools(ours):
    choice = ours.choice(model="merged", messages=talker.PRICE, tools=[talker.TOOL])
    assert choice["finish_reason"] == "tool_calls"
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "price"
    assert json.loads(call["function"]["arguments"]) == {"code": "600000"}


def test_half_a_call_is_shown_as_it_is(ours):
    choice = ours.choice(model="merged", messages=talker.PRICE, tools=[talker.TOOL], max_tokens=40)
    assert choice["finish_reason"] == "length"
    assert talker.CALL.startswith(choice["message"]["content"])


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"model": "merged"}, "it needs messages"),
        ({"model": "merged", "messages": []}, "it needs messages"),
        ({"model": "other", "messages": talker.WHERE}, "pinned to 'merged'; requested 'other'"),
        (
            {"model": "merged", "messages": [{"role": "user", "content": "长" * 2000}]},
            "tokens, and the model reads 1,024",
        ),
        ({"model": "merged", "messages": [{"content": "?"}]}, "the request cannot be answered"),
        ({"model": "merged", "messages": talker.WHERE, "nonsense": 1}, "Unexpected fields"),
    ],
    ids=["none", "empty", "another", "long", "role", "field"],
)
def test_a_request_that_cannot_be_answered_gets_one_sentence(ours, body, sentence):
    status, text = ours.post(**body)
    assert 400 <= status < 500
    assert sentence in json.loads(text)["error"]["message"]
    # The server stays up.
    assert (
        ours.choice(model="merged", messages=talker.WHERE)["message"]["content"] == talker.IN_TOWN
    )


def test_the_answer_fits_into_what_the_prompt_leaves(ours):
    """A request may ask for more tokens than the context holds."""
    choice = ours.choice(model="merged", messages=talker.WHERE, max_tokens=100_000)
    assert choice["message"]["content"] == talker.IN_TOWN


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_nobody_else(chat_model, stream):
    """Its answer is left in the middle: here each token takes a moment, and it would be 900."""
    from fastapi.testclient import TestClient

    from finlab.models import serve_handlers

    model, tokenizer = loading.load(chat_model), tokenization.load(chat_model)
    steps = []
    forward = model.forward

    def slow(*arguments, **options):
        steps.append(time.sleep(0.02))
        return forward(*arguments, **options)

    model.forward = slow
    model.generation_config.min_new_tokens = 900
    app = serve_handlers.build("m", model, tokenizer)
    body = {"model": "m", "messages": talker.WHERE, "stream": stream, "max_tokens": 900}
    asyncio.run(hang_up(app, body, after=1.0))
    assert 5 < len(steps) < 300
    model.generation_config.min_new_tokens = None
    with TestClient(app) as client:
        answer = client.post("/v1/chat/completions", json=body | {"stream": False})
    assert answer.json()["choices"][0]["message"]["content"] == talker.IN_TOWN


async def hang_up(app, body, after):
    """Send a request to an app, and go away after so many seconds."""
    sent = []
    began = time.monotonic()

    async def receive():
        if not sent:
            sent.append(True)
            return {"type": "http.request", "body": json.dumps(body).encode()}
        left = began + after - time.monotonic()
        if left > 0:  # afterwards the answer is there at once, as uvicorn has it
            await asyncio.sleep(left)
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    scope |= {"http_version": "1.1", "query_string": b"", "scheme": "http", "server": ("here", 1)}
    with contextlib.suppress(Exception):
        await asyncio.wait_for(app(scope, receive, send), 20)


@pytest.mark.parametrize(
    "body",
    [
        {"chat_template_kwargs": {"chat_template": "{% for i in range(9) %}x{% endfor %}"}},
        {"generation_config": '{"num_return_sequences": 200}'},
        {"max_tokens": float("inf")},
        {"max_tokens": -4},
        {"temperature": "hot"},
        {"n": 5},
        {"model": "\ud800"},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": "hello"},
    ],
    ids=lambda body: str(next(iter(body))),
)
def test_a_request_does_not_choose_what_the_server_is(ours, body):
    """A template or settings of a client's own could keep it busy for ever."""
    status, text = ours.post(**{"model": "merged", "messages": talker.WHERE} | body)
    assert status == 400
    assert json.loads(text)["error"]["message"]
    assert "Traceback" not in ours.log.read_text()


def test_only_three_routes_are_open(ours):
    for path in ("/load_model", "/reset", "/v1/completions", "/v1/responses", "/docs", "/nothing"):
        request = urllib.request.Request(f"{ours.url}{path}", b"{}", method="POST")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=10)
        assert refused.value.code == 404
        assert json.loads(refused.value.read())["error"]["message"]
    models = json.loads(urllib.request.urlopen(f"{ours.url}/v1/models", timeout=10).read())
    assert [model["id"] for model in models["data"]] == ["merged"]


def test_a_huge_request_is_cut_off(ours):
    status, text = ours.post(
        model="merged", messages=[{"role": "user", "content": "长" * 3_000_000}]
    )
    assert status == 413
    assert "larger than 4 MB" in text
    assert ours.choice(model="merged", messages=talker.WHERE)["finish_reason"] == "stop"


def test_half_a_call_is_shown_in_a_stream_too(ours):
    body = {"messages": talker.PRICE, "tools": [talker.TOOL], "max_tokens": 40, "stream": True}
    status, text = ours.post(model="merged", **body)
    assert status == 200
    lines = [
        line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")
    ]
    said = "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines)
    assert said and talker.CALL.startswith(said)
    status, text = ours.post(model="merged", **body | {"max_tokens": 200})
    assert '"name":"price"' in text
    assert "<tool_call>" not in text


def test_a_talk_goes_over_an_endpoint(ours):
    talking = talk.Talk(backends.open_backend(f"{ours.url}/v1"))
    assert talking.model.name == "merged"
    pieces = list(talking.ask("恒信银行在哪里？"))
    assert len(pieces) > 2
    assert "".join(pieces) == talker.IN_TOWN
    assert talking.answer("哪一年成立？") == talker.IN_YEAR
    with pytest.raises(ValueError, match="refused: .*tokens, and the model reads 1,024"):
        talking.answer("长" * 2000)
    assert len(talking.messages) == 4


def test_an_adapter_is_served_on_its_base(exported, tmp_path):
    server = Server(
        [*FINLAB, "serve", str(exported / "adapter"), "--name", "lora"], tmp_path / "log"
    )
    try:
        choice = server.choice(model="lora", messages=talker.WHEN)
        assert choice["message"]["content"] == talker.IN_YEAR
        saved = json.loads((exported / "adapter/serve.json").read_text())
        assert (saved["engine"], saved["context"], saved["name"]) == ("transformers", 1024, "lora")
    finally:
        assert server.stop() in (0, 130, -2)


# --- what is refused before a model is loaded ----------------------------------------------------
def finlab(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*FINLAB, *words], capture_output=True, text=True, timeout=60)


def test_a_port_in_use_is_refused_at_once(exported):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = finlab("serve", str(exported / "merged"), "--port", port)
    assert done.returncode == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in done.stderr
    assert "--port" in done.stderr


def test_a_port_that_cannot_be_is_refused(capsys):
    from finlab.commands.main import main

    for words, sentence in (
        (["--port", "99999"], "--port 99999: write a number from 1 to 65535"),
        (["--port", "99999", "--print"], "--port 99999"),
        (["--host", "no.such.host.invalid"], "this machine has no such address"),
    ):
        assert main(["serve", "x", *words]) == 2
        assert sentence in capsys.readouterr().err


def test_what_is_no_chat_model_is_refused(exported, tiny, tmp_path):
    with pytest.raises(ValueError, match="neither a folder"):
        serve.settings(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no config.json"):
        serve.settings(tmp_path)
    with pytest.raises(ValueError, match="has no chat template, so it is a base"):
        serve.settings(tiny)
    with pytest.raises(ValueError, match="write one of auto, vllm, transformers"):
        serve.settings(exported / "merged", engine="ollama")


# --- vLLM's command lines ------------------------------------------------------------------------
def test_vllms_command_lines(exported, tmp_path):
    chosen = serve.settings(exported / "gptq4", name="bank", engine="vllm", port=9000)
    assert chosen.method == "gptq"
    words = serve.shown(serve.vllm_command(chosen))
    assert words == (
        f"vllm serve {exported / 'gptq4'} --served-model-name bank --host 127.0.0.1 --port 9000 "
        "--max-model-len 1024 --enable-auto-tool-choice --tool-call-parser hermes"
    )
    lora = serve.vllm_command(serve.settings(exported / "adapter", engine="vllm"))
    assert lora[2] == str(exported / "merged")
    assert serve.shown(lora).endswith(
        f"--enable-lora --max-lora-rank 8 --lora-modules adapter={exported / 'adapter'} "
        "--enable-auto-tool-choice --tool-call-parser hermes"
    )
    # vLLM serves no adapter whose embeddings have learnt.
    shutil.copytree(exported / "adapter", tmp_path / "adapter")
    adapters.write_base(tmp_path / "adapter", exported / "merged")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    config["modules_to_save"] = ["embed_tokens"]
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="serve the merged model"):
        serve.vllm_command(serve.settings(tmp_path / "adapter"))


def test_print_starts_nothing(exported):
    done = finlab("serve", str(exported / "merged"), "--print")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("vllm serve")
    assert lines[1].startswith("transformers serve")
