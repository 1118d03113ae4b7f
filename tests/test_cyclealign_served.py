"""CycleAlign with other black boxes: the bundled assistant behind a real `transformers serve`, and a reward model."""

import pytest
import torch
from test_serving import needs_serving, serving
from transformers import LlamaConfig, LlamaForSequenceClassification

from hf_icon2 import ChatClient, CycleAlign, CycleRecipe
from hf_icon2.distillation.cycle_recipe import Sampling, Training
from hf_icon2.judges.pairwise import PairwiseJudge
from hf_icon2.judges.ranking import RankingJudge
from hf_icon2.judges.reward_models import RewardModel
from hf_icon2.storage import read_json, read_json_lines
from hf_icon2.toy import assistant_path, instructions, student_path
from hf_icon2.toy.skills import ab_prompt

PROMPTS = [item.text for item in instructions("train")[:32:4]]
RECIPE = CycleRecipe(
    cycles=1,
    sampling=Sampling(samples=5, keep=3, max_new_tokens=24, temperatures=(0.8, 1.2)),
    training=Training(learning_rate=1e-3, batch_size=4, loss_type="pro", pro_gaps="scores"),
)


def one_cycle(ranker, folder, **arguments):
    return CycleAlign(student_path(), PROMPTS, ranker, folder, RECIPE, show_progress=False, **arguments).run()


@pytest.mark.slow
@needs_serving
def test_the_assistant_behind_transformers_serve_compares_pairs_and_cannot_rank_lists(tmp_path):
    with serving(assistant_path(), tmp_path / "server") as address:
        chat = ChatClient(address, assistant_path(), cache=tmp_path / "cache.sqlite")
        lists = RankingJudge(chat, max_tokens=32)
        with pytest.raises(ValueError, match=r"0 of 8 instructions are ranked.*is not one ranking line"):
            one_cycle(lists, tmp_path / "run")
        dropped = read_json_lines(tmp_path / "run" / "cycle-1" / "dropped.jsonl")
        assert [row["id"] for row in dropped] == [str(index) for index in range(len(PROMPTS))]

        pairs = PairwiseJudge.from_chat(chat, ask=ab_prompt, max_tokens=8)
        student = one_cycle(pairs, tmp_path / "run", chat=chat)  # takes up the candidates
    figures = read_json(student.parent / "figures.json")
    assert figures["ranked"] >= 4
    compared = len(read_json_lines(student.parent / "candidates.jsonl"))
    assert figures["usage"]["requests"] == 2 * compared + 2 * 3 * compared  # the lists and the pairs
    assert figures["train_loss"] > 0


def test_a_reward_model_ranks_in_the_place_of_a_chat(tmp_path, tiny_tokenizer):
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    reward = RewardModel(LlamaForSequenceClassification(config).eval(), tiny_tokenizer)
    student = one_cycle(reward, tmp_path / "run")
    candidates = {row["id"]: row for row in read_json_lines(student.parent / "candidates.jsonl")}
    for row in read_json_lines(student.parent / "rankings.jsonl"):
        texts = [response[0]["content"] for response in candidates[row["id"]]["responses"]]
        assert row["scores"] == pytest.approx(reward([PROMPTS[int(row["id"])]] * 3, texts), abs=1e-5)
    assert read_json(student.parent / "figures.json")["usage"] is None
