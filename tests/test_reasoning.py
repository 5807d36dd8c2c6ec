"""Reasoning: checked questions, filtered chains, budgets of thinking, GRPO that resumes."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer

from finlab.data import cards, schemas, selection, templates
from finlab.data.cards import Source
from finlab.evaluate import endpoints
from finlab.evaluate.reasoning import chains, checked, problems, scores, tools
from finlab.models import loading, reward_models, sampling, tokenization
from finlab.models.sampling import Budget, Completion
from finlab.train import fit, preflight, resume, rollouts
from finlab.train.log import read_log, summary
from finlab.train.reward import functions
from finlab.train.reward.gold import Gold
from finlab.train.reward.verify import check

GOLD = json.dumps({"kind": "number", "answer": "62", "unit": "亿元"}, ensure_ascii=False)
CAREFUL = "<think>19+43：9+3=12，1+4+1=6</think><answer>\\boxed{62}</answer>"


def problem(question="19亿元加43亿元？", answer="62", chain="", number=0):
    gold = Gold("number", answer, "box", {"unit": "亿元"})
    text = json.dumps({"kind": "number", "answer": answer, "unit": "亿元"})
    return problems.Problem(f"q{number}", "card", question, gold, text, chain)


def said(*texts, ended=True, capped=False, tokens=10):
    return [Completion(text, tokens, ended, capped) for text in texts]


# --- questions -----------------------------------------------------------------------------------
def question_card(rows):
    rows = [{"id": str(n), "question": "问？", "chain": "", **row} for n, row in enumerate(rows)]
    return {"mine": Source(SimpleNamespace(name="mine"), rows)}


def test_the_closed_world_s_questions_can_all_be_checked():
    found, unsound = problems.load(cards.load_all(["cw_arithmetic"], "question"))
    assert len(found) == 2400
    assert not unsound
    assert len({each.question for each in found}) == 2400


def test_a_card_without_checkable_answers_is_refused():
    with pytest.raises(ValueError, match="card mine: none of its 2 questions has an answer that"):
        problems.load(question_card([{"gold": ""}, {"gold": ""}]))


def test_a_gold_that_fails_its_own_check_is_set_aside():
    bad = json.dumps({"kind": "number", "answer": "69,07"})
    found, unsound = problems.load(question_card([{"gold": GOLD}, {"gold": bad}]))
    assert [each.gold.answer for each in found] == ["62"]
    assert "69,07" in unsound[0]["why"]


def test_a_gold_of_another_form_is_quarantined(tmp_path, monkeypatch):
    rows = [{"question": "问？", "gold": "62"}, {"question": "问？", "gold": json.loads(GOLD)}]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    card = "---\nlicense: apache-2.0\nfinlab:\n  domain: finance\n  language: zh\n"
    card += "  kind: question\n  format: jsonl\n  files: [q.jsonl]\n---\n# q\n"
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/q.md").write_text(card, encoding="utf-8")
    monkeypatch.setenv("FINLAB_DATA", str(folder))
    monkeypatch.setattr("finlab.paths.data_cards", lambda: tmp_path / "cards")
    source = cards.load("q")
    assert len(source.rows) == 1
    assert "the gold needs a kind and an answer" in source.quarantined[0]["reason"]


# --- chains --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("completion", "status"),
    [
        (CAREFUL, ""),
        ("<think>19+43</think><answer>\\boxed{62}</answer>", ""),
        (None, chains.NOTHING_CAME),
        ("  ", chains.NOTHING_CAME),
        ("<think>19+43：9+3=12", chains.NO_ANSWER),
        ("<think>19+43</think>", chains.NO_ANSWER),
        ("<think>19+43</think><answer>\\boxed{63}</answer>", chains.WRONG),
        # A right answer after a wrong sum was not reasoned out.
        ("<think>9+3=13，1+4+1=6</think><answer>\\boxed{62}</answer>", chains.WRONG_STEP),
        ("<think>想</think>\\boxed{62}", chains.BAD_FORM),
        ("<think>想</think><answer>\\boxed{62}</answer>另外", chains.BAD_FORM),
        ("<think>" + "再想一想。" * 200 + "</think><answer>\\boxed{62}</answer>", chains.REPEATS),
    ],
)
def test_what_becomes_of_a_chain(completion, status):
    assert chains.fault(chains.Row(problem(), completion), chains.Rules()) == status


def test_steps_and_length_are_asked_for():
    row = chains.Row(problem(), CAREFUL)
    assert chains.steps_of("9+3=12，1+4+1=6") == 2
    assert chains.fault(row, chains.Rules(min_steps=2)) == ""
    assert chains.fault(row, chains.Rules(min_steps=3)) == chains.FEW_STEPS
    assert chains.fault(row, chains.Rules(max_characters=20)) == chains.LONG


def test_the_account_of_chains_closes():
    asked = []

    def judge(messages):
        asked.append(messages[0]["content"])
        return "1" if len(asked) == 1 else "<think>嗯</think>0"

    second = "<think>19+43=62</think><answer>\\boxed{62}</answer>"
    texts = [CAREFUL, CAREFUL, second, None]
    rows = [chains.Row(problem(), text) for text in texts]
    account = chains.sift(rows, chains.Rules(), judge)
    assert account.counts() == {
        chains.KEPT: 1,
        chains.COPY: 1,
        chains.JUDGED_BAD: 1,
        chains.NOTHING_CAME: 1,
    }
    silent = chains.sift(rows, chains.Rules(), lambda messages: None)
    assert silent.counts()[chains.NOT_JUDGED] == 2
    assert len(asked) == 2, "only what the rules leave is judged"
    assert CAREFUL in asked[0]
    [dialogue] = chains.dialogues(rows, account, "系统")
    assert [message["role"] for message in dialogue] == ["system", "user", "assistant"]
    assert [row["status"] for row in chains.records(rows, account)][0] == chains.KEPT


def test_chains_are_costed_before_they_are_written():
    plan = chains.estimate([problem()] * 10, "系统提示", 3, (2.0, 8.0), 1000)
    assert plan["requests"] == 30
    assert plan["completion tokens"] == 30_000
    tokens = 30 * (4 + len(problem().question)) / 1.5
    assert plan["cost"] == pytest.approx((tokens * 2 + 30_000 * 8) / 1e6)


def message(**fields):
    return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(**fields))])


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_an_endpoint_s_thinking_comes_before_its_answer(name):
    answered = message(content="<answer>62</answer>", **{name: "想\n"})
    whole = endpoints.text_of(answered, thinking=True)
    assert whole == "<think>\n想\n</think>\n<answer>62</answer>"
    assert endpoints.text_of(answered) == "<answer>62</answer>"


def test_thinking_without_an_answer_is_counted_as_such():
    text = endpoints.text_of(message(content="", reasoning_content="想"), thinking=True)
    assert chains.fault(chains.Row(problem(), text), chains.Rules()) == chains.NO_ANSWER
    with pytest.raises(endpoints.NoAnswer, match="without text"):
        endpoints.text_of(message(content="", reasoning_content="想"))


# --- scores --------------------------------------------------------------------------------------
def answered(*texts, number=0, **more):
    one = problem(number=number)
    written = said(*texts, **more)
    return scores.Answered(one, written, [check(each.text, one.gold) for each in written])


RIGHT = "<answer>\\boxed{62}</answer>"
WRONG = "<answer>\\boxed{61}</answer>"


def test_a_score_stands_beside_the_share_that_was_cut_off():
    found = scores.accuracy(
        [answered(RIGHT), answered(WRONG), answered("<think>9", ended=False), answered(RIGHT)]
    )
    assert found["accuracy"] == 0.5
    assert found["cap_share"] == 0.25
    assert found["read_share"] == 0.75
    assert found["ci_low"] < 0.5 < found["ci_high"]
    with pytest.raises(ValueError, match="no question was answered"):
        scores.accuracy([])


def test_pass_at_k_is_the_chance_of_a_draw():
    assert scores.pass_at(2, 4, 1) == 0.5
    # Of the six pairs of four completions, one holds no right one.
    assert scores.pass_at(2, 4, 2) == pytest.approx(5 / 6)
    assert scores.pass_at(0, 4, 4) == 0
    with pytest.raises(ValueError, match="pass@5 needs 5 samples"):
        scores.pass_at(1, 4, 5)


def test_a_vote_counts_spellings_of_one_answer_together():
    same = ["<answer>\\boxed{62}</answer>", "<answer>\\boxed{62.0亿元}</answer>"]
    wrong = ["<answer>\\boxed{61}</answer>"] * 2
    assert scores.majority(answered(*wrong, *same, same[0]), 5)
    assert not scores.majority(answered(*wrong, same[0]), 3)
    # What cannot be read has no vote.
    assert scores.majority(answered("?", "?", same[0]), 3)
    assert not scores.majority(answered("?", "?"), 2)


def test_the_best_of_several_by_each_way():
    asked = [answered(WRONG, RIGHT, WRONG, WRONG), answered(RIGHT, RIGHT, WRONG, RIGHT)]
    by_length = {"likes the second": lambda problem, completion: completion.text == RIGHT}
    rows = {(row["by"], row["k"]): row for row in scores.best_of(asked, [1, 4], by_length)}
    assert rows["verifier", 1]["accuracy"] == pytest.approx((0.25 + 0.75) / 2)
    assert rows["verifier", 4]["accuracy"] == 1.0
    assert rows["majority", 4]["accuracy"] == 0.5
    assert rows["likes the second", 4]["accuracy"] == 1.0
    assert rows["majority", 4]["tokens"] == 40
    assert scores.pass_rates(asked) == {"never": 0, "sometimes": 2, "always": 0}


def test_pairs_of_right_and_wrong_completions():
    pairs = scores.outcome_pairs([answered(RIGHT, WRONG, WRONG, RIGHT), answered(RIGHT, RIGHT)])
    assert len(pairs) == 1
    assert pairs[0]["chosen"][0]["content"] == RIGHT
    assert pairs[0]["rejected"][0]["content"] == WRONG


# --- budgets -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def talker(chat_model):
    tokenizer = tokenization.load(chat_model)
    return loading.load(chat_model), tokenizer


def prompts_of(tokenizer, *questions):
    return [templates.prompt_ids(tokenizer, [{"role": "user", "content": q}]) for q in questions]


def test_completions_are_those_of_one_at_a_time(talker):
    model, tokenizer = talker
    prompts = prompts_of(tokenizer, "什么是A股？", "恒信银行是哪一年成立的？", "好")
    together = sampling.complete(model, tokenizer, prompts, Budget(12))
    alone = [sampling.complete(model, tokenizer, [prompt], Budget(12))[0] for prompt in prompts]
    assert together == alone
    small = sampling.complete(model, tokenizer, prompts, Budget(12), batch_tokens=1)
    assert together == small


def test_sampling_leaves_the_training_s_random_state_alone(talker):
    model, tokenizer = talker
    prompts = prompts_of(tokenizer, "什么是A股？")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = sampling.complete(model, tokenizer, prompts, Budget(8), 3, temperature=1.0, seed=4)
    assert torch.equal(before, torch.get_rng_state())
    assert first == sampling.complete(model, tokenizer, prompts, Budget(8), 3, 1.0, 4)
    assert first != sampling.complete(model, tokenizer, prompts, Budget(8), 3, 1.0, 5)


def test_a_budget_closes_the_thinking_and_then_the_answer(talker):
    model, tokenizer = talker
    [[found]] = sampling.complete(model, tokenizer, prompts_of(tokenizer, "好"), Budget(6, 5))
    close = len(tokenizer.encode("</think>", add_special_tokens=False))
    before, _, after = found.text.partition("</think>")
    assert found.capped
    assert "</think>" not in before
    if not found.ended:
        assert found.tokens == 5 + close + 6 + 1
        assert after


def test_impossible_budgets_are_refused(talker):
    model, tokenizer = talker
    prompts = prompts_of(tokenizer, "好")
    with pytest.raises(ValueError, match="the answer needs one at least"):
        Budget(0, 10)
    with pytest.raises(ValueError, match="3 samples at temperature 0 are one"):
        sampling.complete(model, tokenizer, prompts, Budget(4), samples=3)
    with pytest.raises(ValueError, match="lower the budget, or leave long questions out"):
        sampling.complete(model, tokenizer, prompts, Budget(100_000))


# --- before GRPO ---------------------------------------------------------------------------------
def grpo_args(folder, **more):
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "max_completion_length": 8,
        "learning_rate": 1e-3,
        "beta": 0.01,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "save_steps": 2,
        "report_to": "none",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "seed": 7,
    }
    return GRPOConfig(**settings | more)


def failed(talker, groups, tmp_path, rewards=None, lengths=(5,), **more):
    model, tokenizer = talker
    args = grpo_args(tmp_path, **more)
    rewards = rewards or [functions.Right()]
    checks = rollouts.rollout_preflight(model, tokenizer, args, groups, rewards, lengths, 3)
    with pytest.raises(preflight.Refused) as error:
        preflight.require(checks)
    return str(error.value)


def group(*texts, **more):
    rewards = [functions.Right()]
    [made] = rollouts.rollouts([GOLD], [said(*texts, **more)], rewards, [1.0])
    return made


GOOD = "<think>想</think><answer>\\boxed{62}</answer>"
BAD = "<think>想</think><answer>\\boxed{61}</answer>"


def test_a_sound_start_is_let_through(talker, tmp_path):
    model, tokenizer = talker
    checks = rollouts.rollout_preflight(
        model, tokenizer, grpo_args(tmp_path), [group(GOOD, BAD)], [functions.Right()], [8], 3
    )
    assert all(check.ok for check in checks), [check for check in checks if not check.ok]


def test_what_would_teach_nothing_is_refused(talker, tmp_path):
    same = group(BAD, BAD)
    assert "rewards differ within groups (in 0 of 1 groups" in failed(talker, [same], tmp_path)
    cut = group(GOOD, BAD, BAD, ended=False)
    assert "most completions end by themselves (100% are cut" in failed(talker, [cut], tmp_path)
    long = failed(talker, [group(GOOD, BAD)], tmp_path, lengths=[40] * 10)
    assert "99 of 100 chains have up to 40 tokens, max_completion_length is 8" in long
    wide = failed(talker, [group(GOOD, BAD)], tmp_path, max_completion_length=100_000)
    assert "question and completion fit the context" in wide


def test_a_group_of_one_is_refused(talker, tmp_path):
    with pytest.raises(ValueError, match="2 generations|at least 2"):
        grpo_args(tmp_path, num_generations=1)


def test_a_reward_that_pays_for_the_wrong_thing_is_refused(talker, tmp_path):
    text = failed(talker, [group(GOOD, BAD)], tmp_path, rewards=[functions.Contains()])
    assert "contains pays" in text
    assert "right in the thinking alone" in text


def test_a_form_that_the_decoder_loses_is_refused(talker, tmp_path):
    """A tag that is a special token is not in the text that the reward reads."""
    model, tokenizer = talker
    tokenizer = tokenization.load(tokenizer.name_or_path)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})
    text = failed((model, tokenizer), [group(GOOD, BAD)], tmp_path)
    assert "right does not pay" in text


def test_what_first_completions_come_to():
    found = rollouts.first_batch([group(GOOD, BAD), group(BAD, BAD)])
    assert found["reward"] == 0.25
    assert found["equal_groups"] == 0.5
    assert found["reward_std"] == pytest.approx(0.5**0.5 / 2)


# --- GRPO ----------------------------------------------------------------------------------------
def longer(completions, **columns):
    """Pay for letters that differ, so that rewards differ."""
    return [len(set(each[-1]["content"])) / 10 for each in completions]


def train(chat_model, folder, log, lora=None, extensions=(), **more):
    tokenizer = tokenization.load(chat_model)
    order = selection.epochs_of(4, 2, seed=1)
    texts = ["什么是A股？", "好", "谁？", "恒信银行在哪里？"]
    rows = [[{"role": "user", "content": texts[place]}] for place in order]
    dataset = Dataset.from_dict({"prompt": rows, "gold": [GOLD] * len(rows)})
    torch.manual_seed(5)
    return fit.fit(
        GRPOTrainer,
        log=log,
        extensions=list(extensions),
        model=loading.load(chat_model),
        args=grpo_args(folder, num_train_epochs=1, **more),
        train_dataset=dataset,
        reward_funcs=[longer, functions.Right()],
        peft_config=lora,
        processing_class=tokenizer,
    )


@pytest.mark.parametrize("lora", [None, LoraConfig(r=4, target_modules=["q_proj"])])
def test_a_resumed_reinforcement_is_bit_for_bit(chat_model, tmp_path, lora):
    """The resume lies in the second epoch, so the order of the prompts counts too."""
    tokenizer = tokenization.load(chat_model)
    held_out = rollouts.HeldOutAnswers(
        ["好"], prompts_of(tokenizer, "好"), [GOLD], Budget(6), every=2
    )
    extensions = [rollouts.SameReference(), held_out]
    whole = train(chat_model, tmp_path / "a", tmp_path / "a.jsonl", lora, extensions)
    assert whole.state.global_step == 8
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b/checkpoint-8")
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert resume.last_checkpoint(tmp_path / "b").endswith("checkpoint-6")
    again = train(chat_model, tmp_path / "b", tmp_path / "b.jsonl", lora, extensions)
    assert summary(tmp_path / "b.jsonl")["resumed_at"] == 6
    for (name, one), (_, other) in zip(
        whole.model.named_parameters(), again.model.named_parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    first, second = read_log(tmp_path / "a.jsonl"), read_log(tmp_path / "b.jsonl")
    kept = ("reward", "kl", "entropy", "completions/mean_length", "held_out", "samples")
    for one, other in zip(first, second, strict=True):
        assert [one.get(name) for name in kept] == [other.get(name) for name in kept]
    assert sum("held_out" in record for record in first) == 4


def test_the_first_step_is_at_no_distance_from_the_reference(chat_model, tmp_path):
    train(chat_model, tmp_path / "a", tmp_path / "a.jsonl", None, [rollouts.SameReference()])
    kl = [record["kl"] for record in read_log(tmp_path / "a.jsonl") if "kl" in record]
    assert abs(kl[0]) < 1e-6
    assert kl[-1] > kl[0]


def test_another_reference_is_refused(chat_model, tmp_path):
    class Other(rollouts.SameReference):
        def attach(self, trainer):
            with torch.no_grad():
                next(trainer.ref_model.parameters()).add_(1.0)
            super().attach(trainer)

    with pytest.raises(preflight.Refused, match="the reference is the policy itself"):
        train(chat_model, tmp_path / "a", tmp_path / "a.jsonl", None, [Other()])


def test_several_epochs_have_several_orders():
    order = selection.epochs_of(6, 3, seed=2)
    epochs = [order[first : first + 6] for first in (0, 6, 12)]
    assert all(sorted(each) == list(range(6)) for each in epochs)
    assert epochs[0] != epochs[1]
    assert order == selection.epochs_of(6, 3, seed=2)


# --- a reward model ------------------------------------------------------------------------------
def test_a_reward_model_learns_to_prefer(chat_model, tmp_path):
    tokenizer = tokenization.load(chat_model)
    pairs = []
    for number in range(24):
        prompt = [{"role": "user", "content": f"问题{number}"}]
        pair = {"prompt": prompt, "chosen": [{"role": "assistant", "content": "好的。"}]}
        pairs.append(pair | {"rejected": [{"role": "assistant", "content": "不行。"}]})
    trainer = fit.fit(
        RewardTrainer,
        log=tmp_path / "log.jsonl",
        model=reward_models.load(chat_model),
        args=RewardConfig(
            output_dir=str(tmp_path),
            num_train_epochs=2,
            learning_rate=1e-3,
            report_to="none",
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            max_length=None,
        ),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
    )
    question = {"role": "user", "content": "别的"}
    unseen = [[question, *pairs[0][side]] for side in ("chosen", "rejected")]
    liked, disliked = reward_models.scores(trainer.model.eval(), tokenizer, unseen)
    assert liked > disliked


# --- tools ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def box():
    rows = [{"name": "澄江重工", "item": "评级", "value": "AA"}]
    return tools.Toolbox([tools.calculator(), tools.lookup(rows)])


def call(name, /, **arguments):
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("made", "gives"),
    [
        (call("calculate", sum="19+43"), "62"),
        (call("calculate", sum="(120-100)/100"), "0.2"),
        (call("calculate", sum="1/3"), "0.333333"),
        (call("look_up", name="澄江重工", item="评级"), "AA"),
        (call("look_up", name="澄江重工", item="地址"), "error: nothing is known of '地址'"),
        (call("calculate", sum="__import__('os').system('id')"), "error: a sum holds numbers"),
        (call("calculate", sum=5), "error: calculate wants a string as 'sum'"),
        (call("calculate"), "error: calculate needs the argument 'sum'"),
        (call("calculate", sum="1", deep=True), "error: calculate has no argument 'deep'"),
        (call("__class__"), "error: there is no tool '__class__'; there are calculate, look_up"),
        (call("eval", sum="1"), "error: there is no tool 'eval'"),
    ],
)
def test_what_a_call_gives(box, made, gives):
    assert box.run(made).startswith(gives)


def test_tools_have_schemas(box):
    [first, _] = box.schemas()
    assert first["function"]["name"] == "calculate"
    assert first["function"]["parameters"]["required"] == ["sum"]


def block(*calls):
    return "\n".join(f"<tool_call>\n{json.dumps(each)}\n</tool_call>" for each in calls)


def test_calls_are_read_behind_the_thinking():
    text = f"<think>{block(call('eval'))}</think>{block(call('calculate', sum='1+1'))}"
    assert tools.calls_in(text) == [call("calculate", sum="1+1")]
    assert tools.calls_in("<tool_call>\nno JSON\n</tool_call>") == []
    assert tools.calls_in("<tool_call>\n[1]\n</tool_call>") == []
    assert len(tools.calls_in(block(*[call("a")] * 50))) == tools.MOST_CALLS


def test_names_and_whole_calls_have_precision_and_recall():
    gold = [call("look_up", name="甲", item="评级")]
    turns = [tools.Turn([], gold), tools.Turn([], gold), tools.Turn([], [])]
    other = call("look_up", name="乙", item="评级")
    every = [*gold, call("calculate", sum="1"), call("delete")]
    found = tools.score(turns, [block(other), block(*every), block(other)])
    assert found["name_recall"] == 1.0
    assert found["name_precision"] == 2 / 5
    assert found["call_recall"] == 1 / 2
    assert found["call_precision"] == 1 / 5
    assert found["exact"] == 0
    assert found["called_needlessly"] == 1.0
    perfect = tools.score(turns, [block(*gold), block(*gold), "不用查。"])
    assert (perfect["exact"], perfect["call_precision"], perfect["called_needlessly"]) == (1, 1, 0)
    with pytest.raises(ValueError, match="no turn of the assistant"):
        tools.score([], [])


def test_a_conversation_runs_calls_until_there_is_an_answer(box, monkeypatch):
    written = iter([block(call("calculate", sum="19+43")), "等于62。"])

    def complete(model, tokenizer, prompts, budget):
        return [said(next(written))]

    monkeypatch.setattr(tools.sampling, "complete", complete)
    monkeypatch.setattr(tools.templates, "prompt_ids", lambda tokenizer, messages: [1])
    monkeypatch.setattr(tools.templates, "thinking_opened", lambda tokenizer: "")
    talk = tools.converse(None, None, [{"role": "user", "content": "?"}], box, Budget(8))
    assert talk.observations == ["62"]
    assert talk.answer == "等于62。"
    assert talk.messages[2]["content"] == "<tool_response>\n62\n</tool_response>"
    endless = block(call("calculate", sum="1"))
    monkeypatch.setattr(tools.sampling, "complete", lambda *_: [said(endless)])
    talk = tools.converse(None, None, [{"role": "user", "content": "?"}], box, Budget(8), rounds=2)
    assert talk.answer == ""
    assert len(talk.calls) == 2, "calls of the last message are not run"
    assert [message["role"] for message in talk.messages[-2:]] == ["user", "assistant"]


def test_real_dialogues_with_calls(data):
    """Each call of the Glaive sample is read back, and the gold scores 1 against itself."""
    source = cards.load("toolcall_zh")
    dialogues = [row["messages"] for row in source.rows]
    turns = tools.turns_of(dialogues)
    calling = [turn for turn in turns if turn.gold]
    assert len(calling) > 200
    answers = [
        messages for talk in dialogues for messages in talk if messages["role"] == "assistant"
    ]
    found = tools.score(turns, [message["content"] for message in answers])
    assert found["exact"] == found["call_precision"] == found["call_recall"] == 1.0
    assert tools.score(turns, ["不用。"] * len(turns))["call_recall"] == 0


# --- scores in notebook 07 -----------------------------------------------------------------------
def test_a_model_and_an_endpoint_on_one_board(talker):
    model, tokenizer = talker
    sets = checked.load(["cw_arithmetic"], [], Path(), items=3)
    board = checked.Board(sets, Budget(8))
    board.add_model("talker", model, tokenizer)

    class Silent:
        name, base_url = "m", "http://localhost"

        def __call__(self, messages):
            return None if "收入" in messages[0]["content"] else RIGHT

    board.add_endpoint("m@x", Silent())
    mine, other = board.rows
    assert mine["n"] == other["n"] == 3
    assert mine["setting"] != other["setting"]
    assert mine["official"] is None
    assert len(board.answers) == 6
    assert board.note() == ""


def test_a_score_s_setting_names_all_that_it_depends_on():
    settings = [
        checked.setting_id(Budget(8), 1, 0.0, 0, "t", "b"),
        checked.setting_id(Budget(8, 4), 1, 0.0, 0, "t", "b"),
        checked.setting_id(Budget(8), 2, 1.0, 0, "t", "b"),
        checked.setting_id(Budget(8), 2, 1.0, 1, "t", "b"),
        checked.setting_id(Budget(8), 1, 0.0, 0, "u", "b"),
        checked.setting_id(Budget(8), 1, 0.0, 0, "t", "c"),
    ]
    assert len(set(settings)) == len(settings)


def test_a_thinking_model_is_told_from_another(talker):
    model, tokenizer = talker
    tokenizer = tokenization.load(tokenizer.name_or_path)
    assert not checked.thinks(tokenizer)
    tokenizer.chat_template = templates.chat_template("deepseek_r1")
    assert checked.thinks(tokenizer)


def test_published_sets_with_the_official_score_beside_ours(data):
    """Naming all tools is right for Finova's scorer and wrong for ours."""
    sets = checked.load([], ["finova_tools", "finreasoning_l1"], data / "exams", items=20)
    assert [len(each.problems) for each in sets] == [20, 20]
    every = sorted({name for each in sets[0].problems for name in each.gold.answer})
    text = json.dumps(every, ensure_ascii=False)

    def all_tools(asked):
        answered = []
        for each in asked:
            written = said(text)
            answered.append(scores.Answered(each, written, [each.check(text)]))
        return answered

    rows, lines = checked.score("x", sets[:1], all_tools, "s")
    assert rows[0]["official"] == 1.0
    assert rows[0]["accuracy"] < 0.2
    assert len(lines) == 20


