"""Ways to make pairs, each against the same texts made and judged by hand."""

import copy
import json
import math
from dataclasses import replace
from itertools import permutations

import pytest
import torch
from datasets import Dataset, concatenate_datasets

from hf_icon2 import (
    Criterion,
    Icon2PreferenceBuilder,
    PairwiseJudge,
    Recipe,
    Refinement,
    generate_pairs,
    run_recipe,
    save_pairs,
)
from hf_icon2.cards import model_card
from hf_icon2.judges.verdicts import Ranking
from hf_icon2.judges.wording import compare_prompt
from hf_icon2.prompts import decode_answer, encode_prompt, template_fingerprint
from hf_icon2.recipe import Pairs
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed
from hf_icon2.synthesis.checks import check_pairs, summarize_checks
from hf_icon2.synthesis.publishing import load_pairs
from hf_icon2.synthesis.strategies.choosing import STRATEGIES
from hf_icon2.synthesis.strategies.ranked import best_and_worst, letter_questions
from hf_icon2.trainers.pairs import provenance

INSTRUCTIONS = ["What is the colour of the sky?", "Tell me how to bake bread.", "Bake.", "Is the sky honest?"]
SHORT = Sampling(max_new_tokens=10)
UNSTEERED = ("direct-prompting", "sampling-ranking", "self-rewarding", "self-refine")


@pytest.fixture(scope="module")
def subject(tiny_llama, tiny_tokenizer):
    """A model that may be hooked, and its tokenizer."""
    return copy.deepcopy(tiny_llama), tiny_tokenizer


@pytest.fixture(scope="module")
def directions(tiny_llama, tiny_tokenizer, random_directions):
    found = random_directions(tiny_llama)
    config = replace(found.config, chat_template_sha256=template_fingerprint(tiny_tokenizer))
    return replace(found, config=config)


def vowels(prompts, answers):
    """A reward: the share of vowels."""
    return [sum(letter in "aeiou" for letter in text) / (1 + len(text)) for text in answers]


class Shortest:
    """A ranker that likes short answers, and refuses what rankers of chat models refuse."""

    def rank(self, questions, answers, demonstrations=(), *, progress=None):
        for given in answers:
            assert all(given) and len(set(given)) == len(given) > 1
        return [Ranking(tuple(-float(len(text)) for text in given)) for given in answers]


def make(subject, strategy, instructions=INSTRUCTIONS, *, directions=None, **options):
    defaults = {
        "criterion": "honesty",
        "reward": vowels,
        "judge": Shortest(),
        "sampling": SHORT,
        "show_progress": False,
        "drop": (),
    }
    return generate_pairs(*subject, directions, instructions, strategy=strategy, **(defaults | options))


def write(subject, prompt, seed, *, system=None, limit=10):
    """One plain answer, by the engine alone."""
    model, tokenizer = subject
    ((answer,),) = generate_variants(
        model,
        [encode_prompt(tokenizer, prompt, system)],
        [[None]],
        sampling=Sampling(max_new_tokens=limit),
        seeds=[[seed]],
        pad=0,
    )
    return answer


def samples_of(subject, text, seed, number):
    return [write(subject, text, row_seed(seed, f"sample {place}")) for place in range(number)]


def said(rows, side):
    return [row[0]["content"] for row in rows[side]]


def by_letters(subject, question, first, second):
    """P(first is better) by hand: both orders, no batch, no cache; letters in any case, with or without spaces."""
    model, tokenizer = subject
    spellings = {letter: [] for letter in "ab"}
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token]).strip().lower()
        if text in spellings:
            spellings[text].append(token)

    def first_seat(one, other):
        ids = encode_prompt(tokenizer, compare_prompt(question, one, other))
        with torch.no_grad():
            chances = model(torch.tensor([ids])).logits[0, -1].double().softmax(-1)
        a, b = (float(chances[spellings[letter]].sum()) for letter in "ab")
        return a / (a + b)

    return (first_seat(first, second) + 1 - first_seat(second, first)) / 2


