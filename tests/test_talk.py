"""Talking with a model: turns, undo, sources, pipes, files of questions, endpoints with moods."""

import http.server
import json
import os
import pty
import re
import select
import subprocess
import sys
import threading
import time

import pytest

from finlab import paths
from finlab.commands.main import main
from finlab.data import cards
from finlab.evaluate.chat import backends, batch, talk
from finlab.evaluate.knowledge import passages
from finlab.evaluate.knowledge.index import Index
from tests import talker
from tests.conftest import FINLAB, ROOT


class Parrot:
    """A backend that repeats what it was asked, word by word."""

    name = "parrot"

    def __init__(self, answers=None):
        self.asked = []
        self.settings = None
        self.answers = answers or {}

    def stream(self, messages, settings):
        self.asked.append(messages)
        self.settings = settings
        last = messages[-1]["content"]
        if last == "fail":
            raise ValueError("no answer today")
        yield from self.answers.get(last, f"you said {last}").split(" ")


# --- a talk --------------------------------------------------------------------------------------
def test_a_talk_remembers_and_takes_back(tmp_path):
    parrot = Parrot()
    talking = talk.Talk(parrot, system="be brief", settings={"temperature": 0})
    talking.answer("one")
    talking.answer("two")
    assert [turn["role"] for turn in parrot.asked[-1]] == ["system", "user", "assistant", "user"]
    assert parrot.settings == {"temperature": 0}
    assert talking.undo() == "two"
    assert [turn["content"] for turn in talking.messages] == ["one", "yousaidone"]
    talking.clear()
    with pytest.raises(ValueError, match="nothing to take back"):
        talking.undo()
    with pytest.raises(ValueError, match="nothing to save"):
        talking.save(tmp_path / "talk.jsonl")
    with pytest.raises(ValueError, match="the question is empty"):
        talking.answer("  ")


def test_half_a_character_is_no_crash(chat_model):
    talking = talk.Talk(backends.open_backend(str(chat_model)), settings={"max_new_tokens": 8})
    talking.answer("恒信银行在哪里？\udce9")
    assert talking.messages[0]["content"] == "恒信银行在哪里？?"


def test_an_answer_that_fails_leaves_no_half_turn():
    talking = talk.Talk(Parrot())
    with pytest.raises(ValueError, match="no answer today"):
        talking.answer("fail")
    assert talking.messages == []


def test_an_answer_that_is_broken_off_is_kept_as_far_as_it_came():
    talking = talk.Talk(Parrot())
    pieces = talking.ask("hello")
    assert next(pieces) == "you"
    pieces.close()
    assert talking.messages[-1] == {"role": "assistant", "content": "you"}


def test_a_saved_talk_is_a_row_that_a_card_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    (tmp_path / "data_cards").mkdir()
    talking = talk.Talk(Parrot(), system="brief")
    talking.answer("one")
    talking.save(tmp_path / "talk.jsonl")
    talking.answer("two")
    talking.save(tmp_path / "talk.jsonl")
    (tmp_path / "data_cards/mine.md").write_text(
        "---\nlicense: mit\nfinlab: {domain: finance, language: zh, kind: dialogue, "
        "files: [talk.jsonl], format: jsonl}\n---\n# mine\n"
    )
    rows = cards.load_all(["mine"], "dialogue")
    [source] = rows.values()
    assert [len(row["messages"]) for row in source.rows] == [3, 5]
    with pytest.raises(ValueError, match="cannot be written"):
        talking.save(tmp_path / "nowhere/talk.jsonl")


def test_a_model_on_this_machine_streams_and_stops(chat_model):
    talking = talk.Talk(backends.open_backend(str(chat_model)))
    assert talking.answer(talker.WHERE[0]["content"]) == talker.IN_TOWN
    assert talking.answer("哪一年成立？") == talker.IN_YEAR
    with pytest.raises(ValueError, match="tokens, and the model reads 1,024: take back"):
        talking.answer("长" * 2000)
    assert len(talking.messages) == 4
    talking.settings = {"max_new_tokens": 4}
    talking.clear()
    assert talker.IN_TOWN.startswith(talking.answer(talker.WHERE[0]["content"]))
    assert len(talking.messages[-1]["content"]) < len(talker.IN_TOWN)


def test_a_base_is_no_chat_model(tiny):
    with pytest.raises(ValueError, match="has no chat template, so it is a base"):
        backends.open_backend(str(tiny))


# --- with knowledge ------------------------------------------------------------------------------
@pytest.fixture
def base(tmp_path):
    """A knowledge base of one document."""
    index = Index(tmp_path / "house.sqlite")
    text = "恒信银行成立于1996年。恒信银行的总部在临江市。"
    index.add([passages.Document(id="a", source="notes", title="恒信银行", text=text)])
    index.close()
    return tmp_path / "house.sqlite"


