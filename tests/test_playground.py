"""The playground without its page: answers, colours, readings, sliders and snippets."""

import contextlib
import copy
import io
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch

from hf_icon2 import DirectionVectors, score_consistency
from hf_icon2.cli import main
from hf_icon2.directions.config import StrengthRange
from hf_icon2.directions.extraction import last_token_states
from hf_icon2.playground.answers import MAX_CHARACTERS, Request, stream_answers
from hf_icon2.playground.consistency import ConsistencyMeter
from hf_icon2.playground.events import Events
from hf_icon2.playground.markup import (
    Card,
    answers_html,
    card_markdown,
    colour,
    colour_limit,
    consistency_html,
    pieces,
    steering_text,
    tokens_html,
)
from hf_icon2.playground.projections import token_projections
from hf_icon2.playground.sampling import SharedNoise
from hf_icon2.playground.sliders import Slider, slider, strength_note
from hf_icon2.playground.subject import open_model
from hf_icon2.prompts import decode_answer, encode_prompt, template_fingerprint
from hf_icon2.steering.decoding import Sampling, generate_variants

STEERING = {"honesty": 1.0, "helpfulness": -0.5}


@pytest.fixture(scope="module")
def directions_dir(tiny_llama, tiny_tokenizer, random_directions, tmp_path_factory):
    """Random directions that say they were measured under the tiny tokenizer's template."""
    made = random_directions(tiny_llama)
    config = replace(made.config, chat_template_sha256=template_fingerprint(tiny_tokenizer))
    return DirectionVectors(config, made.tensor).save_pretrained(tmp_path_factory.mktemp("directions"))


@pytest.fixture(scope="module")
def subject(tiny_llama_dir, directions_dir):
    return open_model(str(tiny_llama_dir), str(directions_dir))


@pytest.fixture(scope="module")
def events(subject):
    return Events(subject)


def last(updates):
    """Every part's newest value."""
    shown = {}
    for update in updates:
        shown.update(update)
    return shown


# answers


def test_the_three_answers_are_those_of_a_hook_made_by_hand(subject, tiny_llama, by_hand):
    prompt = encode_prompt(subject.tokenizer, "What is the colour of the sky?")
    *_, answers = stream_answers(subject.model, prompt, Request("x", STEERING, max_new_tokens=12), pad=0)
    negated = {name: -value for name, value in STEERING.items()}
    assert [list(answer.ids) for answer in answers] == [
        by_hand(tiny_llama, subject.directions, prompt, steering, new=12)
        for steering in (negated, None, STEERING)
    ]
    assert len({answer.ids for answer in answers}) == 3


def test_answers_grow_step_by_step(subject):
    prompt = encode_prompt(subject.tokenizer, "Tell me how to bake bread.")
    steps = list(stream_answers(subject.model, prompt, Request("x", STEERING, max_new_tokens=40), pad=0))
    assert len(steps) > 1
    for before, after in zip(steps, steps[1:], strict=False):
        for short, long in zip(before, after, strict=True):
            assert long.ids[: len(short.ids)] == short.ids


def test_sampled_answers_are_those_of_the_decoding_engine_and_of_a_row_alone(subject):
    prompt = encode_prompt(subject.tokenizer, "What is the colour of the sky?")
    request = Request("x", STEERING, max_new_tokens=20, temperature=0.8, seed=7)
    *_, answers = stream_answers(subject.model, prompt, request, pad=0)
    engine = generate_variants(
        subject.model,
        [prompt],
        [[steering] for steering in request.steerings],
        sampling=Sampling(max_new_tokens=20, temperature=0.8),
        seeds=[[7]] * 3,
        pad=0,
        directions=subject.directions,
    )
    assert [list(answer.ids) for answer in answers] == [row[0].ids for row in engine]
    alone = subject.model.generate(
        torch.tensor([prompt]),
        max_new_tokens=20,
        do_sample=False,
        logits_processor=[SharedNoise(7, 0.8)],
        steering=STEERING,
    )[0, len(prompt) :].tolist()
    assert alone[: len(answers[2].ids)] == list(answers[2].ids)