# --- every strategy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", UNSTEERED)
def test_rows_say_which_strategy_made_them_and_leave_out_what_it_has_not(subject, strategy):
    rows = make(subject, strategy)
    assert rows["id"] == ["0", "1", "2", "3"]
    assert set(rows["strategy"]) == {strategy}
    for name in ("strength_chosen", "strength_rejected", "directions_sha256", "noise"):
        assert set(rows[name]) == {None}
    ranked = strategy in ("sampling-ranking", "self-rewarding")
    assert all((value is not None) == ranked for value in rows["reward_chosen"])
    assert all(row["tokens_generated"] >= row["tokens_chosen"] for row in rows)
    assert rows["prompt"][0] == [{"role": "user", "content": INSTRUCTIONS[0]}]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_row_depends_on_its_id_and_not_on_batches_or_neighbours(subject, directions, strategy):
    rows = make(subject, strategy, directions=directions, samples=3)
    assert make(subject, strategy, directions=directions, samples=3, batch_size=1).to_list() == rows.to_list()
    last = Dataset.from_list([{"prompt": INSTRUCTIONS[3], "id": "3"}])
    alone = make(subject, strategy, last, directions=directions, samples=3)
    assert alone.to_list() == rows.to_list()[3:]
    assert make(subject, strategy, directions=directions, samples=3, seed=1).to_list() != rows.to_list()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_budget_keeps_the_first_rows_whose_tokens_fit(subject, directions, strategy):
    """The running sums of the whole set are the oracle, at a sum exactly, one below one, and beyond all."""
    few = Sampling(max_new_tokens=4)
    rows = make(subject, strategy, INSTRUCTIONS * 2, directions=directions, samples=2, sampling=few).to_list()
    sums = [sum(row["tokens_generated"] for row in rows[: end + 1]) for end in range(len(rows))]
    for budget in (sums[0], sums[4] - 1, sums[5], sums[-1] + 100):
        fitting = sum(total <= budget for total in sums)
        for batch_size in (2, 5):
            kept = make(
                subject, strategy, INSTRUCTIONS * 2, directions=directions, samples=2, sampling=few,
                token_budget=budget, batch_size=batch_size,
            )  # fmt: skip
            assert kept.to_list() == rows[:fitting]


def test_hardly_more_is_generated_than_a_budget_counts(subject):
    """100 rows would fit one batch of 32; after the first, batches are as large as what is left should need."""
    asked = []

    def counted(prompts, answers):
        asked.append(len(answers))
        return vowels(prompts, answers)

    full = make(subject, "sampling-ranking", INSTRUCTIONS * 25, samples=2)
    budget = sum(full["tokens_generated"][:36])
    kept = make(
        subject, "sampling-ranking", INSTRUCTIONS * 25, samples=2, reward=counted, token_budget=budget
    )
    assert len(kept) == 36
    assert asked[0] == 64
    assert sum(asked) <= 2 * 40


def test_dropped_rows_count_in_the_budget(subject):
    """All rewards are equal, so that every row is undecided and left out, yet only two rows are paid for."""
    calls = []

    def flat(prompts, answers):
        calls.append(len(answers))
        return [0.0] * len(answers)

    paid = make(subject, "sampling-ranking", reward=flat)["tokens_generated"]
    calls.clear()
    left = make(
        subject,
        "sampling-ranking",
        reward=flat,
        drop=("undecided",),
        token_budget=sum(paid[:2]),
        batch_size=1,
    )
    assert len(left) == 0
    assert calls == [5, 5, 5]  # the third row is generated, does not fit, and ends it


def test_a_budget_logs_how_many_instructions_it_was_enough_for(subject, caplog):
    tokens = make(subject, "direct-prompting")["tokens_generated"]
    with caplog.at_level("INFO", logger="hf_icon2"):
        make(subject, "direct-prompting", token_budget=sum(tokens[:2]))
    assert (
        f"2 of 4 instructions are answered, with {sum(tokens[:2])} of {sum(tokens[:2])} tokens" in caplog.text
    )


