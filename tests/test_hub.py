"""Data from the hub: streamed or fetched, over a network with moods, killed and taken up again.

The hub is a small server on loopback, see `hub_server`.
"""

import fcntl
import gzip
import io
import json
import random
import signal
import subprocess
import sys
import time
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from tests.hub_server import Hub, Worker

TEXT_CARD = """license: apache-2.0
finlab: {domain: finance, language: zh, kind: text, hub: lab/news, config: cmn, format: hub}"""
FILE_CARD = """license: apache-2.0
finlab: {domain: finance, language: zh, kind: text, hub: lab/news, data_files: ["raw/*.gz"], format: jsonl}"""
PRELUDE = """
import sys
from finlab import paths
from pathlib import Path
paths.ROOT = Path({root!r})
from finlab.data import cards, hub, hub_errors, hub_state
hub.PART_BYTES = {part}
hub_errors.WAITS = (0.1, 0.2, 0.4)
"""
COUNT = "print(len([row for row in cards.stream(cards.read('news'), [])]))"


def parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink, row_group_size=20)
    return sink.getvalue()


def documents(first: int, count: int) -> list[dict]:
    rows = []
    for number in range(first, first + count):
        kind = "财经" if number % 2 else "体育"
        rows.append(
            {"id": number, "text": f"第{number}篇：央行公告。" * 5, "kind": kind, "junk": "x"}
        )
    return rows


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    served = Hub(tmp_path_factory.mktemp("hub"))
    yield served
    served.close()


@pytest.fixture(scope="module")
def worker(server, tmp_path_factory):
    process = Worker(server, tmp_path_factory.mktemp("cache"))
    yield process
    process.close()


@pytest.fixture
def hub(server, tmp_path):
    """Serve a dataset of three shards of 100 rows, with a configuration, and packed files."""
    server.reset(tmp_path / "hub")
    readme = (
        "---\nconfigs:\n- config_name: cmn\n  data_files:\n"
        "  - split: train\n    path: cmn/*.parquet\n---\n"
    )
    files = {"README.md": readme.encode()}
    for shard in range(3):
        rows = documents(100 * shard, 100)
        files[f"cmn/{shard}.parquet"] = parquet(rows)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[f"raw/{shard}.jsonl.gz"] = gzip.compress(lines.encode(), mtime=0)
    server.add("lab/news", files)
    return server


@pytest.fixture
def lab(hub, worker, tmp_path):
    """Return a function that runs Python over the hub, with a card `news` to read."""
    root = tmp_path / "root"
    (root / "data_cards").mkdir(parents=True)
    cache = tmp_path / "cache"

    def run(code, card=TEXT_CARD, part=4000, alone=False, **environment):
        front = f"---\n{card}\n---\n# news\n"
        (root / "data_cards" / "news.md").write_text(front, encoding="utf-8")
        code = PRELUDE.format(root=str(root), part=part) + code
        if alone:
            return hub.python(code, cache, **environment)
        return worker.python(code, FINLAB_CACHE=str(cache / "finlab"), **environment)

    run.root = root
    run.cache = cache
    return run


def answer(done):
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]


def last_line(done):
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


# --- streamed rows -------------------------------------------------------------------------------
def test_rows_are_streamed_once_and_then_read_from_the_cache(hub, lab):
    assert answer(lab(COUNT)) == "300"
    asked = len(hub.seen)
    code = (
        "card = cards.read('news'); source = cards.load('news'); "
        "print(len(source.rows), source.rows[299]['text'][:4], hub_state.held(card).state)"
    )
    assert answer(lab(code)) == "300 第299 there"
    assert len(hub.seen) == asked, "nothing is asked twice"


def test_a_killed_stream_goes_on_behind_its_last_part(hub, lab):
    code = """
seen = 0
for row in cards.stream(cards.read("news"), []):
    seen += 1
    if seen == 150:
        import os
        os.kill(os.getpid(), 9)
"""
    assert lab(code, alone=True).returncode == -signal.SIGKILL
    (index,) = lab.cache.rglob("index.json")
    assert "'shard_idx': 1" in str(json.loads(index.read_text())["state"])
    assert (
        answer(lab("rows = cards.load('news').rows; print(len(rows), len(set(rows['text'])))"))
        == "300 300"
    )


def test_only_some_rows_and_only_so_many_bytes(lab):
    wanted = TEXT_CARD.replace("format: hub", "format: hub, where: {kind: [财经]}")
    assert answer(lab(COUNT, wanted)) == "150"
    few = TEXT_CARD.replace("format: hub", "format: hub, max_bytes: 5000")
    count = int(answer(lab(COUNT, few)))
    assert 10 < count < 60
    # A second reading is the same, and the wanted column alone was kept.
    assert int(answer(lab(COUNT, few))) == count
    shown = (
        "import json; print(json.dumps(next(hub.rows(cards.read('news')))[1], ensure_ascii=False))"
    )
    assert set(json.loads(answer(lab(shown, few)))) == {"text"}


