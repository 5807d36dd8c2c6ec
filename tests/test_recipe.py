"""Recipes: every shipped one is strict and complete.

Bad input is refused with file and key.
"""

import pytest

from finlab import paths
from finlab.data import cards
from finlab.run import parameters, recipe

SHIPPED = sorted(path.stem for path in paths.RECIPES.rglob("*.yaml"))
PUBLISHED = ["cornucopia-7b", "golden-gpt-7b", "xuanyuan-70b", "yayi-7b", "zhilu-13b"]


def test_all_recipes_are_found():
    elsewhere = {path.parent.name for path in paths.ROOT.rglob("notebooks/**/*.yaml")} - {"recipes"}
    assert len(SHIPPED) == 20
    assert elsewhere == {"accelerate"}
    assert set(PUBLISHED) < set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_fits_its_notebooks(name):
    plan = recipe.load(name)
    assert plan.steps
    assert plan.name == name
    for step in plan.steps:
        assert step.path.exists()
        parameters.check(
            {key: step.parameters[key] for key in step.changed},
            parameters.declared_parameters(step.notebook),
            name,
        )


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_header_says_what_it_is(name):
    head = [
        line
        for line in (paths.RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        if line.startswith("#")
    ]
    for word in ("hardware:", "hours:", "expected:", "differs:"):
        assert any(word in line for line in head), f"{name}: the header has no {word}"


@pytest.mark.parametrize("name", SHIPPED)
def test_every_card_of_a_recipe_exists(name):

    for step in recipe.load(name).steps:
        for key, value in step.parameters.items():
            if key.endswith("_cards"):
                assert set(value) <= set(cards.names())


def test_stated_numbers_of_zhilu():
    pretrain = next(
        step for step in recipe.load("zhilu-13b").steps if step.name == "pretrain"
    ).parameters
    assert (
        pretrain["lora_rank"],
        pretrain["lora_alpha"],
        pretrain["lora_dropout"],
        pretrain["learning_rate"],
    ) == (64, 128, 0.05, 2e-4)
    assert pretrain["batch_rows"] * pretrain["gradient_accumulation"] == 64
    assert pretrain["train_embeddings"] == "full"
    assert len(pretrain["lora_targets"]) == 7


def test_four_modes_of_yayi():
    """Full and LoRA, single and multi-turn, with the stated rates.

    A mode says only what differs.
    """
    found = {
        name: next(step for step in recipe.load(name).steps if step.name == "sft").parameters
        for name in ("yayi-7b", "yayi-7b-single-full", "yayi-7b-multi-lora", "yayi-7b-multi-full")
    }
    assert [
        (mode["lora_rank"], mode["learning_rates"][0], mode["single_turn"], mode["scheduler"])
        for mode in found.values()
    ] == [
        (16, 5e-4, True, "constant_with_warmup"),
        (0, 5e-6, True, "constant_with_warmup"),
        (16, 5e-4, False, "cosine"),
        (0, 5e-7, False, "cosine"),
    ]
    assert all(
        mode["epochs"][0] == 2
        and mode["warmup_steps"] == 100
        and mode["chat_template"] == "yayi"
        and mode["seed"] == 515
        for mode in found.values()
    )


def test_a_recipe_extends_another(project):
    project.recipe(
        "name: more\nextends: pair\ncommon: {seed: 5}\nsteps:\n  - {step: first, parameters: {value: 9}}\n",
        "more",
    )
    done = project.finlab("run", "more", "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "value = 9" in done.stdout, done.stdout + done.stderr
    assert "seed = 5" in done.stdout, done.stdout + done.stderr
    assert "second: 01_second" in done.stdout, done.stdout + done.stderr
    project.recipe(
        "name: more\nextends: pair\nsteps:\n  - {step: third, parameters: {value: 9}}\n", "more"
    )
    done = project.finlab("run", "more", "--dry-run")
    assert done.returncode == 2
    assert "under `extends` a step names one of first, second" in done.stderr
    assert "Traceback" not in done.stderr


def test_parameters_are_read_without_running():
    found = parameters.declared_parameters("03_lora_pretraining")
    assert found["learning_rate"].type == "float"
    assert isinstance(found["lora_targets"].default, list)
    with pytest.raises(ValueError, match="no notebook 'nothing'"):
        parameters.declared_parameters("nothing")


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, "float", True),
        (True, "float", False),
        (True, "int", False),
        ("1e-4", "float", False),
        (["a"], "list[str]", True),
        ([1], "list[str]", False),
        ({"a": 1.0}, "dict[str, float]", True),
        (None, "str", False),
        ([], "list[float]", True),
    ],
)
def test_types(value, annotation, expected):
    assert parameters.fits(value, annotation) is expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "{step: first, notebook: 00_first, parameters: {valeu: 2}}",
            "pair.yaml, step 'first': unknown parameter 'valeu'; did you mean value. the notebook",
        ),
        (
            "{step: first, notebook: 00_first, parameters: {pause: 1e-4}}",
            "declares float .in YAML a float needs a dot",
        ),
        (
            "{step: first, notebook: 00_first, parameters: {value: true}}",
            "'value' is True, a bool, but the notebook declares int",
        ),
        (
            "{step: first, notebook: 07_nothing}",
            "pair.yaml, step 'first': there is no notebook '07_nothing'",
        ),
        ("{step: first, notebook: 00_first, parameter: {}}", "a step holds the keys"),
        ("{step: second, notebook: 01_second}", "reads step 'first', which no earlier step"),
        (
            "{step: first, notebook: 00_first, parameters: {run_dir: x}}",
            "'run_dir' is set by the runner",
        ),
        (
            "{step: first, notebook: 00_first, parameters: [a]}",
            "parameters must be name: value pairs",
        ),
        ("{step: '', notebook: 00_first}", "a step's name is made of letters"),
    ],
)
def test_bad_recipes_are_refused(project, line, message):
    project.recipe(f"name: pair\nsteps:\n  - {line}\n")
    done = project.finlab("run", "pair")
    assert done.returncode == 2
    assert __import__("re").search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not project.run_dir.exists()