# --- direct prompting --------------------------------------------------------------------------------------


def test_direct_prompting_answers_under_each_system_prompt_with_noise_of_its_own(subject):
    criterion = Criterion("wit", "You are witty.", "You are dull.")
    rows = make(subject, "direct-prompting", criterion="wit", criteria=[criterion], seed=3)
    for place, text in enumerate(INSTRUCTIONS):
        chosen = write(subject, text, row_seed(3, str(place)), system="You are witty.")
        rejected = write(subject, text, row_seed(3, f"{place}/rejected"), system="You are dull.")
        assert said(rows, "chosen")[place] == decode_answer(subject[1], chosen.ids)
        assert said(rows, "rejected")[place] == decode_answer(subject[1], rejected.ids)
        assert rows["tokens_generated"][place] == len(chosen.ids) + len(rejected.ids)


def test_direct_prompting_takes_the_prompts_of_the_directions_before_the_default_ones(subject, directions):
    default = make(subject, "direct-prompting")
    assert make(subject, "direct-prompting", directions=directions).to_list() != default.to_list()
    own = make(subject, "direct-prompting", criteria=directions.config.criteria)
    assert make(subject, "direct-prompting", directions=directions).to_list() == own.to_list()


def test_direct_prompting_separates_the_toy_by_its_truth_table(toy_assistant, toy_tokenizer):
    """Of the pairs that the table grades differently, far more are right than wrong."""
    from hf_icon2.toy.answers import reward
    from hf_icon2.toy.world import instructions

    texts = [item.text for item in instructions("train") if item.kind == "fact"][:80]
    rows = make((toy_assistant, toy_tokenizer), "direct-prompting", texts, sampling=Sampling(32))
    graded = [
        [reward(*pair) for pair in zip(texts, said(rows, side), strict=True)]
        for side in ("chosen", "rejected")
    ]
    right = sum(better > worse for better, worse in zip(*graded, strict=True))
    wrong = sum(better < worse for better, worse in zip(*graded, strict=True))
    assert right > 30
    assert right > 5 * wrong


# --- sampling and ranking ----------------------------------------------------------------------------------


def test_sampling_ranking_is_the_best_and_worst_of_the_same_samples(subject):
    rows = make(subject, "sampling-ranking", seed=2, samples=4)
    for place, text in enumerate(INSTRUCTIONS):
        samples = samples_of(subject, text, row_seed(2, str(place)), 4)
        texts = [decode_answer(subject[1], sample.ids) for sample in samples]
        scores = vowels([text] * 4, texts)
        row = rows[place]
        assert row["chosen"][0]["content"] == texts[scores.index(max(scores))]
        assert row["rejected"][0]["content"] == texts[scores.index(min(scores))]
        assert (row["reward_chosen"], row["reward_rejected"]) == (max(scores), min(scores))
        assert row["tokens_generated"] == sum(len(sample.ids) for sample in samples)


@pytest.mark.parametrize(
    ("scores", "places"),
    [
        ([1.0, 3.0, 2.0], (1, 0)),
        ([2.0, 3.0, 3.0, 2.0], (1, 0)),
        ([1.0, 1.0], (0, 0)),
        ([None, 2.0, None, 1.0], (1, 3)),
        ([None, None], (0, 0)),
    ],
)
def test_of_equal_scores_the_first_counts_and_samples_without_one_take_no_part(scores, places):
    assert best_and_worst(scores) == places


def test_the_pairs_of_magpie_are_rebuilt_from_its_scores(data_dir):
    """Max and min of five ArmoRM scores, as Magpie does; of its first row the 4th (0.1167) and the 2nd (0.1074)."""
    rows = json.loads((data_dir / "magpie_po" / "example_instructions_5res_armorm.json").read_text())
    found = []
    for row in rows:
        scores = [reward["score"] for reward in row["rewards_armorm"]]
        best, worst = best_and_worst(scores)
        assert [scores[worst], scores[best]] == sorted(scores)[:: len(scores) - 1]
        found.append((best, worst))
    assert found[0] == (3, 1)
    assert len(found) == 5


