"""Where the user would write, at the start of a conversation or after some turns, and what ends the user's turn.

Found by rendering a sentinel in the user's place and cutting there, so both fit any chat template.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from jinja2.exceptions import TemplateError

from hf_icon2.prompts.messages import Message
from hf_icon2.prompts.rendering import SENTINEL, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def pre_query_prefix(tokenizer: PreTrainedTokenizerBase, history: Sequence[Message] = ()) -> str:
    """The rendered conversation up to where the user's next text would start (Icon², section 3.2).

    Earlier turns stand there as the template renders them once a further user turn follows, which is what a
    model will be given: some templates then strip what an assistant turn ended with, such as its reasoning.

    Args:
        tokenizer: Its `chat_template` decides the layout.
        history: Turns before, ending with the assistant's; none by default.

    Raises:
        ValueError: If the tokenizer has no chat template, or its template rewrites the user's text, leaves earlier
            turns out, or takes no second user turn.
    """
    return _around_user_text(tokenizer, history)[0]


def end_of_user_turn(
    tokenizer: PreTrainedTokenizerBase, special: Collection[int], history: Sequence[Message] = ()
) -> tuple[list[int], str]:
    """What the template writes after the user's text: its first special token, or else its text.

    A model's generation config often names only the token that ends the assistant's turn.

    Args:
        tokenizer: Its `chat_template` decides the layout.
        special: Ids of the special tokens.
        history: Turns before; see `pre_query_prefix`.

    Returns:
        That token's id in a list and no text, or no id and the text.
    """
    closing = _around_user_text(tokenizer, history)[1]
    ids: list[int] = tokenizer(closing, add_special_tokens=False)["input_ids"]
    first = next((token for token in ids if token in special), None)
    return ([], closing.strip()) if first is None else ([first], "")


def _around_user_text(tokenizer: PreTrainedTokenizerBase, history: Sequence[Message]) -> tuple[str, str]:
    """What stands before and after the user's text, with the header of the answer."""
    if tokenizer.chat_template is None:
        raise ValueError(
            "this tokenizer has no chat template, so there is no pre-query template to sample instructions "
            "from; pass your own instructions, or set tokenizer.chat_template"
        )
    if history:
        _check_earlier_turns(tokenizer, history)
    text = render_prompt(tokenizer, [*history, {"role": "user", "content": SENTINEL}])
    if text.count(SENTINEL) != 1:
        raise ValueError(
            f"the chat template shows the user's text {text.count(SENTINEL)} times; a pre-query template "
            "needs exactly one"
        )
    before, _, after = text.partition(SENTINEL)
    return before, after


def _check_earlier_turns(tokenizer: PreTrainedTokenizerBase, history: Sequence[Message]) -> None:
    """Refuses a template that would not show a model the turns before the user's next one."""
    if history[-1].get("role") != "assistant":
        raise ValueError(
            f"the turns before a user's turn must end with the assistant's, got {history[-1].get('role')!r}"
        )
    marked = [{**turn, "content": f"{SENTINEL} {place} said"} for place, turn in enumerate(history)]
    advice = "conversations need a template that shows every turn; ask for single instructions (turns=1)"
    try:
        text = render_prompt(tokenizer, [*marked, {"role": "user", "content": "next"}])
    except TemplateError as error:
        raise ValueError(f"the chat template refuses a second user turn: {error}; {advice}") from error
    places = [text.find(turn["content"]) for turn in marked]
    if -1 in places or places != sorted(places):
        lost = ", ".join(
            f"{place + 1} ({history[place]['role']})" for place, at in enumerate(places) if at < 0
        )
        what = f"leaves out turn {lost}" if lost else "changes the order of the turns"
        raise ValueError(f"the chat template {what} of a conversation that goes on; {advice}")