@pytest.mark.parametrize(
    "text",
    [
        "steps: 5",
        "common: [a]\nsteps:\n  - {step: first, notebook: 00_first}",
        "[1, 2]",
        "steps: {",
    ],
)
def test_what_is_not_a_recipe_is_refused(project, text):
    project.recipe(text)
    done = project.finlab("run", "pair")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "pair.yaml" in done.stderr


def test_documented_modes_of_yayi():
    full = recipe.load(
        "yayi-7b",
        [
            "sft.lora_rank=0",
            "sft.learning_rates=[5e-7,5e-7]",
            "sft.stage1_cards=[yayi_multi_zh,sharegpt_zh]",
        ],
    )
    assert next(step for step in full.steps if step.name == "sft").parameters["learning_rates"] == [
        5e-7,
        5e-7,
    ]


def test_overrides(project):
    done = project.finlab(
        "run", "pair", "--set", "first.value=7", "--set", "first.pause=1e-3", "--dry-run"
    )
    assert done.returncode == 0
    assert "* value = 7" in done.stdout
    assert "* pause = 0.001" in done.stdout
    assert not project.run_dir.exists()
    for bad, message in [
        ("first.value=x", "declares int"),
        ("third.value=1", "no such step"),
        ("value=1", "write step.parameter=value"),
        ("first.valeu=1", "unknown parameter 'valeu'"),
    ]:
        done = project.finlab("run", "pair", "--set", bad)
        assert done.returncode == 2, done.stderr
        assert message in done.stderr, done.stderr