def test_equal_rewards_are_undecided_and_dropped(subject):
    flat = lambda prompts, answers: [1.0] * len(answers)  # noqa: E731
    rows = make(subject, "sampling-ranking", reward=flat)
    assert all("undecided" in flags for flags in rows["flags"])
    assert said(rows, "chosen") == said(rows, "rejected")
    assert len(make(subject, "sampling-ranking", reward=flat, drop=("undecided",))) == 0


def test_a_judge_can_be_the_reward_and_a_reward_the_judge(subject):
    """Both arguments take either; the samples are the same, so the pairs are."""
    ranked = make(subject, "sampling-ranking", reward=Shortest())
    assert said(ranked, "chosen") == said(make(subject, "self-rewarding", judge=Shortest()), "chosen")
    scored = make(subject, "self-rewarding", judge=vowels)
    assert said(scored, "chosen") == said(make(subject, "sampling-ranking", reward=vowels), "chosen")


# --- self-rewarding ----------------------------------------------------------------------------------------


def test_self_rewarding_is_the_arg_max_of_the_letters_in_both_orders(subject, monkeypatch):
    """A random model hardly says A or B: the least mass that a verdict needs is set to nothing."""
    monkeypatch.setattr("hf_icon2.judges.pairwise.LEAST_MASS", 0.0)
    rows = make(subject, "self-rewarding", judge=None, samples=3, seed=4)
    for place, text in enumerate(INSTRUCTIONS):
        samples = samples_of(subject, text, row_seed(4, str(place)), 3)
        texts = [decode_answer(subject[1], sample.ids) for sample in samples]
        assert len(set(texts)) == 3
        wins = dict.fromkeys(texts, 0.0)
        for first, second in permutations(texts, 2):
            wins[first] += by_letters(subject, text, first, second) / 2
        row = rows[place]
        assert row["chosen"][0]["content"] == max(wins, key=wins.__getitem__)
        assert row["rejected"][0]["content"] == min(wins, key=wins.__getitem__)
        assert row["reward_chosen"] == pytest.approx(max(wins.values()), abs=1e-5)
        assert row["reward_rejected"] == pytest.approx(min(wins.values()), abs=1e-5)
        assert row["questions_asked"] == 6


def test_a_model_that_does_not_answer_with_letters_decides_nothing_and_says_so(subject, caplog):
    rows = make(subject, "self-rewarding", judge=None)
    assert all("undecided" in flags for flags in rows["flags"])
    assert set(rows["reward_chosen"]) == {None}
    assert "4 of 4 instructions are undecided" in caplog.text
    assert "the letters A and B have less than 0.1 of the probability" in caplog.text


def test_a_ranker_sees_every_text_once_and_no_empty_one(subject, tiny_model):
    """A model that ends or repeats itself at once writes few different texts; `Shortest` refuses the others."""
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    rows = make(subject, "self-rewarding", sampling=greedy)
    assert all("undecided" in flags for flags in rows["flags"])  # five times the same answer
    assert letter_questions(["x", "y", "x", " ", "z"]) == 6


def test_the_toy_judges_its_own_answers_well(toy_assistant, toy_tokenizer):
    from hf_icon2.toy.answers import reward
    from hf_icon2.toy.skills import ab_prompt
    from hf_icon2.toy.world import instructions

    texts = [item.text for item in instructions("train")][::12][:40]
    toy = (toy_assistant, toy_tokenizer)
    judge = PairwiseJudge.from_model(*toy, ask=ab_prompt)
    rows = make(toy, "self-rewarding", texts, judge=judge, sampling=Sampling(32))
    graded = [
        [reward(*pair) for pair in zip(texts, said(rows, side), strict=True)]
        for side in ("chosen", "rejected")
    ]
    right = sum(better > worse for better, worse in zip(*graded, strict=True))
    wrong = sum(better < worse for better, worse in zip(*graded, strict=True))
    assert right > 10
    assert right > 3 * wrong


