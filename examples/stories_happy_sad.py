"""Happy or sad: one direction turns the stories of a tiny base model, by an amount one can count.

    python examples/stories_happy_sad.py path/to/stories260k

The model is Karpathy's 260K-parameter Llama trained on TinyStories (karpathy/tinyllamas), in Hugging Face layout.
It has no chat template, so the two sides of the criterion are plain text around the opening of a story.
"""

import argparse
import re
from itertools import product

from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_icon2 import Criterion, extract_directions
from hf_icon2.prompts import encode_prompt, pad_token_id
from hf_icon2.steering.decoding import Sampling, generate_variants
from hf_icon2.steering.noise import row_seed

NAMES = ("girl named Lily", "boy named Tom", "girl named Sue", "boy named Ben", "girl named Anna")
PLACES = ("park", "garden", "house", "beach", "farm", "forest", "shop", "lake")
STRENGTHS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # in norms of the mean contrast
HAPPY = re.compile(r"\b(happy|happily|smil\w+|laugh\w*|fun|joy\w*|glad|excited|proud|lov(e|ed|es|ing))\b")
SAD = re.compile(r"\b(sad\w*|cr(y|ied|ying)|tears?|upset|angry|mad|scared|afraid|hurt|sorry|lonely)\b")

FEELING = Criterion(
    "happiness",
    positive="{instruction} Everyone was very happy and smiled.",
    negative="{instruction} Everyone was very sad and cried.",
)


def openings() -> list[str]:
    """Forty beginnings, each of which leaves the feeling open."""
    start = "Once upon a time, there was a little {}. One day, {} went to the {}."
    return [start.format(who, who.split()[-1], place) for who, place in product(NAMES, PLACES)]


def happy_share(stories: list[str]) -> tuple[float, int]:
    """Happy words among happy and sad words, and how many of them there were."""
    text = "\n".join(stories).lower()
    happy, sad = len(HAPPY.findall(text)), len(SAD.findall(text))
    return happy / max(happy + sad, 1), happy + sad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of the stories model")
    parser.add_argument("--continuations", type=int, default=1000, help="per strength")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)

    how = {"method": "mean_difference", "scale": "contrast", "show_progress": False}
    directions = extract_directions(model, tokenizer, openings(), [FEELING], **how)
    directions = directions.with_control_layers({"happiness": (1, 2, 3)})

    stories = list(product(range(args.continuations), openings()))[: args.continuations]
    prompts = [encode_prompt(tokenizer, text) for _, text in stories]
    seeds = [row_seed(args.seed, f"{text}/{copy}") for copy, text in stories]
    answers = generate_variants(
        model,
        prompts,
        [[{"happiness": strength}] * len(prompts) for strength in STRENGTHS],
        sampling=Sampling(max_new_tokens=80, temperature=0.8),
        seeds=[seeds] * len(STRENGTHS),  # the same noise at every strength: only the steering differs
        pad=pad_token_id(tokenizer),
        directions=directions,
        batch_size=100,
    )
    print("strength  happy share  words  example")
    for strength, row in zip(STRENGTHS, answers, strict=True):
        texts = [tokenizer.decode(answer.ids, skip_special_tokens=True) for answer in row]
        share, number = happy_share(texts)
        print(f"{strength:+8.1f}  {share:11.3f}  {number:5d}  {texts[0][:60]!r}")


if __name__ == "__main__":
    main()