@pytest.mark.parametrize("mood", ["429", "503", "stall", "cut"])
def test_a_stream_survives_the_networks_moods(hub, lab, mood):
    hub.moods = ["ok", mood, "ok", mood, mood]
    code = "rows = cards.load('news').rows; print(len(rows), len(set(rows['text'])))"
    assert answer(lab(code)) == "300 300"


def test_a_damaged_part_is_not_read(lab):
    answer(lab(COUNT))
    part = next(lab.cache.rglob("part-00000.jsonl.zst"))
    part.write_bytes(part.read_bytes()[:-3] + b"xyz")
    assert "is missing or changed since it was written: delete" in last_line(lab(COUNT))


# --- fetched files -------------------------------------------------------------------------------
def test_files_are_fetched_and_read_by_their_format(hub, lab):
    assert answer(lab(COUNT, FILE_CARD)) == "300"
    asked = len(hub.seen)
    assert answer(lab(COUNT, FILE_CARD)) == "300"
    assert len(hub.seen) == asked


@pytest.mark.parametrize("mood", ["429", "503", "stall", "cut"])
def test_files_survive_the_networks_moods(hub, lab, mood):
    hub.moods = [mood, "ok", mood]
    assert answer(lab(COUNT, FILE_CARD)) == "300"


def test_a_cut_file_goes_on_at_its_byte(hub, lab):
    hub.add("lab/news", {"raw/large.gz": random.Random(17).randbytes(45_000_000)})
    hub.moods = ["cut"]
    card = FILE_CARD.replace("raw/*.gz", "raw/large.gz")
    answer(lab("hub.fetch(cards.read('news')); print('done')", card))
    # Half of it came, of which whole chunks of 10 MiB were kept.
    assert [part for _, part in hub.downloaded()][-1] == "bytes=20971520-"


def test_a_file_with_another_hash_is_deleted(hub, lab):
    hub.tampered.add("raw/1.jsonl.gz")
    said = last_line(lab(COUNT, FILE_CARD))
    assert "raw/1.jsonl.gz has another content than lab/news states, so it was deleted" in said
    assert "1.jsonl.gz" not in {path.name for path in lab.cache.rglob("*.gz")}
    hub.tampered.clear()
    assert answer(lab(COUNT, FILE_CARD)) == "300"


def test_a_fetched_file_that_was_lost_or_changed_is_fetched_again(hub, lab):
    assert answer(lab(COUNT, FILE_CARD)) == "300"
    lost, cut, changed = sorted(lab.cache.rglob("*.gz"))
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-5])
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1  # the same size
    changed.write_bytes(content)
    state = "from finlab.data import hub_state; print(hub_state.held(cards.read('news')).state)"
    assert answer(lab(state, FILE_CARD)) == "partly there"
    assert answer(lab(COUNT, FILE_CARD)) == "300"
    assert answer(lab(state, FILE_CARD)) == "there"
    asked = len(hub.seen)
    assert answer(lab(COUNT, FILE_CARD)) == "300"
    assert len(hub.seen) == asked


def test_what_a_killed_download_left_is_deleted(lab):
    code = (
        "from finlab.data import hub_state\n"
        "left = hub_state.folder(cards.read('news')) / 'files/.cache/a.12345678.incomplete'\n"
        "left.parent.mkdir(parents=True); left.write_bytes(b'half')\n"
    )
    assert answer(lab(code + COUNT, FILE_CARD)) == "300"
    assert not list(lab.cache.rglob("*.incomplete"))