# --- what a review found -------------------------------------------------------------------------
def test_a_vote_does_not_know_the_gold():
    """Three spellings of a wrong value outvote two of the right one."""
    texts = [f"<answer>\\boxed{{{said}}}</answer>" for said in ("61", "61亿元", "61.0", "62", "62")]
    assert not scores.majority(answered(*texts), 5)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-3])
@pytest.mark.parametrize("count", [2, 3, 6, 7, 12])
def test_equal_rewards_have_no_spread(value, count):
    made = rollouts.Rollout(GOLD, [], [value] * count)
    assert made.spread == 0.0


def test_steps_that_do_not_come_out_even_are_refused():
    assert rollouts.accumulation(8, 8, 16, 2) == 2
    with pytest.raises(ValueError, match="do not divide: change prompts_per_step"):
        rollouts.accumulation(8, 8, 48, 1)
    with pytest.raises(ValueError, match="7 questions are left to reinforce, and one generation"):
        rollouts.require_enough(7, 4, 2)
    rollouts.require_enough(8, 4, 2)


def test_every_reward_that_reads_the_answer_is_probed(talker, tmp_path):
    build = functions.build
    assert not rollouts.probe_failures(talker[1], build(["correct", "formed"]), [GOLD])
    assert rollouts.probe_failures(talker[1], build(["right", "contains"]), [GOLD])
    assert rollouts.probe_failures(talker[1], build(["formed"]), [GOLD]) == [
        "no reward reads the answer"
    ]


