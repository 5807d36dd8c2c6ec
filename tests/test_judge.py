"""Judges: strict verdicts in both orders, an endpoint that misbehaves.

Blind sheets out and back, scores fed back into data.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from openpyxl import load_workbook

from finlab.data import dialogues, preferences
from finlab.evaluate import ask_lm, endpoints, feedback, judging, raters, statistics
from finlab.evaluate.exams import answer_exams, prepare


@pytest.mark.parametrize(
    "text, found",
    [
        ("甲更准确。\n[[7, 4]]", (7, 4)),
        ("[[6，8]]", (6, 8)),
        ("[[ 7.5 / 4 ]]", (7.5, 4)),
        ("[[7, 4]] 我再说一遍：[[7, 4]]", (7, 4)),
        ("格式如 [[6, 8]]，我的评分：[[7, 4]]", None),
        ("[[11, 4]]", None),
        ("甲七分，乙四分", None),
        ("[[7]]", None),
        ("[7, 4]", None),
        ("", None),
        (None, None),
    ],
)
def test_verdicts_are_read_strictly(text, found):
    assert judging.points(text) == found


ROWS = [
    {
        "id": f"q{n}",
        "question": f"第{n}问",
        "first": "短" * (n + 1),
        "second": "长答案" * (n + 1),
        "reference": "",
    }
    for n in range(6)
]


def test_both_orders_are_judged_and_disagreement_is_a_tie():
    def likes_the_first_shown(question, first, second, reference):
        return "[[9, 3]]"

    found = judging.report(judging.compare(likes_the_first_shown, ROWS), "biased")
    assert (
        found["n"],
        found["ties"],
        found["wins"],
        found["swap_consistency"],
        found["position_bias"],
    ) == (6, 6, 0, 0, 1.0)
    assert found["win_rate"] == 0.5
    assert found["mean_points"] == {"first": 6, "second": 6}
    assert found["sign_p"] == 1

    def likes_length(question, first, second, reference):
        return f"[[{min(len(first), 10)}, {min(len(second), 10)}]]"

    records = judging.compare(likes_length, ROWS)
    found = judging.report(records)
    assert (
        found["wins"],
        found["ties"],
        found["losses"],
        found["swap_consistency"],
        found["position_bias"],
    ) == (6, 0, 0, 1.0, 0.5)
    assert found["candidate longer"]["n"] == 6
    assert found["candidate shorter"]["win_rate"] is None
    assert found["sign_p"] == pytest.approx(2 / 2**6)
    assert all(record["points"][0] == record["points"][1] for record in records)


def test_an_error_is_counted_and_decides_nothing():
    def fails(question, first, second, reference):
        return {"第0问": None, "第1问": "我拒绝评分", "第2问": "[[1, 2]] [[2, 1]]"}.get(
            question, "[[2, 9]]" if first.startswith("短") else "[[9, 2]]"
        )

    found = judging.report(judging.compare(fails, ROWS))
    assert (found["errors"], found["n"], found["wins"], found["win_rate"]) == (3, 3, 3, 1.0)
    empty = judging.report(judging.compare(lambda *_: None, ROWS[:1]))
    assert empty["n"] == 0
    assert empty["win_rate"] is None
    assert empty["errors"] == 1
    assert judging.report([])["n"] == 0


def test_the_interval_is_over_questions():
    """A question judged twice is still one question: 4 of 6 won gives the interval of six draws."""

    records = [
        {
            "id": n,
            "verdict": "second" if n < 4 else "first",
            "consistent": True,
            "points": [[1, 2], [1, 2]] if n < 4 else [[2, 1], [2, 1]],
            "lengths": [1, 1],
        }
        for n in range(6)
    ]
    found = judging.report(records)
    assert (found["ci_low"], found["ci_high"]) == statistics.bootstrap([1, 1, 1, 1, 0, 0])


def test_facts_decide_without_a_model():
    rows = [
        {
            "id": "a",
            "question": "澄江重工在哪？",
            "first": "在临江。",
            "second": "在鹿鸣市。",
            "reference": "鹿鸣",
        },
        {"id": "b", "question": "?", "first": "鹿鸣", "second": "鹿鸣", "reference": "鹿鸣"},
        {"id": "c", "question": "?", "first": "x", "second": "y", "reference": ""},
    ]
    assert [record["verdict"] for record in judging.compare(judging.by_facts, rows)] == [
        "second",
        "tie",
        "error",
    ]
    assert "no model" in judging.by_facts.name


# --- an endpoint ---------------------------------------------------------------------------------
class Server:
    """A small OpenAI-compatible endpoint whose replies are given.

    A text, a status, or `stall`, `rubbish`, `empty`.
    """

    def __init__(self):
        self.replies, self.seen, self.times = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.seen.append((body, self.headers.get("Authorization")))
                outer.times.append(time.monotonic())
                reply = outer.replies.pop(0) if outer.replies else "[[7, 4]]"
                if reply == "stall":
                    time.sleep(3)
                status = reply if isinstance(reply, int) else 200
                content = {
                    "rubbish": b"<html>504</html>",
                    "empty": b'{"choices": []}',
                    "null": b'{"choices": [{"message": {"role": "assistant", "content": null}}]}',
                }.get(
                    reply,
                    json.dumps(
                        {
                            "id": "1",
                            "object": "chat.completion",
                            "created": 1,
                            "model": "m",
                            "choices": [
                                {
                                    "index": 0,
                                    "finish_reason": "stop",
                                    "message": {"role": "assistant", "content": reply},
                                }
                            ],
                        }
                    ).encode(),
                )
                try:
                    self.send_response(status)
                    if status == 429:
                        self.send_header("Retry-After", "0")
                    self.send_header(
                        "Content-Type", "text/html" if reply == "rubbish" else "application/json"
                    )
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    pass  # the client has gone

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"


@pytest.fixture
def server():
    made = Server()
    yield made
    made.http.shutdown()


ASKED = [{"role": "user", "content": "你好"}]


def test_an_endpoint_answers_once_and_keeps_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.replies = [429, 500, "你好，我是助手"]
    ask = endpoints.open_endpoint(f"m@{server.url}#OPENAI_API_KEY", store=tmp_path / "kept.jsonl")
    assert ask(ASKED) == "你好，我是助手", "what may pass is tried again"
    assert len(server.seen) == 3, "what may pass is tried again"
    assert ask.errors == 0, "what may pass is tried again"
    body, header = server.seen[-1]
    assert body["model"] == "m"
    assert body["temperature"] == 0
    assert header == "Bearer sk-secret"
    assert "sk-secret" not in (tmp_path / "kept.jsonl").read_text()
    again = endpoints.open_endpoint(f"m@{server.url}", store=tmp_path / "kept.jsonl")
    assert again(ASKED) == "你好，我是助手", "a rerun costs nothing"
    assert len(server.seen) == 3, "a rerun costs nothing"
    assert again.calls == 0, "a rerun costs nothing"
    assert (
        endpoints.open_endpoint(f"other@{server.url}", store=tmp_path / "kept.jsonl")(ASKED)
        == "[[7, 4]]"
    ), "another model's answer is not taken"
    assert server.seen[-1][1] == "Bearer none", (
        "OpenAI's key goes to OpenAI, and to whom it is named for"
    )
    assert (
        endpoints.open_endpoint(f"m@{server.url}", store=tmp_path / "kept.jsonl", temperature=0.5)(
            ASKED
        )
        == "[[7, 4]]"
    )


@pytest.mark.parametrize(
    "reply, reason",
    [
        ("rubbish", ""),
        ("empty", ""),
        ("null", "without text"),
        ("", "without text"),
        (400, "400"),
        ("stall", "timed out"),
    ],
)
def test_rubbish_and_silence_are_no_answer(server, tmp_path, reply, reason):
    server.replies = [reply]
    ask = endpoints.open_endpoint(
        f"m@{server.url}", store=tmp_path / "kept.jsonl", retries=0, timeout=1
    )
    assert ask(ASKED) is None, ask.reason
    assert ask.errors == 1, ask.reason
    assert reason in ask.reason, ask.reason
    assert ask(ASKED) == "[[7, 4]]", "a failure is not kept: it is asked again"


def test_a_judge_behind_an_endpoint(server, tmp_path):
    server.replies = ["甲好。[[8, 3]]", "甲好。[[8, 3]]", "rubbish", "[[5, 5]]"]
    ask = endpoints.open_endpoint(f"m@{server.url}", store=tmp_path / "kept.jsonl", retries=0)
    found = judging.report(
        judging.compare(judging.by_model(ask), ROWS[:2], workers=1), judging.by_model(ask).name
    )
    assert (found["ties"], found["errors"]) == (1, 1)
    assert found["judge"].startswith("m, prompt golden@1 ")
    prompt = server.seen[0][0]["messages"][0]["content"]
    assert "回答甲：\n短" in prompt
    assert "回答乙：\n长答案" in prompt
    assert "参考答案" not in prompt
    assert (
        "参考答案（供核对，不参加评分）：\n鹿鸣"
        in (
            judging.by_model(ask)("问", "a", "b", "鹿鸣"),
            server.seen[-1][0]["messages"][0]["content"],
        )[1]
    )


def test_requests_a_minute_are_bounded(server):
    ask, server.replies = (
        endpoints.open_endpoint(f"m@{server.url}", per_minute=300),
        [429, "a", 500],
    )
    for number in range(3):
        ask([{"role": "user", "content": str(number)}])
    assert len(server.times) == 5 == ask.calls
    assert all(later - earlier > 0.15 for earlier, later in zip(server.times, server.times[1:]))


def test_an_endpoint_takes_an_exam_in_writing(server, tmp_path):
    from tests.test_harness import Source, item

    server.replies = ["答案是A", 400, "rubbish", "我不知道"]
    exams = prepare({"mine": Source([item(n, answer=0) for n in range(4)])}, tmp_path, "generate")
    records = answer_exams(
        ask_lm.AskLM(endpoints.open_endpoint(f"m@{server.url}", retries=0), workers=1), exams
    )
    assert [(record["right"], record["fault"]) for record in records] == [
        (True, ""),
        (False, "failed"),
        (False, "failed"),
        (False, "unparsed"),
    ]


def test_wrong_endpoints_are_named(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match="wants a key: export OPENAI_API_KEY"):
        endpoints.open_endpoint("gpt-4o@https://api.openai.com/v1")
    with pytest.raises(ValueError, match="wants a key: export MINE"):
        endpoints.open_endpoint("m@https://example.com/v1#MINE")
    with pytest.raises(ValueError, match="'gpt-4o' is not an endpoint: write model@url"):
        endpoints.open_endpoint("gpt-4o")


# --- people --------------------------------------------------------------------------------------
def fill(path, verdict, **more):
    """Fill in a sheet as a rater would: `verdict` gets the two answers as shown."""
    book = load_workbook(path)
    sheet = book.active
    for row in sheet.iter_rows(min_row=2):
        row[4].value = verdict(row[2].value, row[3].value)
        for column, make in more.items():
            row[raters.COLUMNS.index(column)].value = make(row[2].value, row[3].value)
    book.save(path)


def test_sheets_go_out_blind_and_come_back(tmp_path):
    rows = [row | {"first": "=1+1 " + row["first"]} for row in ROWS]
    paths = raters.write_sheets(rows, tmp_path, raters=3, seed=1)
    assert [path.name for path in paths] == ["rater1.xlsx", "rater2.xlsx", "rater3.xlsx"]
    tables = [
        list(load_workbook(path).active.iter_rows(min_row=2, values_only=True)) for path in paths
    ]
    assert [row[1] for row in tables[0]] != [row[1] for row in tables[1]]
    assert sorted(row[1] for row in tables[0]) == [f"第{n}问" for n in range(6)]
    shown = [row[2].startswith("=1+1") for table in tables for row in table]
    assert 0 < sum(shown) < 18, "the sides are changed"
    assert all(
        cell.data_type == "s"
        for row in load_workbook(paths[0]).active.iter_rows(min_row=2, max_col=4)
        for cell in row
    ), "no answer becomes a formula"
    assert not any(
        "first" in str(value) or "q0" in str(value)
        for table in tables
        for row in table
        for value in row
    ), "nothing tells whose answer it is"

    def better(first, second):
        return "甲" if "长" in first else "乙"

    for path in paths[:2]:
        fill(
            path,
            better,
            甲分=lambda first, second: 9 if "长" in first else 3,
            乙分=lambda first, second: 9 if "长" in second else 3,
        )
    fill(
        paths[2],
        lambda first, second: "一样",
        更好的写法=lambda first, second: "都不好，应当先说风险。",
    )
    assert raters.write_sheets(rows, tmp_path, raters=3, seed=1) == paths
    judgements, faults = raters.read_sheets(raters.open_sheets(paths), paths[0].parent / "key.json")
    assert not faults, "what was filled in is still there"
    assert len(judgements) == 18, "what was filled in is still there"
    assert {one["verdict"] for one in judgements} == {"second", "same"}, (
        "what was filled in is still there"
    )
    found = raters.people(judgements)
    assert (
        found["n"],
        found["raters"],
        found["good"],
        found["bad"],
        found["win_rate"],
        found["mean_points"],
    ) == (6, 3, 6, 0, 1.0, {"first": 3, "second": 9})
    assert found["kappa"] == pytest.approx(-0.5), (
        "two against one on every question is less than chance"
    )

    sft, pairs = feedback.feedback(judgements, rows)
    assert len(sft) == 12, (
        "a rewrite and an answer of nine points; a rewrite over both, the better over the worse"
    )
    assert len(pairs) == 18, (
        "a rewrite and an answer of nine points; a rewrite over both, the better over the worse"
    )
    assert dialogues.read_dialogue(sft[0])["messages"][1]["content"] == "都不好，应当先说风险。"
    assert dialogues.read_dialogue(sft[1])["messages"][1]["content"].startswith("长答案")
    read = [preferences.read_preference(pair) for pair in pairs]
    assert all(
        pair["prompt"][0]["content"].startswith("第") and pair["chosen"] != pair["rejected"]
        for pair in read
    )
    assert read[2]["chosen"][0]["content"].startswith("长答案")
    assert read[2]["rejected"][0]["content"].startswith("=1+1")


def test_old_sheets_are_not_read_for_new_answers(tmp_path):
    old = raters.write_sheets(ROWS, tmp_path, raters=1)
    new = raters.write_sheets([row | {"second": "新答案"} for row in ROWS], tmp_path, raters=1)
    assert old != new
    assert raters.write_sheets([], tmp_path) == []
    fill(old[0], lambda first, second: "甲")
    judgements, faults = raters.read_sheets(raters.open_sheets(old), new[0].parent / "key.json")
    assert not judgements
    assert len(faults) == 6
    assert "stands in no sheet that was sent out" in faults[0]["reason"]


def test_what_raters_get_wrong_is_named_by_sheet_and_row(tmp_path):
    path = raters.write_sheets(ROWS, tmp_path, raters=1)[0]
    book = load_workbook(path)
    sheet = book.active
    for number, (verdict, points, code) in enumerate(
        [
            ("甲", 7, None),
            ("都好", None, None),
            ("", None, None),
            ("乙", 11, None),
            ("一样", None, "nonsense"),
        ],
        2,
    ):
        sheet.cell(number, 5).value, sheet.cell(number, 6).value = verdict, points
        if code:
            sheet.cell(number, 1).value = code
    sheet.cell(7, 1).value, sheet.cell(7, 5).value = sheet.cell(2, 1).value, "甲"
    book.save(path)
    judgements, faults = raters.read_sheets(raters.open_sheets([path]), path.parent / "key.json")
    assert len(judgements) == 1
    assert [fault["where"] for fault in faults] == [
        f"{path.parent.name}/rater1.xlsx:row {number}" for number in (3, 4, 5, 6, 7)
    ]
    assert [
        "哪个更好 is '都好'" in faults[0]["reason"],
        faults[1]["reason"],
        "甲分 is '11'" in faults[2]["reason"],
    ] == [True, "not judged", True]
    assert "stands in no sheet" in faults[3]["reason"]
    assert "a second time" in faults[4]["reason"]
    sheet.cell(1, 5).value = "better"
    book.save(path)
    with pytest.raises(ValueError, match="without moving columns"):
        raters.open_sheets([path])
    (tmp_path / "notes.xlsx").write_text("not a spreadsheet")
    for wrong in ("notes.xlsx", "missing.xlsx"):
        with pytest.raises(ValueError, match=f"{wrong} cannot be read as a spreadsheet"):
            raters.open_sheets([tmp_path / wrong])


def test_fleiss_on_the_known_example():
    """Fleiss' table as every textbook prints it.

    Ten subjects, fourteen raters, five categories; kappa 0.210.
    """
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert raters.fleiss(
        [[str(place) for place, count in enumerate(row) for _ in range(count)] for row in table]
    ) == pytest.approx(0.210, abs=5e-4)
    assert raters.fleiss([["a", "a"], ["a", "a"]]) is None
    assert raters.fleiss([["a"]]) is None
    assert raters.fleiss([]) is None


def test_a_split_vote_is_the_same():
    def votes(*given):
        return [
            {
                "id": "q",
                "rater": rater,
                "verdict": verdict,
                "points": [None, None],
                "rewrite": "",
                "note": "",
            }
            for rater, verdict in enumerate(given)
        ]

    assert raters.people(votes("first", "second", "same"))["same"] == 1
    assert raters.people(votes("first", "second"))["same"] == 1
    assert raters.people(votes("second", "second", "first"))["good"] == 1
    assert raters.people(votes("first", "first", "same"))["bad"] == 1
    assert raters.people([])["n"] == 0
    assert raters.people([])["kappa"] is None


def completion(text):
    message = SimpleNamespace(content=text)
    return SimpleNamespace(choices=[SimpleNamespace(message=message)])


@pytest.mark.parametrize("asked", ["²", "soon", "", "-1"])
def test_a_wait_that_is_no_number_is_none(asked):
    error = SimpleNamespace(response=SimpleNamespace(headers={"retry-after": asked}))
    assert endpoints._wait_asked_for(error) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("a page of HTML", "answers in another form than OpenAI's: 'a page of HTML'"),
        (SimpleNamespace(choices=[]), "answers in another form"),
        (completion(None), "an answer without text"),
        (completion("好\ud83d"), "half a character"),
    ],
)
def test_answers_of_other_shapes_are_told_in_words(monkeypatch, answer, reason):
    endpoint = endpoints.open_endpoint("m@http://localhost:1/v1", retries=0)
    monkeypatch.setattr(endpoint, "_send", lambda messages: answer)
    assert endpoint([{"role": "user", "content": "问"}]) is None
    assert reason in endpoint.reason
    assert endpoint.errors == 1


def test_openais_headers_go_to_openai_alone(monkeypatch):
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "ours")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    other = endpoints.open_endpoint("m@http://localhost:1/v1").client
    sent = {str(value) for value in {**other.default_headers, **other.auth_headers}.values()}
    assert not any("ours" in value for value in sent)
    assert not other._client.follow_redirects
    own = endpoints.open_endpoint("m@https://api.openai.com/v1").client
    assert own.default_headers["OpenAI-Organization"] == "ours"
    near = endpoints.open_endpoint("m@https://api.openai.com.evil.example/v1").client
    assert near.api_key == "none"


def test_a_key_that_is_missing_or_broken_is_said(tmp_path):
    with pytest.raises(ValueError, match="key.json is missing: without it nobody knows"):
        raters.read_sheets({}, tmp_path / "key.json")
    (tmp_path / "key.json").write_text("{")
    with pytest.raises(ValueError, match="key.json cannot be read"):
        raters.read_sheets({}, tmp_path / "key.json")
    (tmp_path / "key.json").write_text("[1]")
    with pytest.raises(ValueError, match="is not a key of sheets"):
        raters.read_sheets({}, tmp_path / "key.json")


def test_a_verdict_that_contradicts_its_points_is_a_fault(tmp_path):
    (tmp_path / "key.json").write_text(json.dumps({"a": {"id": "1", "turned": False, "rater": 1}}))
    row = ("a", "问", "一", "二", "甲", 3, 8, None, None)
    judgements, faults = raters.read_sheets(
        {"s": [tuple(raters.COLUMNS), row]}, tmp_path / "key.json"
    )
    assert not judgements
    assert "哪个更好 is 甲, and the points are 3 to 8" in faults[0]["reason"]