def test_closing_the_stream_ends_its_thread(subject):
    prompt = encode_prompt(subject.tokenizer, "Tell me how to bake bread.")
    before = set(threading.enumerate())
    stream = stream_answers(subject.model, prompt, Request("x", STEERING, max_new_tokens=450), pad=0)
    next(stream)
    (worker,) = set(threading.enumerate()) - before
    stream.close()
    worker.join(timeout=30)  # 450 tokens would go on; one step is left at most
    assert not worker.is_alive()


def test_an_error_of_the_model_reaches_the_reader_of_the_stream(subject):
    with pytest.raises(ValueError, match="unknown criterion 'wit'"):
        list(stream_answers(subject.model, [1, 5], Request("x", {"wit": 0.1}), pad=0))


def test_visitors_at_once_get_what_each_would_get_alone(subject):
    prompt = encode_prompt(subject.tokenizer, "What is the colour of the sky?")
    requests = [
        Request("x", {"honesty": 0.1 * number}, max_new_tokens=15, temperature=1.0, seed=number)
        for number in range(4)
    ]

    def answer(request):
        *_, answers = stream_answers(subject.model, prompt, request, pad=0)
        return answers

    alone, together = [answer(request) for request in requests], [None] * len(requests)

    def visit(number):
        together[number] = answer(requests[number])

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": ""}, "Type an instruction first"),
        ({"prompt": " \n"}, "Type an instruction first"),
        ({"prompt": "a" * (MAX_CHARACTERS + 1)}, "has 4,001 characters; at most 4,000 are allowed"),
        ({"max_new_tokens": 10**6}, "The longest answer must be a whole number from 1 to 512, got 1000000"),
        ({"max_new_tokens": 1.5}, "The longest answer must be a whole number from 1 to 512, got 1.5"),
        ({"temperature": float("nan")}, "The temperature must be a number from 0 to 2.0, got nan"),
        ({"temperature": None}, "The temperature must be a number from 0 to 2.0, got None"),
        ({"seed": -1}, "The seed must be a whole number from 0 to 2,147,483,647, got -1"),
        ({"steering": {"honesty": float("inf")}}, "The strength of honesty must be a number"),
    ],
)
def test_a_request_that_is_not_allowed_is_refused_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(Request("hello", {}), **change)


def test_shared_noise_refuses_a_temperature_of_zero():
    with pytest.raises(ValueError, match="leave the noise out for greedy"):
        SharedNoise(1, 0.0)


# colours


