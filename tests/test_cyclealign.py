"""The cycles of CycleAlign over real HTTP: figures by hand, the control, kills at every file, failing black boxes."""

import itertools
import json
import signal
from string import ascii_uppercase as LETTERS

import pytest
import torch
from faulty_server import FaultyServer, at_random
from killing import killed_at
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from hf_icon2 import ChatClient, CycleAlign, CycleRecipe, DirectionVectors, sample_candidates
from hf_icon2.distillation.cycle_figures import why_ended
from hf_icon2.distillation.cycle_recipe import Ranker, Sampling, Training
from hf_icon2.judges.chat.budget import Budget
from hf_icon2.judges.ranking import RankingJudge
from hf_icon2.judges.verdicts import Demonstration, Ranking
from hf_icon2.loading import load_model, load_tokenizer
from hf_icon2.steering.decoding import Sampling as Sampled
from hf_icon2.storage import locked, read_json, read_json_lines
from hf_icon2.toy import assistant_path, instructions, student_path
from hf_icon2.toy.ranking import RankingRule, read_prompt, static_demonstrations

PROMPTS = [item.text for item in instructions("train")[:64:4]]
STATIC = [Demonstration(question, answers) for question, answers in static_demonstrations()]
FILES = ["candidates.jsonl", "dropped.jsonl", "usage.json", "rankings.jsonl", "demonstrations.json"]
FILES += ["model/config.json", "model/model.safetensors", "model/README.md", "figures.json"]


def settings(**changes):
    return CycleRecipe(
        **{
            "cycles": 2,
            "stop_early": False,
            "sampling": Sampling(samples=5, keep=3, max_new_tokens=24),
            "ranker": Ranker(endpoint="http://127.0.0.1:1/v1", pool=2),
            "training": Training(learning_rate=1e-3, batch_size=4),
            **changes,
        }
    )


RULE = RankingRule(noise=0.3)


def by_rule(payload):
    """The reply of the toy's black box."""
    demonstrations, query = read_prompt(payload["messages"][-1]["content"])
    return " > ".join(LETTERS[seat] for seat in RULE.rank(query, demonstrations))


def cycle(output, ranker, recipe=None, **arguments):
    given = {"demonstrations": STATIC, "show_progress": False, **arguments}
    return CycleAlign(student_path(), PROMPTS, ranker, output, recipe or settings(), **given)


