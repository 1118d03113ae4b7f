"""All the ways to steer, on the bundled model: one direction, many doors.

python examples/steer_and_generate.py
"""

from functools import partial

from hf_icon2 import Icon2LogitsProcessor, extract_directions, make_steerable, steer, steered_generate
from hf_icon2.criteria import GENERAL
from hf_icon2.prompts import render_prompt
from hf_icon2.toy import instructions, load_assistant

STRENGTH = 0.2  # in mean norms of the residual stream, so 0.2 is a fifth of what flows there anyway


def main() -> None:
    model, tokenizer = load_assistant()
    train = [instruction.text for instruction in instructions("train")]
    directions = extract_directions(model, tokenizer, train[:128], [GENERAL], show_progress=False)
    question = train[200]
    inputs = tokenizer(render_prompt(tokenizer, question), return_tensors="pt", add_special_tokens=False)
    good, bad = {"general": STRENGTH}, {"general": -STRENGTH}
    greedy = {"max_new_tokens": 40, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}

    def show(title: str, output: object) -> None:
        answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        print(f"{title:18} " + " | ".join(answer.strip() for answer in answers))

    print(f"{'question':18} {question}")
    show("plain", model.generate(**inputs, **greedy))

    # 1) without touching the model's class: a custom generate function
    show(
        "custom_generate",
        model.generate(
            **inputs, **greedy, custom_generate=steered_generate, directions=directions, steering=good
        ),
    )
    # 2) `steering` as an argument of generate
    model = make_steerable(model, directions)
    show("generate", model.generate(**inputs, **greedy, steering=good))
    # 3) another steering for every row of a batch; None leaves a row alone
    batch = {name: value.repeat(3, 1) for name, value in inputs.items()}
    show("per row (+, -, 0)", model.generate(**batch, **greedy, steering=[good, bad, None]))
    # 4) everything inside a `with` block, whatever library runs the model
    with steer(model, directions, bad, start=inputs["input_ids"].shape[1] - 1):
        show("with steer(...)", model.generate(**inputs, **greedy))
    # 5) the two signs as a contrast on the scores, like classifier-free guidance
    contrast = partial(Icon2LogitsProcessor, model, directions, guidance_scale=2.0)
    show("logits processor", model.generate(**inputs, **greedy, logits_processor=[contrast(good)]))


if __name__ == "__main__":
    main()