def test_a_row_that_ended_is_not_capped(talker):
    """Whoever answers without thinking is not cut off by its neighbours."""
    model, tokenizer = talker
    end = tokenizer.eos_token_id
    close = tokenizer.encode("</think>", add_special_tokens=False)
    limits = sampling.ThinkingBudget(tokenizer, 1, Budget(4, 2), close, [end])
    rows = torch.tensor([[1, 5, end], [1, 5, 6]])
    for written in (1, 2, 3):
        limits(rows[:, :written], torch.zeros(2, 400))
    assert limits.forced.tolist() == [False, True]


def test_thinking_that_ends_inside_a_longer_token_is_seen(talker):
    """A byte-level tokenizer may join `>` and what follows it in one token."""

    class Joined:
        def decode(self, ids):
            return "".join({7: "</", 8: "think", 9: ">\n\n", 5: "x"}[int(token)] for token in ids)

    limits = sampling.ThinkingBudget(Joined(), 1, Budget(4, 100), [7, 8, 6], [2])
    rows = torch.tensor([[1, 5, 7, 8, 9], [1, 5, 5, 5, 5]])
    for written in range(1, 6):
        limits(rows[:, :written], torch.zeros(2, 20))
    assert limits.closed_at.tolist() == [4, -1]


def test_a_question_that_does_not_fit_is_wrong_and_the_rest_is_scored(talker):
    model, tokenizer = talker
    long = problem("很长的问题" * 2000, number=1)
    found = scores.answer(model, tokenizer, [long, problem()], Budget(8))
    assert found[0].verdicts[0].why == "the question is longer than the context"
    assert found[1].completions[0].tokens > 0
    assert scores.accuracy(found)["cap_share"] >= 0.5