def test_answers_from_a_base_name_their_source(base):
    knowledge = talk.open_knowledge([str(base)], threshold=0.5)
    question = "恒信银行成立于哪一年？"
    parrot = Parrot()
    talking = talk.Talk(parrot, knowledge=knowledge)
    # The parrot cites nothing, so that the passage's own sentence stands in for it.
    said = talking.answer(question)
    assert said == "恒信银行成立于1996年。[1]"
    assert talking.sources() == ["[1] 《恒信银行》 (house)"]
    assert "【材料1】" in parrot.asked[-1][-1]["content"]
    assert talking.messages[0]["content"] == question
    asked = len(parrot.asked)
    assert talking.answer("火星上有几家餐厅？") == "材料中没有找到答案。"
    assert talking.sources() == []
    assert len(parrot.asked) == asked  # no model was asked


def test_a_base_whose_threshold_nobody_measured_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="notebook 08 measures it, or say --threshold"):
        talk.open_knowledge([str(base)])
    with pytest.raises(ValueError, match="no knowledge base at"):
        talk.open_knowledge([str(tmp_path / "nothing")])
    step = tmp_path / "knowledge"
    (step / "artifact").mkdir(parents=True)
    base.rename(step / "artifact/customer.sqlite")
    (step / "metrics.json").write_text('{"thresholds": {"customer": {"threshold": 0.76}}}')
    knowledge = talk.open_knowledge([str(step)])
    assert [(tier.name, tier.threshold) for tier in knowledge.tiers] == [("customer", 0.76)]


def test_a_file_that_is_no_base_stays_as_it_is(tmp_path):
    table = tmp_path / "customers.csv"
    table.write_text("name,balance\n")
    with pytest.raises(ValueError, match="is not a whole knowledge base"):
        talk.open_knowledge([str(table)], threshold=0.5)
    assert table.read_text() == "name,balance\n"
    assert not list(tmp_path.glob("*.broken*"))


# --- files of questions --------------------------------------------------------------------------
def test_questions_are_read_in_the_forms_people_have(tmp_path, data):
    (tmp_path / "plain.txt").write_text("一？\n\n二？\n", encoding="utf-8")
    assert batch.read_questions(tmp_path / "plain.txt") == ["一？", "二？"]
    rows = [
        {"instruction": "翻译", "input": "股票"},
        {"question": "什么是A股？"},
        {"messages": [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "好"}]},
    ]
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    assert batch.read_questions(tmp_path / "rows.jsonl") == ["翻译\n股票", "什么是A股？", "你好"]
    real = batch.read_questions(data / "dialogues/cornucopia_infer.json")
    assert len(real) == 5
    assert real[0] == "你好，我想了解一下创业板股票怎么买？"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", "\n \n", "holds no question"),
        ("a.jsonl", '{"answer": "x"}\n', "row 1|line 1"),
        ("a.jsonl", '{"question": "x"}\n{broken\n', "are not JSON"),
        ("b.txt", None, "no file of questions"),
        ("a.jsonl", '{"messages": 5}\n', "or messages with one question"),
        (
            "a.jsonl",
            '{"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}\n',
            "or messages with one question",
        ),
    ],
)
def test_a_bad_file_of_questions_is_refused(tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=sentence):
        batch.read_questions(tmp_path / name)


def test_a_broken_off_file_goes_on_behind_its_last_answer(tmp_path):
    questions = ["one", "two", "fail", "three"]
    out = tmp_path / "answers.jsonl"
    parrot = Parrot()
    first = batch.answer_file(talk.Talk(parrot), questions, out)
    next(first)
    first.close()
    with open(out, "a") as file:
        file.write('{"question": "two", "ans')  # a kill in the middle of a line
    rest = list(batch.answer_file(talk.Talk(parrot), questions, out))
    assert [row["question"] for row in rest] == ["two", "fail", "three"]
    # What had no answer is asked again, and the others are not.
    again = list(batch.answer_file(talk.Talk(parrot), questions, out))
    assert [row["question"] for row in again] == ["fail"]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["answer"] for row in rows] == ["yousaidone", "yousaidtwo", "", "yousaidthree"]
    assert rows[2]["error"] == "no answer today"
    # Each question stands by itself.
    assert all(len(messages) == 1 for messages in parrot.asked)
    with pytest.raises(ValueError, match="holds answers to other questions"):
        list(batch.answer_file(talk.Talk(parrot), ["another"], out))