# --- recipes as a slip or ill will might write them ----------------------------------------------
BASE = "steps: [{step: base, notebook: 00_base_model}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nname: y\n" + BASE, "line 2: not YAML: the key 'name' is written twice"),
        ("a: &a [1]\nb: [*a, *a]\n" + BASE, "the alias *a"),
        ("name: 2024\n" + BASE, "the name is 2024"),
        ("name: 2024-01-01\n" + BASE, "the name is datetime.date"),
        ("name: ../../x\n" + BASE, "the name is '../../x'"),
        ("common: {1: 2}\n" + BASE, "a recipe holds the keys"),
        ("steps: [5]", "step 1: a step holds the keys"),
        ("steps: [{step: base, notebook: ../x}]", "there is no notebook '../x'"),
        ("steps: [{step: base, notebook: [a]}]", "there is no notebook ['a']"),
        ("steps: " + "[" * 5000, "nested too deeply"),
        ("extends: [smoke]\nsteps: [{step: base}]", "`extends` is ['smoke']"),
        ("extends: smoke\nsteps: [{step: base, parameters: [1]}]", "name: value pairs"),
        ("extends: smoke\nsteps: [{step: base}, {step: base}]", "stands there twice"),
        ("steps: [{step: base, notebook: 00_base_model, parameters: {seed: 017}}]", "another base"),
    ],
)
def test_recipes_that_are_none(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as caught:
        recipe.load(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value) or path.name in str(caught.value)


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    for one, other in (("a", "b"), ("b", "a"), ("c", "c")):
        text = f"extends: ./{other}.yaml\nsteps: [{{step: base}}]"
        (tmp_path / f"{one}.yaml").write_text(text)
    for name in "abc":
        with pytest.raises(ValueError, match="in a circle"):
            recipe.load(str(tmp_path / f"{name}.yaml"))


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16"])
def test_another_encoding_is_named_with_the_file(tmp_path, encoding):
    path = tmp_path / "mine.yaml"
    path.write_bytes(f"# 配方\n{BASE}".encode(encoding))
    with pytest.raises(ValueError, match="mine.yaml: not UTF-8 at byte"):
        recipe.load(str(path))


NUMBERS = [
    (notebook, name)
    for notebook in parameters.notebook_names()
    for name, declared in parameters.declared_parameters(notebook).items()
    if declared.type in ("int", "float", "list[int]", "list[float]")
]


@pytest.mark.parametrize(("notebook", "name"), NUMBERS)
def test_every_number_has_bounds(notebook, name):
    """-1, nan, inf and huge are refused for every parameter of every notebook, 0 where it says."""
    declarations = parameters.declared_parameters(notebook)
    declared = declarations[name]
    parameters.check({name: declared.default}, declarations, "default")
    whole = declared.type in ("int", "list[int]")
    for value in (-1, float("nan"), float("inf"), 10**30):
        value = value if whole and value in (-1, 10**30) else float(value)
        if whole and isinstance(value, float):
            continue
        given = [value] if declared.type.startswith("list") else value
        with pytest.raises(ValueError, match=f"parameter '{name}' is"):
            parameters.check({name: given}, declarations, "here")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("quantize.formats=[int4]", "each must be one of 'int8', 'nf4', 'gptq4'"),
        ("quantize.formats=[]", "which is empty"),
        ("quantize.calibration_texts=0", "it must be 1 to 100000"),
        ("quantize.held_out_texts=0", "it must be 1 to"),
        ("corpus.held_out_share=0", "it must be over 0 to 0.9"),
        ("base.dtype=fp16", "it must be one of 'float32', 'bfloat16'"),
        ("pretrain.scheduler=cosin", "it must be one of 'linear'"),
        ("sft.chat_template=qwen", "it must be one of 'plain'"),
        ("sft.max_length=8", "it must be 16 to"),
        ("dpo.max_length=8", "it must be 16 to"),
        ("base.layers=0", "it must be 1 to 200"),
        ("base.row_length=1", "it must be 16 to"),
        ("base.learning_rate=.nan", "a finite number"),
        ("base.text_cards=[cw_news, cw_news]", "names the card cw_news twice"),
        ("base.text_cards=[nosuch]", "there is no data card 'nosuch'"),
    ],
)
def test_values_that_leave_nothing_name_their_parameter(override, message):
    with pytest.raises(ValueError) as caught:
        recipe.load("smoke", [override])
    assert message in str(caught.value)
    assert f"parameter '{override.partition('=')[0].partition('.')[2]}'" in str(caught.value)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.resolve("~/models/x") == tmp_path / "models" / "x"
