"""How a question reaches a model: rendering with the tokenizer's own chat template, and batches of token ids.

Everything that turns text into ids goes through here, so that extraction, consistency, pairs and training
cannot disagree on the template. What the text says is left to others.
"""

from hf_icon2.prompts.encoding import (
    decode_answer,
    encode_exchange,
    encode_prompt,
    encode_source,
    encode_target,
    task_prompt,
)
from hf_icon2.prompts.messages import (
    Instruction,
    Message,
    answer_text,
    as_messages,
    refuse_one_text,
    user_texts,
)
from hf_icon2.prompts.padding import pad_batch, pad_token_id
from hf_icon2.prompts.pre_query import end_of_user_turn, pre_query_prefix
from hf_icon2.prompts.rendering import (
    default_system_prompt,
    has_system_role,
    render_prompt,
    template_fingerprint,
)

__all__ = [
    "Instruction",
    "Message",
    "answer_text",
    "as_messages",
    "decode_answer",
    "default_system_prompt",
    "encode_exchange",
    "encode_prompt",
    "encode_source",
    "encode_target",
    "end_of_user_turn",
    "has_system_role",
    "pad_batch",
    "pad_token_id",
    "pre_query_prefix",
    "refuse_one_text",
    "render_prompt",
    "task_prompt",
    "template_fingerprint",
    "user_texts",
]