@pytest.mark.parametrize("content", ["meeting notes\n", "[1, 2]\n", '{"question": 1}\n', "notes"])
def test_a_file_of_something_else_is_not_written_over(tmp_path, content):
    out = tmp_path / "notes.txt"
    out.write_text(content)
    with pytest.raises(ValueError, match="holds something else than answers"):
        list(batch.answer_file(talk.Talk(Parrot()), ["one"], out))
    assert out.read_text() == content


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "gbk.txt").write_bytes("什么是市盈率？\n".encode("gbk"))
    with pytest.raises(ValueError, match="gbk.txt: not UTF-8"):
        batch.read_questions(tmp_path / "gbk.txt")


# --- what an answer may hold ---------------------------------------------------------------------
def test_halves_of_a_character_are_put_together():
    assert "".join(talk.readable(iter(["a\ud83d", "\ude00b"]))) == "a😀b"
    assert "".join(talk.readable(iter(["a\ud83d", "b"]))) == "a\ufffdb"
    assert "".join(talk.readable(iter(["a\ude00"]))) == "a\ufffd"


def test_an_answer_does_not_steer_the_terminal():
    said = "".join(talk.readable(iter(["\x1b]0;owned\x07", "好\t1\n2\x1b[2J"])))
    assert said == "]0;owned好\t1\n2[2J"


def test_a_question_that_the_model_cannot_compute_is_one_sentence(chat_model):
    model = backends.open_backend(str(chat_model))
    talking = talk.Talk(model, system="\udcff", settings={"temperature": 1e-42})
    assert talking.answer(talker.WHERE[0]["content"])  # taken as 0, and the system message is clean
    talking.settings = {"max_new_tokens": 4, "top_p": -3.0}
    with pytest.raises(ValueError, match="the model cannot answer"):
        talking.answer("？")


# --- the command ---------------------------------------------------------------------------------
def chat(chat_model, said, *words):
    return subprocess.run(
        [*FINLAB, "chat", str(chat_model), *words],
        input=said,
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
    )