def test_tokens_join_to_the_text_and_half_characters_have_none(tiny_tokenizer):
    ids = tiny_tokenizer("héllo 😀!", add_special_tokens=False)["input_ids"]

    def decode(some):
        return tiny_tokenizer.decode(some)

    texts = pieces(decode, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == "héllo 😀!"
    assert texts.count("") == 4  # é is two bytes, the face four: 1 + 3 tokens that end in the midst
    assert pieces(decode, ids[:-2])[-1] == "\ufffd"  # at the end, what is there is shown


def test_colour_is_clear_at_zero_and_full_from_the_limit_on():
    assert colour(0.0, 0.2) == "rgba(124, 92, 200, 0.000)"
    assert colour(0.1, 0.2) == "rgba(230, 97, 1, 0.300)"  # half of 0.6
    assert colour(-0.2, 0.2) == colour(-5.0, 0.2) == "rgba(124, 92, 200, 0.600)"
    assert colour(0.3, 0.0).endswith("0.000)")


def test_one_outlier_does_not_set_the_limit():
    assert colour_limit([[0.1] * 99, [-9.0]]) == 0.1
    assert colour_limit([]) == 0.0


def test_model_output_and_names_are_escaped():
    nasty = ["<script>", "alert('x')", "&", '"', "${1}"]
    html = answers_html([Card("<b>", nasty, [0.0] * 5)] * 3, 1.0) + tokens_html(nasty, None, 0.0)
    html += consistency_html({"<i>": 1.0}, "<u>", 1.0)
    for tag in ("<script", "<b>", "<i>", "<u>"):
        assert tag not in html
    assert "&lt;script&gt;" in html and "&lt;u&gt;" in html


def test_a_card_written_by_strangers_loads_nothing():
    card = "---\nlicense: mit\n---\n# T\n![x](http://a/b.png) <img src=http://a/b.png>"
    assert card_markdown(card) == "# T\n!&#91;x](http://a/b.png) &lt;img src=http://a/b.png>"


def test_each_token_carries_its_number_and_the_card_their_mean():
    html = answers_html([Card("t", ["yes", " no"], [0.25, -0.05], "2 tokens")] * 3, 0.25)
    assert 'title="+0.250">yes<' in html and 'title="−0.050"> no<' in html
    assert "2 tokens · mean projection +0.100" in html


def test_a_steering_is_told_in_words():
    assert steering_text({"honesty": 0.1, "wit": 0.0, "care": -0.25}) == "honesty +0.1, care −0.25"
    assert steering_text({"honesty": 0.0}) == "not steered"


def test_projections_are_those_of_the_hidden_states_of_an_unpatched_copy(subject, tiny_llama):
    rows = [[1, 7, 9, 30, 31], [1, 7, 9], [1, 40, 41, 42]]  # of different lengths: padding must not show
    layer, directions = 2, subject.directions
    found = token_projections(subject.blocks, directions, rows, criterion="helpfulness", layer=layer, pad=0)
    unit = directions.tensor[1, layer] / directions.tensor[1, layer].norm()
    for row, values in zip(rows, found, strict=True):
        with torch.no_grad():
            states = tiny_llama(torch.tensor([row]), output_hidden_states=True).hidden_states[layer + 1][0]
        expected = states @ unit / directions.config.residual_norms[layer]
        torch.testing.assert_close(torch.tensor(values), expected, rtol=1e-4, atol=1e-5)


# readings and sliders


def test_without_a_reference_set_consistency_is_the_cosine(subject):
    found = ConsistencyMeter(subject)("What is the colour of the sky?")
    expected = score_consistency(
        subject.model, subject.tokenizer, subject.directions, ["What is the colour of the sky?"]
    )["consistency"][0]
    assert found.reference == 0
    assert found.scores == pytest.approx(expected)
    assert max(expected, key=expected.get) in found.meaning


def test_with_a_reference_set_consistency_is_in_its_standard_deviations(subject):
    texts = ("What is the sky?", "Tell me how to bake bread.", "You are helpful.", "First mix the flour.")
    found = ConsistencyMeter(replace(subject, instructions=texts))("The colour of the sky is blue.")
    states = last_token_states(
        subject.model,
        subject.tokenizer,
        [*texts, "The colour of the sky is blue."],
        layers=list(subject.directions.config.layers),
    )  # (N, L, D)
    dots = torch.einsum("nld,cld->nc", states, subject.directions.unit()) / states.shape[1]
    expected = (dots[-1] - dots[:-1].mean(0)) / dots[:-1].std(0, correction=0)
    assert found.reference == 4
    assert list(found.scores.values()) == pytest.approx(expected.tolist(), rel=1e-3)


def test_a_slider_ends_at_the_safe_maximum_and_marks_the_recommendation(subject):
    directions = subject.directions.with_strengths({"honesty": StrengthRange(0.2, -0.1, 0.2677)})
    # steps of 0.1 / 20 = 0.005; the largest multiple below 0.2677 is 0.265
    assert slider(directions, "honesty") == Slider(0.265, 0.005, 0.2, "recommended 0.2")


@pytest.mark.parametrize(("scale", "limit"), [("residual", 0.5), ("contrast", 4.0), ("unit", 4.0)])
def test_without_a_maximum_a_slider_ends_at_half_a_residual_norm(subject, scale, limit):
    # the tiny model's residual norm is said to be 8, its contrasts' 1: half of it is 4 contrasts or units
    one = slider(subject.directions.rescaled(scale), "honesty")
    assert (one.limit, one.recommended) == (limit, limit / 2)
    assert one.info.endswith("not calibrated")


def test_norms_that_imported_directions_lack_are_measured(
    tiny_llama_dir, tiny_llama, directions_dir, tmp_path
):
    made = DirectionVectors.from_pretrained(directions_dir)
    config = replace(made.config, residual_norms=(), imported={"from": "elsewhere"})
    replace(made, config=config).save_pretrained(tmp_path)
    subject = open_model(str(tiny_llama_dir), str(tmp_path))
    norms = []
    for text in subject.examples:
        ids = torch.tensor([encode_prompt(subject.tokenizer, text)])
        with torch.no_grad():
            norms.append(tiny_llama(ids, output_hidden_states=True).hidden_states[2][0, -1].norm().item())
    assert subject.directions.config.residual_norms[1] == pytest.approx(sum(norms) / 3, rel=1e-4)


def test_strengths_that_are_safe_alone_are_doubted_together(subject):
    half = {name: StrengthRange(maximum=0.2) for name in subject.directions.names}
    config = subject.directions.with_strengths(half).config
    assert strength_note(config, {"honesty": 0.2, "helpfulness": 0.0}) == ""
    assert strength_note(config, {"honesty": 0.1, "helpfulness": -0.1}) == ""
    assert "text may break" in strength_note(config, {"honesty": 0.15, "helpfulness": -0.1})


# events


@pytest.mark.parametrize("temperature", [0, 0.9])
def test_the_snippet_runs_as_it_is_and_prints_the_plus_answer(events, subject, temperature):
    sampling = {"max_new_tokens": 16, "temperature": temperature, "seed": 3}
    shown = last(events.generate("Say \"hi\"\n'there' \\", STEERING, sampling, ("honesty", 1)))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(shown["snippet"], "snippet", "exec"), {})  # what a reader copies
    plus = decode_answer(subject.tokenizer, shown["shown"].answers[2].ids)
    assert printed.getvalue() == plus + "\n"
    assert ("SharedNoise" in shown["snippet"]) == bool(temperature)