@pytest.mark.parametrize("card", [TEXT_CARD, FILE_CARD])
def test_what_is_here_is_read_while_another_process_works_on_it(hub, lab, card):
    assert answer(lab(COUNT, card)) == "300"
    (index,) = lab.cache.rglob("index.json")
    with open(index.parent / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        begun = time.time()
        assert answer(lab(COUNT, card)) == "300"
    assert time.time() - begun < 15


def test_a_full_disk_is_no_failure_of_the_network(lab):
    code = (
        "import errno; from finlab import files\n"
        "def full(path): raise OSError(errno.ENOSPC, 'No space left on device')\n"
        "files.flush_to_disk = full\n"
    )
    said = last_line(lab(code + COUNT, alone=True))
    assert "card news: the disk is full: free some, or set FINLAB_CACHE" in said


def test_an_exam_in_a_zip_file(hub, lab):
    header = "id,question,A,B,C,D,answer\n"
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(
            "val/accountant_val.csv", header + "0,1+1=?,1,2,3,4,B\n1,2+2=?,1,2,3,4,D\n"
        )
        archive.writestr("dev/accountant_dev.csv", header + "0,0+1=?,1,2,3,4,A\n")
    hub.add("lab/exam", {"exam.zip": packed.getvalue()})
    card = (
        "license: cc-by-nc-sa-4.0\nfinlab: {domain: general, language: zh, kind: exam, "
        "hub: lab/exam, data_files: [exam.zip], format: ceval}"
    )
    code = "rows = cards.load('news').rows; print(sorted(rows['id']))"
    expected = ["news/dev/accountant/0", "news/val/accountant/0", "news/val/accountant/1"]
    assert answer(lab(code, card)) == str(expected)


def test_a_disk_that_is_too_small_is_named(lab):
    code = (
        "import shutil, collections; usage = collections.namedtuple('usage', 'total used free'); "
        "shutil.disk_usage = lambda path: usage(1, 1, 100)\n" + COUNT
    )
    said = last_line(lab(code, FILE_CARD, alone=True))
    assert "100 bytes free: free some, or set FINLAB_CACHE to a folder on another disk" in said


# --- wrong addresses -----------------------------------------------------------------------------
GONE = "the hub has no dataset 'lab/nothing', or it is private"
NO_REVISION = "lab/news has no revision 'v9' any more"
NO_FIELD = "no text in field 'body'; its fields are"


@pytest.mark.parametrize(
    ("card", "change", "message"),
    [
        (TEXT_CARD, ("lab/news", "lab/nothing"), GONE),
        (FILE_CARD, ("lab/news", "lab/nothing"), GONE),
        (TEXT_CARD, ("format", "revision: v9, format"), NO_REVISION),
        (FILE_CARD, ("format", "revision: v9, format"), NO_REVISION),
        (TEXT_CARD, ("format", "text: body, format"), NO_FIELD),
        (FILE_CARD, ("format", "text: body, format"), NO_FIELD),
        (TEXT_CARD, ("config: cmn", "config: jpn"), "correct `config:` or `split:`"),
        (TEXT_CARD, ("config: cmn", "config: cmn, split: dev"), "correct `config:` or `split:`"),
        (FILE_CARD, ("raw/*.gz", "raw/*.zip"), "no file of lab/news matches 'raw/*.zip': it has"),
    ],
)
def test_wrong_addresses_are_named(lab, card, change, message):
    done = lab(COUNT, card.replace(*change))
    assert message in last_line(done), done.stderr[-1500:]


@pytest.mark.parametrize("card", [TEXT_CARD, FILE_CARD])
def test_a_gated_dataset_says_where_to_ask_and_shows_no_token(hub, lab, card):
    hub.gated.add("lab/news")
    page = "lab/news is gated: ask for access at https://huggingface.co/datasets/lab/news"
    assert page in last_line(lab(COUNT, card))
    refused = lab(COUNT, card, HF_TOKEN="hf_secretsecret")
    assert page in last_line(refused)
    assert "hf_secret" not in refused.stderr + refused.stdout
    assert answer(lab(COUNT, card, HF_TOKEN="allowed")) == "300"


@pytest.mark.parametrize("card", [TEXT_CARD, FILE_CARD])
def test_a_hub_that_does_not_answer_loses_nothing(hub, lab, card):
    hub.moods = ["ok", "ok"] + ["503"] * 200
    said = last_line(lab("hub.fetch(cards.read('news'))", card))
    assert "what came so far is kept; run the same command again later" in said
    hub.moods = []
    assert answer(lab(COUNT, card)) == "300"


@pytest.mark.parametrize("card", [TEXT_CARD, FILE_CARD])
def test_questions_that_fail_are_the_networks_doing(hub, lab, card):
    hub.head_moods = ["503"] * 200
    # In a process of its own, with a cache of its own.
    said = last_line(lab("hub.fetch(cards.read('news'))", card, alone=True))
    assert "what came so far is kept; run the same command again later" in said
    hub.head_moods = ["503"] * 3
    assert answer(lab(COUNT, card, alone=True)) == "300"


def test_offline_says_how_to_fetch_at_once(lab):
    waits = "hub_errors.WAITS = (60, 60)\n"
    said = last_line(lab(waits + COUNT, alone=True, HF_HUB_OFFLINE="1"))
    assert said.startswith("ConnectionError: card news: HF_HUB_OFFLINE")
    assert "HF_HUB_OFFLINE is set, and lab/news is not here yet" in said


def test_two_processes_do_not_fetch_at_once(hub, lab):
    hub.moods = ["stall"] * 2
    prelude = PRELUDE.format(root=str(lab.root), part=4000)
    lab("cards.read('news')")
    first = subprocess.Popen(
        [sys.executable, "-c", prelude + COUNT],
        env=hub.environment(lab.cache),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert answer(lab(COUNT)) == "300"
    assert first.communicate(timeout=60)[0].strip() == "300"
    (index,) = lab.cache.rglob("index.json")
    parts = json.loads(index.read_text())["parts"]
    assert sum(part["rows"] for part in parts) == 300