def files_of(folder):
    """Everything that a run leaves, as bytes by name, but the recipe, the cache, the libraries' own record, and what
    is left of files in which a kill came. What the black box was asked for, `usage`, is left out of the figures: an
    attempt that was killed took its count with it."""
    skip = {"training_args.bin", "recipe.json", "usage.json"}
    return {
        str(path.relative_to(folder)): without_usage(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in skip and "sqlite" not in path.name and path.name[0] != "."
    }


def without_usage(path):
    if path.name not in ("figures.json", "history.json"):
        return path.read_bytes()
    data = read_json(path)
    for figures in data.get("cycles", [data]):
        assert figures.pop("usage")["requests"] >= 0
    return json.dumps(data)


@pytest.fixture(scope="module")
def endpoint():
    with FaultyServer(by_rule) as server:
        yield server


@pytest.fixture(scope="module")
def finished(endpoint, tmp_path_factory):
    """The folder of two cycles, and what the black box was asked."""
    folder = tmp_path_factory.mktemp("cycles") / "run"
    first = len(endpoint.seen)
    student = cycle(folder, RankingJudge(ChatClient(endpoint.url))).run()
    assert student == folder / "cycle-2" / "model"
    return folder, [seen.payload["messages"][-1]["content"] for seen in endpoint.seen[first:]]


def rows_of(folder, number, name):
    return read_json_lines(folder / f"cycle-{number}" / f"{name}.jsonl")


def tau_by_hand(first, second):
    pairs = [
        (first[one] - first[other]) * (second[one] - second[other])
        for one, other in itertools.combinations(range(len(first)), 2)
    ]
    return sum((value > 0) - (value < 0) for value in pairs) / len(pairs)


def common_by_hand(first, second):
    """The longest sequences that both put in this order, all tried."""
    chains = [
        chain
        for size in range(1, len(first) + 1)
        for chain in itertools.permutations(range(len(first)), size)
        if all(first[a] > first[b] and second[a] > second[b] for a, b in itertools.pairwise(chain))
    ]
    longest = max(map(len, chains))
    return [chain for chain in chains if len(chain) == longest]


@pytest.mark.parametrize("number", [1, 2])
def test_the_figures_are_those_of_the_files(finished, number):
    folder, _ = finished
    candidates = {row["id"]: row for row in rows_of(folder, number, "candidates")}
    rankings = rows_of(folder, number, "rankings")
    figures = read_json(folder / "history.json")["cycles"][number - 1]
    assert [row["id"] for row in rankings] == [str(index) for index in range(len(PROMPTS))]
    taus, lengths, agreed, others, tokens = [], [], [], [], []
    for row in rankings:
        if row["scores"] is None:
            assert row["reason"]
            continue
        white, black = candidates[row["id"]]["mean_log_probs"], row["scores"]
        taus.append(tau_by_hand(black, white))
        chains = common_by_hand(black, white)
        lengths.append(len(chains[0]))
        own = candidates[row["id"]]["tokens"]
        tokens += own
        if len(chains[0]) >= 2:
            agreed.append({own[chain[0]] for chain in chains})
        else:
            others.append(own[black.index(max(black))])
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    assert figures["cycle"] == number
    assert figures["instructions"] == len(PROMPTS)
    assert figures["ranked"] == len(taus) >= 10
    assert sum(figures["dropped"].values()) == len(PROMPTS) - len(taus)
    assert figures["tau"] == pytest.approx(mean(taus))
    assert figures["lcs"] == pytest.approx(mean(lengths))
    assert figures["agreed"] == pytest.approx(len(agreed) / len(taus))
    assert figures["tokens"]["responses"] == pytest.approx(mean(tokens))
    least, most = (mean([pick(one) for one in agreed]) for pick in (min, max))
    assert least <= figures["tokens"]["agreed_winners"] <= most
    if others:
        assert figures["tokens"]["other_winners"] == pytest.approx(mean(others))
    assert figures["usage"]["requests"] == 2 * len(candidates)


def test_each_cycle_begins_with_the_student_before_and_the_white_box_is_that_student(finished):
    """Mean log-probabilities once more, one plain pass per response."""
    folder, _ = finished
    for number, source in ((1, student_path()), (2, str(folder / "cycle-1" / "model"))):
        model, tokenizer = load_model(source), load_tokenizer(source)
        for row in rows_of(folder, number, "candidates")[:4]:
            start = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
            for response, expected, length in zip(
                row["responses"], row["mean_log_probs"], row["tokens"], strict=True
            ):
                ids = tokenizer.apply_chat_template(row["prompt"] + response)["input_ids"]
                with torch.no_grad():
                    scores = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
                own = scores.gather(1, torch.tensor(ids[1:])[:, None])[len(start) - 1 :, 0]
                assert len(own) == length
                assert own.mean().item() == pytest.approx(expected, abs=1e-4)


def test_the_next_cycle_is_shown_what_both_agreed_on(finished):
    """Static demonstrations first, then the fullest and surest agreements of cycle 1, in the order of both."""
    folder, asked = finished
    candidates = {row["id"]: row for row in rows_of(folder, 1, "candidates")}
    first = len(candidates) * 2
    shown = [read_prompt(text)[0] for text in asked]
    assert all([one.question for one in each] == [s.question for s in STATIC] for each in shown[:first])
    for each in shown[first:]:
        assert [one.question for one in each][:2] == [one.question for one in STATIC]
        assert len(each) == 4
    found = []
    for row in rows_of(folder, 1, "rankings"):
        if row["scores"] is not None:
            candidate = candidates[row["id"]]
            white = candidate["mean_log_probs"]
            chain = max(
                common_by_hand(row["scores"], white), key=lambda one: [row["scores"][index] for index in one]
            )
            if len(chain) >= 2:
                margin = min(white[a] - white[b] for a, b in itertools.pairwise(chain))
                texts = [candidate["responses"][index][0]["content"] for index in chain]
                found.append((-len(chain), -margin, candidate["prompt"][0]["content"], texts))
    for demonstration, (*_, question, texts) in zip(shown[first][2:], sorted(found)[:2], strict=True):
        assert demonstration.question == question
        assert [demonstration.answers[seat] for seat in demonstration.order] == texts


def test_frozen_demonstrations_change_what_the_black_box_sees_and_nothing_else(finished, endpoint, tmp_path):
    folder, _ = finished
    first = len(endpoint.seen)
    cycle(
        tmp_path / "run", RankingJudge(ChatClient(endpoint.url)), settings(update_demonstrations=False)
    ).run()
    ours, theirs = files_of(tmp_path / "run"), files_of(folder)
    different = {name for name in theirs if ours[name] != theirs[name]}
    same = {f"cycle-1/{name}" for name in FILES if name not in ("demonstrations.json", "figures.json")}
    assert not different & (same | {"cycle-2/candidates.jsonl"})
    assert "cycle-1/demonstrations.json" in different
    for seen in endpoint.seen[first:]:
        assert len(read_prompt(seen.payload["messages"][-1]["content"])[0]) == len(STATIC)


def test_a_run_that_is_done_is_not_done_again_and_another_cycle_may_follow(finished, endpoint, tmp_path):
    folder, _ = finished
    before, first = files_of(folder), len(endpoint.seen)
    again = cycle(folder, RankingJudge(ChatClient(endpoint.url)))
    assert again.run() == folder / "cycle-2" / "model"
    assert [row["cycle"] for row in again.history] == [1, 2]
    assert files_of(folder) == before
    assert len(endpoint.seen) == first
    for changes, message in (
        ({"seed": 1}, r"another recipe \(see seed\)"),
        ({"ranker": Ranker(endpoint="http://127.0.0.1:1/v1", pool=3)}, r"another recipe \(see ranker.pool\)"),
    ):
        with pytest.raises(ValueError, match=message):
            cycle(folder, RankingJudge(ChatClient(endpoint.url)), settings(**changes)).run()
    with pytest.raises(ValueError, match="holds a run with another student"):
        CycleAlign(assistant_path(), PROMPTS, ByLength(), folder, settings(), demonstrations=STATIC).run()
    with pytest.raises(ValueError, match="holds responses to other prompts"):
        CycleAlign(student_path(), PROMPTS[::-1], ByLength(), folder, settings(), demonstrations=STATIC).run()
    with pytest.raises(ValueError, match="holds a run with other demonstrations"):
        cycle(folder, RankingJudge(ChatClient(endpoint.url)), settings(cycles=3), demonstrations=[]).run()


@pytest.fixture(scope="module")
def command(endpoint, tmp_path_factory):
    """The same run as a command, without its output."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    rows = [{"question": one.question, "answers": one.answers} for one in STATIC]
    (folder / "static.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {
        "method": "cyclealign",
        "student": student_path(),
        "prompts": folder / "prompts.jsonl",
        "cycles": 2,
        "stop_early": "false",
        "sampling.samples": 5,
        "sampling.keep": 3,
        "sampling.max_new_tokens": 24,
        "ranker.endpoint": endpoint.url,
        "ranker.demonstrations": folder / "static.jsonl",
        "ranker.pool": 2,
        "training.learning_rate": 1e-3,
        "training.batch_size": 4,
    }
    return ["distill", *(part for name, value in flags.items() for part in (f"--{name}", str(value)))]


def test_a_run_that_is_killed_at_every_file_ends_with_the_same_bytes(
    finished, command, endpoint, tmp_path, monkeypatch
):
    """And in the midst of the rankings; what was asked then is not asked again but for what was in flight."""
    folder, asked = finished
    first = len(endpoint.seen)

    def until_killed(payload):
        if len(endpoint.seen) == first + 12:
            (tmp_path / "asked").touch()
        return by_rule(payload)

    monkeypatch.setattr(endpoint, "answer", until_killed)
    names = ["recipe.json", f"cycle-1/{FILES[0]}", "../asked", *(f"cycle-1/{name}" for name in FILES[1:])]
    names += ["cycle-2/model/model.safetensors", "history.json"]
    killed = killed_at([*command, "--output", str(tmp_path / "run")], names, tmp_path / "run")
    assert {*killed.values()} == {-signal.SIGKILL}
    assert len(killed) >= 9
    assert "../asked" in killed
    ours, theirs = files_of(tmp_path / "run"), files_of(folder)
    assert ours.keys() == theirs.keys()
    assert {name for name in theirs if ours[name] != theirs[name]} == set()
    texts = [seen.payload["messages"][-1]["content"] for seen in endpoint.seen[first:]]
    assert set(texts) == set(asked)
    assert len(texts) <= len(asked) + 8


@pytest.mark.parametrize("cached", [True, False])
def test_a_budget_that_is_spent_ends_before_training_and_a_larger_one_goes_on(
    cached, finished, endpoint, tmp_path
):
    folder, _ = finished
    cache = tmp_path / "cache.sqlite" if cached else None

    def run(most):
        chat = ChatClient(endpoint.url, concurrency=1, cache=cache, budget=Budget(requests=most))
        return cycle(tmp_path / "run", RankingJudge(chat)).run()

    message = "the budget of 14 requests is spent.*; 5 of 16 instructions are ranked and kept"  # 2 contradict
    with pytest.raises(OSError, match=message):
        run(14)
    assert not (tmp_path / "run" / "cycle-1" / "model").exists()
    run(1000)
    ours, theirs = files_of(tmp_path / "run"), files_of(folder)
    assert {name for name in theirs if ours[name] != theirs[name]} == set()


def test_of_a_server_that_fails_every_instruction_is_ranked_or_listed_with_its_reason(tmp_path):
    shares = {"429": 0.1, "500": 0.1, "cut": 0.1, "malformed": 0.1, "wrong": 0.1, "hold": 0.05}
    with FaultyServer(by_rule, plan=at_random(shares), wrong=lambda _payload, text: f"{text} > Z") as server:
        judge = RankingJudge(ChatClient(server.url, backoff=0.01, timeout=1.0))
        folder = cycle(tmp_path / "run", judge, settings(cycles=1)).run().parent
    rankings = read_json_lines(folder / "rankings.jsonl")
    dropped = {row["id"]: row["reason"] for row in read_json_lines(folder / "dropped.jsonl")}
    assert len(rankings) == len(PROMPTS)
    assert {row["id"]: row["reason"] for row in rankings if row["scores"] is None} == dropped
    wrong = [reason for reason in dropped.values() if "does not rank each of A to C once" in reason]
    assert len(wrong) >= 1
    assert all(row["scores"] is None or row["reason"] is None for row in rankings)
    assert read_json(folder / "figures.json")["ranked"] == len(PROMPTS) - len(dropped)
    assert len({seen.fault for seen in server.seen} - {None}) >= 4
    assert server.most_in_flight <= 8


def test_a_black_box_that_ranks_nothing_ends_the_run_and_another_may_take_it_up(finished, endpoint, tmp_path):
    folder, _ = finished
    message = r"0 of 16 instructions are ranked.*is not one ranking line"
    with (
        FaultyServer(lambda _payload: "I would rather not.") as server,
        pytest.raises(ValueError, match=message),
    ):
        cycle(tmp_path / "run", RankingJudge(ChatClient(server.url))).run()
    assert len(rows_of(tmp_path / "run", 1, "dropped")) == len(PROMPTS)
    cycle(tmp_path / "run", RankingJudge(ChatClient(endpoint.url))).run()
    weights = "cycle-2/model/model.safetensors"
    ours, theirs = load_file(tmp_path / "run" / weights), load_file(folder / weights)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class ByLength:
    """A ranker that heeds no demonstrations: the shorter the better; of some questions it knows nothing."""

    def rank(self, questions, answers, demonstrations=(), *, progress=None):
        scores = [tuple(-float(len(text)) for text in texts) for texts in answers]
        scores[0], scores[1] = (1.0,) * len(answers[0]), (float("nan"), *scores[1][1:])
        return [Ranking(None, "no idea"), *map(Ranking, scores[:-1])]


def test_any_ranker_will_do_and_scores_that_say_nothing_are_dropped(tmp_path):
    training = Training(learning_rate=1e-3, batch_size=4, loss_type="rrhf", lora_rank=2)
    folder = cycle(tmp_path / "run", ByLength(), settings(cycles=1, training=training)).run().parent
    assert not list(folder.glob("model/adapter*"))  # it is merged into the student
    reasons = read_json(folder / "figures.json")["dropped"]
    assert reasons["no idea"] == 1
    assert reasons["all responses are equally good"] >= 1
    assert reasons["a score is not finite"] == 1
    assert read_json(folder / "figures.json")["usage"] is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"ranker": len}, TypeError, "ranker must have a method rank.*, got builtin_function_or_method"),
        ({"student": object()}, TypeError, r"student must be a model id or path, got object"),
        ({"prompts": "one text"}, TypeError, r"pass \[text\]"),
        ({"prompts": [{"prompt": "a row"}]}, TypeError, "an instruction is text or a list of messages"),
        ({"prompts": ["a", " "]}, ValueError, "an instruction is empty"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(changes, error, message, tmp_path):
    given = {"student": student_path(), "prompts": PROMPTS, "ranker": ByLength()} | changes
    with pytest.raises(error, match=message):
        CycleAlign(**given, output=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another process works in"):
        cycle(tmp_path, ByLength()).run()


def test_a_ranker_that_forgets_a_question_is_refused(tmp_path):
    class Forgetful(ByLength):
        def rank(self, questions, answers, demonstrations=(), *, progress=None):
            return super().rank(questions, answers)[1:]

    with pytest.raises(ValueError, match=r"returned \d+ rankings for \d+ questions"):
        cycle(tmp_path / "run", Forgetful()).run()


def test_a_ranker_with_another_number_of_scores_is_refused_before_they_are_kept(tmp_path):
    class Short(ByLength):
        def rank(self, questions, answers, demonstrations=(), *, progress=None):
            return [Ranking((1.0, 0.0))] * len(questions)

    with pytest.raises(ValueError, match="returned 2 scores for 3 answers"):
        cycle(tmp_path / "run", Short(), settings(cycles=1)).run()
    cycle(tmp_path / "run", ByLength(), settings(cycles=1)).run()  # the mended one goes on


def test_a_ranker_may_return_the_numbers_of_its_library(tmp_path):
    class OfTensors(ByLength):
        def rank(self, questions, answers, demonstrations=(), *, progress=None):
            return [Ranking(tuple(torch.tensor([float(len(text)) for text in row]))) for row in answers]

    folder = cycle(tmp_path / "run", OfTensors(), settings(cycles=1)).run().parent
    rows = read_json_lines(folder / "rankings.jsonl")
    assert all(isinstance(score, float) for row in rows for score in row["scores"] or ())


def test_an_adapter_learns_as_the_model_it_is_merged_into(tmp_path):
    """The same samples, rankings and weights as from a student saved with the adapter merged by PEFT itself."""
    adapted = get_peft_model(
        load_model(student_path()), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    students = []
    for name in ("adapter", "merged"):
        load_tokenizer(student_path()).save_pretrained(tmp_path / name)
        run = CycleAlign(tmp_path / name, PROMPTS, ByLength(), tmp_path / f"{name}-run", settings(cycles=1))
        students.append(load_file(run.run() / "model.safetensors"))
    assert students[0].keys() == students[1].keys()
    for name, weight in students[0].items():
        torch.testing.assert_close(weight, students[1][name], rtol=0, atol=1e-5)


def test_the_training_may_be_corrected_until_the_first_is_done(tmp_path):
    """No row fits into 4 tokens; what was ranked is not asked for again."""
    ranker = ByLength()
    ranked = cycle(tmp_path / "run", ranker, settings(cycles=1, training=Training(max_length=4)))
    with pytest.raises(ValueError, match="raise max_length"):
        ranked.run()
    before = (tmp_path / "run/cycle-1/rankings.jsonl").read_bytes()
    cycle(tmp_path / "run", ranker, settings(cycles=1)).run()
    assert (tmp_path / "run/cycle-1/rankings.jsonl").read_bytes() == before
    with pytest.raises(ValueError, match="another recipe .see training.*max_length"):
        cycle(tmp_path / "run", ranker, settings(cycles=1, training=Training(max_length=4))).run()


def test_directions_spread_the_candidates_both_ways(tmp_path, random_directions):
    student, tokenizer = load_model(student_path()), load_tokenizer(student_path())
    random_directions(student).save_pretrained(tmp_path / "directions")
    sampling = Sampling(
        samples=6, keep=4, max_new_tokens=8, directions=str(tmp_path / "directions"), strength=0.3
    )
    folder = cycle(tmp_path / "run", ByLength(), settings(cycles=1, sampling=sampling)).run().parent
    steerings = [{}, {"honesty": 0.3}, {"honesty": -0.3}, {"helpfulness": 0.3}, {"helpfulness": -0.3}]
    expected = sample_candidates(
        student,
        tokenizer,
        PROMPTS,
        samples=6,
        keep=4,
        sampling=Sampled(8, 1.0, 0.95),
        directions=DirectionVectors.from_pretrained(tmp_path / "directions"),
        steerings=steerings,
        show_progress=False,
    )
    rows = read_json_lines(folder / "candidates.jsonl")
    assert [row["responses"] for row in rows] == expected["responses"][:]


def test_the_cycle_ends_where_agreement_stops_rising():
    rows = [{"tau": tau} for tau in (0.1, 0.3, 0.3)]
    assert why_ended(rows[:1], 5, stop_early=True) is None
    assert why_ended(rows[:2], 5, stop_early=True) is None
    assert why_ended(rows, 5, stop_early=True) == ("Kendall's tau did not rise in cycle 3: 0.300 after 0.300")
    assert why_ended(rows, 5, stop_early=False) is None
    assert why_ended(rows, 3, stop_early=False) == "all 3 cycles are done"


def test_an_early_end_is_kept(tmp_path):
    """A black box that ranks as the student does, and in cycle 2 the other way round: cycle 3 never begins."""

    class Turning:
        calls = 0

        def rank(self, questions, answers, demonstrations=(), *, progress=None):
            self.calls += 1
            sign = 1 if self.calls == 1 else -1
            rows = rows_of(tmp_path / "run", self.calls, "candidates")
            return [Ranking(tuple(sign * value for value in row["mean_log_probs"])) for row in rows]

    run = cycle(tmp_path / "run", Turning(), settings(cycles=4, stop_early=True))
    assert run.run() == tmp_path / "run" / "cycle-2" / "model"
    assert [row["tau"] for row in run.history] == [1.0, -1.0]
    assert read_json(tmp_path / "run" / "history.json")["ended"] == (
        "Kendall's tau did not rise in cycle 2: -1.000 after 1.000"
    )
    assert run.run() == tmp_path / "run" / "cycle-2" / "model"