def test_the_snippet_of_a_model_without_a_chat_template_runs_too(
    tiny_llama, tiny_tokenizer, tmp_path, random_directions
):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    tiny_llama.save_pretrained(tmp_path)
    made = random_directions(tiny_llama)
    config = replace(made.config, chat_template_sha256=template_fingerprint(tokenizer))
    DirectionVectors(config, made.tensor).save_pretrained(tmp_path)  # beside the model's files
    subject = open_model(str(tmp_path))
    sampling = {"max_new_tokens": 8, "temperature": 0, "seed": 0}
    shown = last(Events(subject).generate("The sky is", STEERING, sampling, ("honesty", 1)))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(shown["snippet"], "snippet", "exec"), {})
    assert printed.getvalue() == decode_answer(tokenizer, shown["shown"].answers[2].ids) + "\n"


def test_generating_fills_every_part_of_the_page(events):
    sampling = {"max_new_tokens": 6, "temperature": 0, "seed": 0}
    updates = list(events.generate("What is the sky?", STEERING, sampling, ("honesty", 1)))
    shown = last(updates)
    assert "Done in" in shown["status"] and 'role="status"' in shown["status"]
    growing = [update["answers"] for update in updates[:-1] if "answers" in update]
    assert 'class="token"' in shown["answers"] and not any('class="token"' in html for html in growing)
    assert "away from honesty" in shown["legend"] and "&lt;bos&gt;" in shown["legend"]
    assert "helpfulness" in shown["consistency"]


def test_recolouring_changes_numbers_and_not_the_text(events):
    sampling = {"max_new_tokens": 6, "temperature": 0, "seed": 0}
    shown = last(events.generate("What is the sky?", STEERING, sampling, ("honesty", 1)))
    other = events.recolour(shown["shown"], ("helpfulness", 3))
    assert other["answers"] != shown["answers"] and "at layer 3" in other["legend"]
    assert events.recolour(shown["shown"], ("honesty", 1))["answers"] == shown["answers"]