def test_a_talk_in_a_pipe(chat_model, tmp_path):
    said = "\n".join(
        [
            talker.WHERE[0]["content"],
            "哪一年成立？",
            "/history",
            "/undo",
            f"/save {tmp_path / 'talk.jsonl'}",
            "/nonsense",
            "/system 简短",
            "/clear",
            "/undo",
            "/exit",
            "never read",
        ]
    )
    done = chat(chat_model, said)
    assert done.returncode == 1, "two commands could not be done"
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[:2] == [talker.IN_TOWN, talker.IN_YEAR]
    assert f"> {talker.WHERE[0]['content']}" in lines
    assert "(taken back: 哪一年成立？)" in lines
    assert "(system: 简短)" in lines
    assert "never read" not in done.stdout
    assert "there is no command /nonsense; /help lists them" in done.stderr
    assert "nothing to take back" in done.stderr
    [row] = [json.loads(line) for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert [turn["content"] for turn in row["messages"]] == [
        talker.WHERE[0]["content"],
        talker.IN_TOWN,
    ]


def test_a_question_without_an_answer_fails_the_pipe(chat_model):
    done = chat(chat_model, "长" * 2000 + "\n" + talker.WHERE[0]["content"] + "\n")
    assert done.returncode == 1
    assert "tokens, and the model reads 1,024" in done.stderr
    assert talker.IN_TOWN in done.stdout


def test_a_file_of_questions(chat_model, tmp_path):
    (tmp_path / "questions.txt").write_text(talker.WHERE[0]["content"] + "\n", encoding="utf-8")
    words = ["--file", str(tmp_path / "questions.txt"), "--out", str(tmp_path / "out.jsonl")]
    done = chat(chat_model, "", *words)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row == {"question": talker.WHERE[0]["content"], "answer": talker.IN_TOWN, "sources": []}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere/at/all"], "is neither a folder"),
        (["x", "--temperature", "-1"], "--temperature -1.0: write a number from 0 to 10"),
        (["x", "--file", "q.txt"], "--file and --out belong together"),
        (["ftp://x", "--system", "a"], "is neither a folder"),
        (["http://127.0.0.1:9/v1"], "does not answer"),
    ],
)
def test_a_wrong_word_is_refused(capsys, monkeypatch, words, sentence):
    monkeypatch.chdir(ROOT)
    assert main(["chat", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_a_talk_at_a_terminal(chat_model):
    """With a real terminal: what is typed in Chinese, backspace over a wide character, Ctrl-D."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    process = subprocess.Popen(
        [*FINLAB, "chat", str(chat_model)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        cwd=ROOT,
    )
    os.close(theirs)
    try:
        assert "/help lists the commands" in seen(ours, r"\n>")
        os.write(ours, "恒信银行在哪里？错\x7f\r".encode())
        assert talker.IN_TOWN in seen(ours, f"{talker.IN_TOWN}\\s*>")
        os.write(ours, b"\x04")
        assert process.wait(20) == 0
    finally:
        process.kill()
        os.close(ours)


def seen(terminal: int, wanted: str, seconds: float = 60) -> str:
    """Return what a terminal shows, without its controls, once a pattern is found in it."""
    shown = b""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ready, _, _ = select.select([terminal], [], [], 0.2)
        if ready:
            try:
                shown += os.read(terminal, 4096)
            except OSError:  # the other side has gone
                break
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode(errors="replace"))
        if re.search(wanted, text):
            return text
    raise AssertionError(shown.decode(errors="replace"))


# --- endpoints with moods ------------------------------------------------------------------------
STREAMS = {
    "cut": [({"role": "assistant"}, None), ({"content": "half an ans"}, None)],
    "empty": [({"role": "assistant"}, None), ({}, "stop")],
}


class Moody(http.server.BaseHTTPRequestHandler):
    """An endpoint that does not stream, refuses, or sends nonsense, as its class says."""

    mood = "whole"
    asked: list = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        listed = [] if self.mood == "none" else [{"id": "m", "object": "model"}]
        self.reply(200, {"object": "list", "data": listed})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.mood == "refuse stream" and body.get("stream"):
            return self.reply(400, {"error": {"message": "stream is not supported"}})
        if body.get("stream") and self.mood in STREAMS:
            return self.stream(STREAMS[self.mood])
        if self.mood == "broken":
            return self.reply(500, {"error": {"message": "out of memory"}})
        said = {"role": "assistant", "content": f"turn {len(body['messages'])}"}
        self.reply(200, {"choices": [{"index": 0, "message": said, "finish_reason": "stop"}]})

    def stream(self, pieces):
        self.asked.append(1)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in pieces:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            self.wfile.write(f"data: {json.dumps({'choices': [choice]})}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n" if pieces[-1][1] else b"")

    def reply(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def endpoint(request):
    handler = type("Bound", (Moody,), {"mood": request.param})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("endpoint", ["whole", "refuse stream"], indirect=True)
def test_an_endpoint_without_streaming_answers_at_once(endpoint):
    talking = talk.Talk(backends.open_backend(endpoint))
    assert talking.answer("a") == "turn 1"
    assert talking.model.streams is False
    assert talking.answer("b") == "turn 3"


@pytest.mark.parametrize(
    ("endpoint", "sentence"),
    [
        ("none", "lists no model: name one, as model@http"),
        ("broken", "refused: out of memory"),
        ("cut", "broke off in the middle of its answer"),
        ("empty", "ended its answer at once"),
    ],
    indirect=["endpoint"],
)
def test_an_endpoint_in_a_bad_mood_gets_one_sentence(endpoint, sentence):
    with pytest.raises(ValueError, match=sentence):
        talk.Talk(backends.open_backend(endpoint)).answer("a")


@pytest.mark.parametrize("endpoint", ["empty"], indirect=True)
def test_an_empty_answer_is_not_paid_twice(endpoint):
    model = backends.open_backend(endpoint)
    Moody.asked.clear()
    assert list(model.stream([{"role": "user", "content": "a"}], {})) == []
    assert len(Moody.asked) == 1
    assert model.streams is True


def test_passages_stay_in_the_house(base, monkeypatch, capsys):
    """A base may hold what customers have said; a provider is not to read it."""
    remote = backends.RemoteModel("http://model.example/v1", "m")
    monkeypatch.setattr(backends, "open_backend", lambda target: remote)
    words = ["chat", "m@http://model.example/v1", "--knowledge", str(base), "--threshold", "0.5"]
    assert main(words) == 2
    assert "say --passages-leave" in capsys.readouterr().err
    assert main([*words[:-1], "5"]) == 2
    assert "--threshold 5.0: write a share from 0 to 1" in capsys.readouterr().err


def test_a_key_is_named_and_never_written(monkeypatch):
    monkeypatch.delenv("BANK_KEY", raising=False)
    with pytest.raises(ValueError, match=r"export BANK_KEY="):
        backends.open_backend("gpt@http://127.0.0.1:9/v1#BANK_KEY")


def test_the_prompt_toolkit_is_not_asked_for_in_a_pipe():
    """A server without a terminal need not have one."""
    code = "import sys; import finlab.commands.chat; print('prompt_toolkit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "False"