# --- self-refine -------------------------------------------------------------------------------------------


def test_self_refine_revises_the_first_sample_after_the_models_own_critique(subject):
    rows = make(subject, "self-refine", seed=6, samples=2)
    _, tokenizer = subject
    rejected = []
    for place, text in enumerate(INSTRUCTIONS):
        seed = row_seed(6, str(place))
        samples = samples_of(subject, text, seed, 2)
        first = decode_answer(tokenizer, samples[0].ids)
        turns = [
            {"role": "user", "content": text},
            {"role": "assistant", "content": first},
            {"role": "user", "content": "What is wrong with your answer? Say where it is untrue, incomplete, unclear "
             "or harmful, and how to mend it. Do not write a new answer yet."},
        ]  # fmt: skip
        critique = write(subject, turns, row_seed(seed, "critique"))
        turns += [
            {"role": "assistant", "content": decode_answer(tokenizer, critique.ids)},
            {"role": "user", "content": "Now write the better answer. Reply with that answer alone, as if it were your "
             "first."},
        ]  # fmt: skip
        better = write(subject, turns, row_seed(seed, "revision"))
        row = rows[place]
        assert row["chosen"][0]["content"] == decode_answer(tokenizer, better.ids)
        originals = [decode_answer(tokenizer, sample.ids) for sample in samples]
        assert row["rejected"][0]["content"] in originals
        rejected.append(originals.index(row["rejected"][0]["content"]))
        assert row["tokens_generated"] == sum(len(one.ids) for one in [*samples, critique, better])
    assert set(rejected) == {0, 1}  # a random one: of four rows both places occur


def test_the_wording_of_critique_and_revision_is_the_callers(subject):
    """One-turn wordings, as a base model needs them; each sees what it is said to see."""
    seen = []

    def critique(question, answer):
        seen.append(("critique", question, answer))
        return f"Judge: {answer}"

    def revise(question, answer, critique):
        seen.append(("revise", question, answer, critique))
        return f"Mend: {answer} by {critique}"

    base = copy.deepcopy(subject[1])
    base.chat_template = None
    rows = make((subject[0], base), "self-refine", ["Bake."], refine=Refinement(critique, revise), samples=1)
    assert seen[0] == ("critique", "Bake.", rows["rejected"][0])
    assert seen[1][:3] == ("revise", "Bake.", rows["rejected"][0])
    mended = write(
        (subject[0], base), f"Mend: {seen[1][2]} by {seen[1][3]}", row_seed(rows["seed"][0], "revision")
    )
    assert rows["chosen"] == [decode_answer(base, mended.ids)]


# --- base models, names, refusals --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", UNSTEERED[:3])
def test_a_base_model_gets_plain_text_rows(subject, strategy):
    base = copy.deepcopy(subject[1])
    base.chat_template = None
    rows = make((subject[0], base), strategy)
    assert rows["prompt"] == INSTRUCTIONS
    assert isinstance(rows["chosen"][0], str)


def test_noise_is_another_name_of_the_steered_strategies(subject, directions):
    named = make(subject, "icon2-independent", directions=directions)
    assert make(subject, "icon2", directions=directions, noise="independent").to_list() == named.to_list()
    assert set(named["strategy"]) == {"icon2-independent"}
    assert set(named["noise"]) == {"independent"}
    assert make(subject, "icon2", directions=directions, noise="shared").to_list() != named.to_list()


def test_the_recipe_knows_the_same_names():
    for name in STRATEGIES:
        assert Recipe(pairs=Pairs(strategy=name)).pairs.strategy == name
        assert Recipe.from_dict({"pairs": {"strategy": name}}).pairs.strategy == name