def test_several_samples_at_temperature_0_are_refused_before_anything_is_scored():
    with pytest.raises(ValueError, match="raise answer_temperature"):
        checked.Board([], Budget(8), samples=4)


def test_what_was_settled_is_found_again(tmp_path):
    """After a kill a failed call might succeed; the rows must be those that were begun with."""
    one = problem(number=1)
    path = tmp_path / "settled.jsonl"
    rows = [chains.Row(one, CAREFUL), chains.Row(one, None)]
    first = chains.settle(path, [one], lambda: rows, chains.Rules())
    again = chains.settle(path, [one], lambda: [], chains.Rules())
    assert again[0] == first[0] == rows
    assert again[1].counts() == first[1].counts()
    with pytest.raises(ValueError, match="none of 1 chains is kept .no completion came: 1."):
        chains.settle(tmp_path / "x", [one], lambda: rows[1:], chains.Rules())


@pytest.mark.parametrize(
    ("output", "gold"),
    [
        ("<think>\\boxed{A}？</think>选\\boxed{C}。", "C"),
        ("<think>想</think>\\boxed{\\text{C}}", "C"),
        ("<think>想</think>\\boxed{A}和\\boxed{C}", None),
        ("<think>\\boxed{A}</think>没有", None),
    ],
)
def test_the_gold_of_a_chain_is_the_box_behind_its_thinking(output, gold):
    spec = {"domain": "finance", "answers": {"kind": "letters"}}
    row = {"instruction": "选什么？", "input": "A. 一 C. 三", "output": output}
    if gold is None:
        with pytest.raises(ValueError, match="must hold one"):
            schemas.question_row("x", spec, row, "1")
        return
    made = schemas.question_row("x", spec, row, "1")
    assert json.loads(made["gold"]) == {"kind": "letters", "answer": gold}
    assert made["question"] == "选什么？\nA. 一 C. 三"


def test_answers_that_stand_elsewhere_are_not_reinforced():
    line = json.dumps({"kind": "number", "answer": "62", "where": "line"})
    found, unsound = problems.load(question_card([{"gold": GOLD}, {"gold": line}]), ["box"])
    assert len(found) == 1
    assert "its answer stands in 'line'" in unsound[0]["why"]
    assert problems.spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert problems.spread(range(190), 96)[-1] > 180
    assert problems.spread(range(5), 96) == [0, 1, 2, 3, 4]


def test_a_sum_that_overflows_is_an_observation(box):
    assert box.run(call("calculate", sum="1e300*1e300/7")).startswith("error:")
