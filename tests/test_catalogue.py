"""What a recipe reads: where from, what of it is here, how many tokens; and getting the rest."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from datasets import Dataset

from finlab import paths
from finlab.data import budget, cards, catalogue
from finlab.run import licences, model_card, recipe
from tests.conftest import FINLAB
from tests.hub_server import Hub

PUBLISHED = ["cornucopia-7b", "golden-gpt-7b", "xuanyuan-70b", "yayi-7b", "zhilu-13b"]
PRETRAINED = ["golden-gpt-7b", "xuanyuan-70b", "zhilu-13b"]


def corpus_step(plan):
    return next(step for step in plan.steps if step.notebook == budget.CORPUS_NOTEBOOK)


# --- the shipped recipes -------------------------------------------------------------------------
@pytest.mark.parametrize("name", PUBLISHED)
def test_an_open_recipe_reads_nothing_but_the_hub(name):
    """So a person with a network and no files can start it."""
    entries = catalogue.of_recipe(recipe.load(f"{name}-open"))
    for entry in entries:
        assert entry.place.startswith("hub ") or entry.place == "finlab", entry
        assert entry.state != "not public"
        if entry.card is not None and "hub" in entry.card.spec:
            assert entry.card.spec["source_url"].startswith("https://huggingface.co/datasets/")


@pytest.mark.parametrize("name", PRETRAINED)
def test_no_published_recipe_reads_its_corpus_a_thousand_times(name):
    for each in (name, f"{name}-open"):
        plan = recipe.load(each)
        step = corpus_step(plan)
        rows = budget.cells(step.parameters, catalogue.of_recipe(plan))
        assert step.parameters["max_epochs"] == 4
        assert len(rows) == 4
        for row in rows:
            assert row["epochs"] <= 4, row
        budget.check(step.parameters, catalogue.of_recipe(plan))


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_corpus_that_is_not_public_is_told_with_its_stand_in(name):
    for card in corpus_step(recipe.load(name)).parameters["text_cards"]:
        spec = cards.read(card).spec
        assert "hub" in cards.read(spec["stand_in"]).spec
        with pytest.raises(ValueError, match=f"{card}: its data are not public; the nearest"):
            cards.fingerprint(cards.read(card))


def test_too_many_tokens_are_refused_with_what_would_be_feasible():
    plan = recipe.load("zhilu-13b-open", ["corpus.tokens=900000000000"])
    entries = catalogue.of_recipe(plan)
    with pytest.raises(ValueError, match="allowed: lower tokens to 71,8.* or add .* tokens of"):
        budget.check(corpus_step(plan).parameters, entries)
    # An estimate may be off by two, so a little too much is left to the draw.
    plan = recipe.load("zhilu-13b-open", ["corpus.tokens=80000000000"])
    budget.check(corpus_step(plan).parameters, entries)


def test_tokens_are_counted_or_estimated():
    assert catalogue.tokens_of(cards.read("skypile_zh"))[0] == pytest.approx(150e9 * 3e10 / 6.2e11)
    assert catalogue.tokens_of(cards.read("c4_en")) == (450_072, True)  # its table of statistics
    assert catalogue.tokens_of(cards.read("fincorpus_news_zh")) == (30e9 / 4, False)


def test_a_folder_of_data_is_as_large_as_its_files(tmp_path, monkeypatch):
    """Once it counted as the folder's own entry: 16 kB for a corpus of 4 million tokens."""
    Dataset.from_dict({"text": ["贷款市场报价利率下降。" * 1000]}).save_to_disk(tmp_path / "notes")
    front_matter = {
        "license": "mit",
        "finlab": {
            "domain": "finance",
            "language": "zh",
            "kind": "text",
            "files": ["notes"],
            "format": "arrow",
            "text": "text",
        },
    }
    text = f"---\n{json.dumps(front_matter)}\n---\n"
    (tmp_path / "notes.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(paths, "data_cards", lambda: tmp_path)
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    step = SimpleNamespace(name="corpus", parameters={"text_cards": ["notes"]})
    (entry,) = catalogue.of_recipe(SimpleNamespace(steps=[step]))
    assert entry.bytes == sum(path.stat().st_size for path in (tmp_path / "notes").iterdir())
    assert entry.bytes > 30_000


def test_a_limit_of_bytes_is_for_streamed_cards_that_are_read():
    limited = cards.read_all(["skypile_zh"], "text", {"skypile_zh": 1e6})[0]
    assert limited.spec["max_bytes"] == 1e6
    with pytest.raises(ValueError, match="which is not streamed from the hub and is read whole"):
        cards.read_all(["cw_news"], "text", {"cw_news": 1e6})
    with pytest.raises(ValueError, match="names card wiki, which this step does not read"):
        cards.read_all(["cw_news"], "text", {"wiki": 1e6})


def test_a_card_that_two_steps_read_up_to_different_bytes_is_two_entries():
    plan = recipe.load("first-run", ["corpus.source_bytes={wikipedia_sample_zh: 1000000}"])
    found = [each for each in catalogue.of_recipe(plan) if each.name == "wikipedia_sample_zh"]
    limits = {step: each.card.spec["max_bytes"] for each in found for step in each.steps}
    assert limits["corpus"] == 1_000_000
    assert limits["base"] > limits["corpus"]


def test_a_model_in_a_folder_that_a_variable_names_is_found(tmp_path, monkeypatch):
    (tmp_path / "models/tiny").mkdir(parents=True)
    (tmp_path / "models/tiny/config.json").write_text("{}")
    monkeypatch.setenv("FINLAB_DATA", str(tmp_path))
    change = ["base.base=$FINLAB_DATA/models/tiny"]
    (entry,) = (
        each for each in catalogue.of_recipe(recipe.load("smoke", change)) if each.kind == "model"
    )
    assert (entry.state, entry.bytes) == ("there", 2)
    terms = "---\nlicense: cc-by-nc-4.0\n---\n# tiny"
    (tmp_path / "models/tiny/README.md").write_text(terms)
    entries = catalogue.of_recipe(recipe.load("smoke", change))
    (entry,) = (each for each in entries if each.kind == "model")
    assert entry.licence == "cc-by-nc-4.0"
    assert "tiny: cc-by-nc-4.0 forbids commercial use" in "".join(catalogue.restrictions(entries))
    monkeypatch.delenv("FINLAB_DATA")
    (entry,) = (
        each for each in catalogue.of_recipe(recipe.load("smoke", change)) if each.kind == "model"
    )
    assert entry.state == "missing"
    assert not entry.can_be_fetched
    assert "export FINLAB_DATA" in entry.why


# --- licences ------------------------------------------------------------------------------------
def test_a_licence_that_forbids_commercial_use_reaches_the_model_card(tmp_path):
    entries = catalogue.of_recipe(recipe.load("yayi-7b-open"))
    lines = "\n".join(catalogue.restrictions(entries))
    assert "yayi_domain_zh: cc-by-nc-4.0 forbids commercial use" in lines
    assert "ceval_full" not in lines  # exams are not trained on
    parameters = {"stage1_cards": ["yayi_domain_zh"], "exam_cards": ["ceval_full"]}
    trained = model_card.trained_cards(parameters)
    assert trained == ["yayi_domain_zh"]
    for folder in ("model", "stage1/adapter"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "stage1/adapter/adapter_config.json").write_text("{}")
    by_card = {name: cards.read(name).licence for name in trained} | {"webtext": "unknown"}
    written = model_card.write(tmp_path, "sft", "meta-llama/Llama-2-7b-hf", by_card)
    assert len(written) == 2
    text = written[0].read_text(encoding="utf-8")
    assert "license: cc-by-nc-4.0" in text
    assert "base_model: meta-llama/Llama-2-7b-hf" in text
    assert "**No commercial use**: it was trained on yayi_domain_zh" in text
    assert "webtext states no licence" in text
    assert "investment advice" in text


def test_the_licence_of_the_base_reaches_the_card_apart_from_the_data(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    data = {"mine": "apache-2.0"}
    for licence, stated in (("llama2", "other"), ("qwen-research", "qwen-research")):
        [path] = model_card.write(tmp_path, "sft", "lab/base", data, base_licence=licence)
        text = path.read_text(encoding="utf-8")
        assert f"license: {stated}" in text
        assert f"The licence of the base, {licence}, holds too." in text
        assert ("**No commercial use**" in text) == (stated != "other")
        assert f"| {licence} |" not in text, "the base is not a data card"


@pytest.mark.parametrize(
    ("licence", "word"),
    [
        ("apache-2.0", "allowed"),
        ("cc-by-sa-3.0", "allowed"),
        ("cc-by-nc-sa-4.0", "forbidden"),
        ("qwen-research", "forbidden"),
        ("llama2", "see licence"),
        ("unknown", "see licence"),
    ],
)
def test_what_a_licence_says_of_commercial_use(licence, word):
    assert licences.commercial_use(licence) == word


def test_a_model_that_is_only_compared_binds_nobody(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [mit, cc-by-nc-4.0]\n---\n")
    for parameter, lines in (("base.base", 1), ("evaluate.folders", 0)):
        value = str(tmp_path) if parameter == "base.base" else [str(tmp_path)]
        plan = recipe.load("smoke", [f"{parameter}={value}"])
        told = catalogue.restrictions(catalogue.of_recipe(plan))
        assert sum("mit, cc-by-nc-4.0 forbids" in line for line in told) == lines


# --- finlab data, over a hub on loopback ---------------------------------------------------------
CARD = """---
license: cc-by-nc-4.0
finlab: {{domain: finance, language: zh, kind: text, hub: lab/news, {how}}}
---
# news
"""
RECIPE = """name: mine
steps:
  - step: base
    notebook: 00_base_model
    parameters: {base: lab/tiny, text_cards: [news, files]}
"""
LINES = "".join(
    json.dumps({"text": f"第{n}篇公告。"}, ensure_ascii=False) + "\n" for n in range(40)
)


@pytest.fixture
def shop(tmp_path):
    """A project with one recipe, whose data and base a hub on loopback has."""
    hub = Hub(tmp_path / "hub")
    files = {"raw/a.jsonl": LINES.encode(), "README.md": b"---\n---\n"}
    hub.add("lab/news", files)
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    shards = {f"model-{n}.safetensors": bytes(3000 + n) for n in (1, 2)}
    model = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode()}
    spare = {"pytorch_model.bin": bytes(9000), "original/model.safetensors": bytes(9000)}
    card = {"README.md": b"---\nlicense: llama2\n---\n# tiny\n"}
    hub.add("lab/tiny", model | shards | spare | card, kind="models")
    root = tmp_path / "project"
    (root / "data_cards").mkdir(parents=True)
    (root / "notebooks/recipes").mkdir(parents=True)
    (root / "notebooks/recipes/mine.yaml").write_text(RECIPE, encoding="utf-8")
    notebook = paths.NOTEBOOKS / "00_base_model.ipynb"
    (root / "notebooks/00_base_model.ipynb").write_bytes(notebook.read_bytes())
    for name, how in (
        ("news", "data_files: [raw/*.jsonl], format: jsonl"),
        ("files", "data_files: [README.md], format: text"),
    ):
        (root / "data_cards" / f"{name}.md").write_text(CARD.format(how=how), encoding="utf-8")

    def run(*words, **more):
        environment = hub.environment(tmp_path / "cache") | {"FINLAB_ROOT": str(root)} | more
        return subprocess.run(
            [*FINLAB, *words], env=os.environ | environment, capture_output=True, text=True
        )

    run.hub = hub
    run.python = lambda code: hub.python(code, tmp_path / "cache", HF_HUB_OFFLINE="1")
    yield run
    hub.close()


def test_data_is_listed_fetched_and_found_again(shop):
    done = shop("data", "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("missing") == 3
    assert "3 to fetch" in done.stdout
    assert "licence: news: cc-by-nc-4.0 forbids commercial use" in done.stdout
    assert not shop.hub.seen, "a list asks nobody"
    shop.hub.moods = ["ok", "503", "cut"]
    done = shop("data", "mine", "--fetch")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "model lab/tiny: model-2.safetensors" in done.stdout
    assert "pytorch_model.bin" not in done.stdout
    assert "original/" not in done.stdout
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if " base" in line}
    assert all("there" in lines[name] for name in ("lab/tiny", "news", "files"))
    assert "llama2" in lines["lab/tiny"]
    asked = len(shop.hub.seen)
    code = "import huggingface_hub; print(huggingface_hub.try_to_load_from_cache('lab/tiny', 'config.json'))"
    assert shop.python(code).stdout.strip().endswith("config.json"), "found without a network"
    done = shop("data", "mine", "--fetch", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert len(shop.hub.seen) == asked, "nothing is fetched twice"


def test_a_model_that_is_gated_or_unknown_says_what_to_do(shop):
    shop.hub.gated.add("lab/tiny")
    done = shop("data", "mine", "--fetch")
    assert done.returncode == 2
    assert (
        "model lab/tiny: lab/tiny is gated: ask for access at https://huggingface.co/lab/tiny"
        in (done.stderr)
    )
    assert "Traceback" not in done.stderr
    done = shop("data", "mine", "--fetch", "--set", "base.base=lab/nobody")
    assert done.returncode == 2
    assert "the hub has no model 'lab/nobody', or it is private" in done.stderr