@pytest.mark.parametrize(
    ("strategy", "options", "sentence"),
    [
        ("luck", {}, "strategy='luck' is unknown; allowed: icon2, icon2-independent, direct-prompting"),
        ("icon2", {}, "strategy='icon2' steers, so it needs directions; .* another strategy: direct-prompting"),
        ("sampling-ranking", {"reward": None}, "strategy='sampling-ranking' needs reward=..., a function"),
        ("sampling-ranking", {"reward": lambda p, a: [1.0]}, "the reward gave 1 numbers for 20 answers"),
        ("sampling-ranking", {"reward": lambda p, a: [math.nan] * len(a)}, "the reward of the answer .* is nan"),
        ("sampling-ranking", {"samples": 1}, "strategy='sampling-ranking' needs samples=2 or more, got 1"),
        ("self-refine", {"samples": 0}, "strategy='self-refine' needs samples=1 or more, got 0"),
        ("direct-prompting", {"criterion": None}, "row 0 is to be about criterion None; known are general, honesty"),
        ("direct-prompting", {"criterion": "wit"}, "criterion 'wit'; known are general, honesty, harmlessness"),
        ("icon2-independent", {"noise": "shared"}, "contradicts strategy='icon2-independent', which has independent"),
        ("self-refine", {"noise": "shared"}, "contradicts strategy='self-refine', which draws every answer by"),
        ("self-refine", {"token_budget": 0}, "token_budget must be at least 1 token, or None"),
        ("self-refine", {"token_budget": 1}, "the first pair takes .* tokens, and token_budget is 1; raise it"),
    ],
)  # fmt: skip
def test_what_a_strategy_cannot_work_with_gets_a_sentence(subject, strategy, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(subject, strategy, **options)


def test_what_neither_scores_nor_ranks_is_refused(subject):
    with pytest.raises(TypeError, match="reward is a str; pass a function of"):
        make(subject, "sampling-ranking", reward="armorm")


def test_a_ranker_that_leaves_questions_out_is_refused(subject):
    class Lazy(Shortest):
        def rank(self, questions, answers, demonstrations=(), *, progress=None):
            return super().rank(questions, answers)[1:]

    with pytest.raises(ValueError, match="the judge ranked 3 of 4 questions"):
        make(subject, "self-rewarding", judge=Lazy())


def test_self_refine_in_turns_needs_a_chat_template(subject):
    base = copy.deepcopy(subject[1])
    base.chat_template = None
    with pytest.raises(
        ValueError, match="no chat template, so 'self-refine' cannot ask in turns; pass refine="
    ):
        make((subject[0], base), "self-refine")


@pytest.mark.parametrize("strategy", ["sampling-ranking", "self-rewarding", "self-refine"])
def test_a_run_makes_its_pairs_by_the_strategy_of_its_recipe(strategy, tmp_path):
    """Of the toy, which is asked in its own words; the other stages are as ever."""
    recipe = Recipe.from_dict(
        {
            "criteria": ["honesty"],
            "extraction": {"number": 8},
            "synthesis": {"number": 12, "max_new_tokens": 24},
            "tuning": {"strengths": [0.2], "instructions": 4},
            "pairs": {"strategy": strategy, "samples": 3, "max_new_tokens": 24},
        }
    )
    run_recipe(recipe, tmp_path, until="pairs")
    rows = load_pairs(tmp_path / "pairs")
    assert set(rows["strategy"]) == {strategy}
    assert set(rows["criterion"]) == {"honesty"}
    decided = [row for row in rows if "undecided" not in row["flags"]]
    assert len(decided) > len(rows) / 2
    assert all(row["tokens_generated"] > row["tokens_chosen"] + row["tokens_rejected"] for row in rows)


def test_the_builder_takes_a_strategy_and_refuses_one_without_its_reward(
    tiny_llama_dir, directions, tmp_path
):
    directions.save_pretrained(tmp_path / "directions")
    settings = {
        "model": str(tiny_llama_dir),
        "directions": str(tmp_path / "directions"),
        "number": 4,
        "sampling": {"max_new_tokens": 8},
        "cache_dir": str(tmp_path / "cache"),
    }
    builder = Icon2PreferenceBuilder(**settings, strategy="direct-prompting")
    builder.download_and_prepare()
    assert set(builder.as_dataset(split="train")["strategy"]) == {"direct-prompting"}
    with pytest.raises(ValueError, match="needs reward=..., the id or path of a reward model"):
        Icon2PreferenceBuilder(**settings, strategy="sampling-ranking")


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ("direct-prompting", "under a\nsystem prompt that asks for a criterion"),
        ("sampling-ranking", "answer with the highest reward is `chosen`"),
        ("self-refine", "criticised its first answer and wrote a better one"),
    ],
)
def test_the_cards_say_how_the_pairs_were_made_and_claim_no_steering(subject, strategy, sentence, tmp_path):
    criterion = "honesty" if strategy == "direct-prompting" else None
    rows = make(subject, strategy, criterion=criterion)
    card = (save_pairs(rows, tmp_path / "pairs") / "README.md").read_text()
    assert sentence in card
    assert "steered" not in card.partition("| column |")[0]
    assert "activation-steering" not in card
    assert (
        f"- Tokens generated for these pairs, thrown-away answers included: {sum(rows['tokens_generated'])}."
        in card
    )
    assert f"| {criterion or 'none'} | 4 | none | none |" in card
    found = provenance(rows)
    assert found["strategies"] == [strategy]
    assert [(row["name"], row["chosen"]) for row in found["criteria"]] == [(criterion or "none", "none")]
    model = model_card(
        model_name=None, base_model=None, tags=[], dataset_name=None, provenance=found, settings={}, monitor="",
        versions="",
    )  # fmt: skip
    assert "steered" not in model.partition("## Training data")[0]
    assert f"on pairs that a model made of its own answers (`{strategy}`)" in model