def test_recolouring_before_anything_is_shown_changes_nothing(events):
    assert events.recolour(None, ("honesty", 1)) == {}
    assert list(events.stop(None, ("honesty", 1))) == ["status"]


def test_what_cannot_be_done_is_said_in_the_status(events):
    sampling = {"max_new_tokens": 6, "temperature": 0, "seed": 0}
    for prompt, strengths, sentence in (
        ("", STEERING, "Type an instruction first"),
        ("a " * 900, STEERING, "tokens long with its template, and this model reads at most 512; shorten it"),
        ("hello", {"honesty": None}, "A strength must be a number, got None"),
    ):
        (update,) = events.generate(prompt, strengths, sampling, ("honesty", 1))
        assert sentence in update["status"] and 'role="alert"' in update["status"]


def test_an_answer_ends_where_the_context_does(events):
    length = len(encode_prompt(events.subject.tokenizer, "a " * 240))
    sampling = {"max_new_tokens": 400, "temperature": 1.0, "seed": 0}
    shown = last(events.generate("a " * 240, {"honesty": 0.0}, sampling, ("honesty", 1)))
    assert shown["shown"].request.max_new_tokens == 512 - length
    assert f"max_new_tokens={512 - length}" in shown["snippet"]
    assert "All strengths are 0" in shown["status"]


def test_a_stopped_answer_is_coloured_as_far_as_it_came(events):
    sampling = {"max_new_tokens": 400, "temperature": 1.0, "seed": 0}
    stream = events.generate("Tell me how to bake bread.", STEERING, sampling, ("honesty", 1))
    shown = next(
        update["shown"] for update in stream if update.get("shown") and update["shown"].answers[2].ids
    )
    stream.close()
    update = events.stop(shown, ("honesty", 1))
    assert "Stopped." in update["status"] and 'class="token"' in update["answers"]


# models and the command


def test_directions_are_measured_on_given_instructions_and_so_does_the_snippet(tiny_llama_dir, tmp_path):
    path = tmp_path / "own.jsonl"
    texts = [f"What is the colour of number {number}?" for number in range(8)]
    path.write_text("".join(f'{{"instruction": "{text}"}}\n' for text in texts))
    code = (
        "from hf_icon2.pipeline.subject import read_instructions",
        f"read_instructions({str(path)!r}, 'instruction')",
    )
    subject = open_model(str(tiny_llama_dir), instructions=texts, code=code)
    assert all(subject.directions.config.strengths[name].maximum for name in subject.directions.names)
    assert subject.examples == tuple(texts[:3])
    names = {}
    exec("\n".join((*subject.loading.imports, subject.loading.lines)), names)
    assert names["directions"].sha256 == subject.directions.sha256


def test_a_model_without_directions_says_how_to_give_them(tiny_llama_dir):
    with pytest.raises(FileNotFoundError, match="no directions beside its files; give --directions"):
        open_model(str(tiny_llama_dir))


def test_directions_of_another_model_are_refused(
    tiny_llama_dir, tiny_model, tiny_tokenizer, random_directions, tmp_path
):
    random_directions(tiny_model("llama", num_hidden_layers=3)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="number of layers 3, this model has 4"):
        open_model(str(tiny_llama_dir), str(tmp_path))


def test_without_gradio_the_command_gives_the_install_line():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "from hf_icon2.cli import main; sys.exit(main(['playground']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "pip install 'hf_icon2[playground]'" in result.stderr and "Traceback" not in result.stderr


def test_instructions_for_the_bundled_assistant_are_refused_not_ignored(capsys):
    assert main(["playground", "--instructions", "mine.jsonl"]) == 1
    assert "the bundled assistant has instructions of its own" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["0", "70000", "web"])
def test_a_port_that_cannot_be_is_refused_before_anything_is_loaded(port, capsys):
    with pytest.raises(SystemExit):
        main(["playground", "--port", port])
    assert f"expected a port from 1 to 65535, got '{port}'" in capsys.readouterr().err