def test_a_card_of_pairs_made_in_several_ways_tells_each(subject, directions, tmp_path):
    both = concatenate_datasets([make(subject, "icon2", directions=directions), make(subject, "self-refine")])
    card = (save_pairs(both, tmp_path / "pairs") / "README.md").read_text()
    assert "in several ways (column `strategy`)" in card
    assert "- `icon2`, 4 pairs: Every prompt was answered twice by the same model, steered towards" in card
    assert (
        "- `self-refine`, 4 pairs: Every prompt was answered by the same model, which then criticised" in card
    )


# --- what comes after --------------------------------------------------------------------------------------


def test_pairs_without_a_criterion_are_checked_without_a_margin(subject, directions):
    """Beside rows that have one, whose checks are those of the rows alone."""
    rows = make(subject, "sampling-ranking", criterion=None)
    named = make(subject, "sampling-ranking", criterion="helpfulness")
    both = Dataset.from_list([rows[0], named[1], rows[2]], features=rows.features)
    checked = check_pairs(*subject, directions, both, show_progress=False)
    alone = check_pairs(*subject, directions, named, show_progress=False)
    assert checked["projection_margin"][::2] == [None, None]
    assert checked["projection_margin"][1] == pytest.approx(alone["projection_margin"][1], abs=1e-5)
    assert not {"flipped"} & {*checked["flags"][0], *checked["flags"][2]}
    assert summarize_checks(checked).rows == {"helpfulness": 1, "no criterion": 2}
    bare = check_pairs(*subject, directions, rows, show_progress=False)
    assert set(bare["projection_margin"]) == {None}


def test_a_check_keeps_what_only_the_strategy_knows(subject, directions):
    rows = make(subject, "sampling-ranking", reward=lambda prompts, answers: [1.0] * len(answers))
    checked = check_pairs(*subject, directions, rows, show_progress=False)
    assert all("undecided" in flags for flags in checked["flags"])


def test_broken_texts_that_nobody_steered_are_not_blamed_on_a_strength(subject):
    hot = make(subject, "direct-prompting", sampling=Sampling(max_new_tokens=10))
    broken = hot.remove_columns("flags").add_column("flags", [["degenerate_chosen"]] * 4)
    (warning,) = summarize_checks(broken).warnings
    assert warning.startswith("The chosen text is broken, and was not steered: 100% of the chosen answers")
