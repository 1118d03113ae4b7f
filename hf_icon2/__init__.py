"""Align a language model with its own representation space.

Every public name is imported from here. The namespace is lazy (PEP 562): a name's module, and with it torch
or trl, is loaded when the name is first used. To add a name, put it into `_HOME` and, for type checkers, into
the block below it; a test compares the two.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Battle": "evaluation.arena",
    "Budget": "judges.chat.budget",
    "ChatClient": "judges.chat.client",
    "ChatFailure": "judges.chat.records",
    "ChatLetterJudge": "judges.chat_letters",
    "ChatReply": "judges.chat.records",
    "ChatRequest": "judges.chat.records",
    "Criterion": "criteria",
    "CycleAlign": "distillation.cyclealign",
    "CycleAlignConfig": "trainers.cyclealign",
    "CycleAlignTrainer": "trainers.cyclealign",
    "CycleRecipe": "distillation.cycle_recipe",
    "DEFAULT_CRITERIA": "criteria",
    "Demonstration": "judges.verdicts",
    "DirectionVectorConfig": "directions.config",
    "DirectionVectors": "directions.vectors",
    "Icon2DPOConfig": "trainers.config",
    "Icon2DPOTrainer": "trainers.dpo",
    "Icon2GenerationMixin": "steering.generation",
    "Icon2LogitsProcessor": "steering.logits",
    "Icon2PreferenceBuilder": "synthesis.icon2_preferences",
    "Icon2PreferenceConfig": "synthesis.icon2_preferences",
    "LetterJudge": "judges.letters",
    "MindsMirror": "distillation.minds_mirror",
    "MindsMirrorConfig": "trainers.minds_mirror_config",
    "MindsMirrorTrainer": "trainers.minds_mirror",
    "MirrorRecipe": "distillation.mirror_recipe",
    "PADConfig": "trainers.pad",
    "PADTrainer": "trainers.pad",
    "PairwiseJudge": "judges.pairwise",
    "Prices": "judges.chat.budget",
    "Question": "distillation.reasoning.records",
    "Ranking": "judges.verdicts",
    "RankingJudge": "judges.ranking",
    "Recipe": "recipe",
    "Refinement": "synthesis.strategies.refined",
    "RewardJudge": "judges.reward_judge",
    "RewardModel": "judges.reward_models",
    "SelfEvaluation": "judges.self_evaluation",
    "SelfEvaluator": "judges.self_evaluation",
    "collect_reasoning": "distillation.reasoning.collection",
    "contamination": "evaluation.contamination",
    "decontaminate": "evaluation.contamination",
    "evaluation_prompt": "judges.evaluation_wording",
    "WinRateCallback": "trainers.win_rate_callback",
    "answer_questions": "distillation.answering",
    "arena_scores": "evaluation.arena",
    "export_gguf": "interchange.gguf_files",
    "export_lm_eval": "interchange.lm_eval_file",
    "export_peft": "interchange.peft_adapter",
    "extract_directions": "directions.extraction",
    "filter_instructions": "synthesis.consistency",
    "generate_pairs": "synthesis.pairs",
    "health_check": "synthesis.instructions",
    "import_gguf": "interchange.imported",
    "import_repeng": "interchange.imported",
    "length_controlled": "evaluation.length_control",
    "make_steerable": "steering.generation",
    "push_pairs_to_hub": "synthesis.publishing",
    "raw_win_rate": "evaluation.preferences",
    "read_anli": "distillation.reasoning.reading",
    "read_cqa": "distillation.reasoning.reading",
    "read_gsm8k": "distillation.reasoning.reading",
    "read_svamp": "distillation.reasoning.reading",
    "read_text": "distillation.reasoning.reading",
    "run_recipe": "pipeline.run",
    "same_answer": "distillation.reasoning.answers",
    "sample_candidates": "distillation.candidates",
    "save_pairs": "synthesis.publishing",
    "score_candidates": "distillation.teacher",
    "score_consistency": "synthesis.consistency",
    "self_evaluate": "judges.self_evaluation",
    "split_questions": "distillation.reasoning.splitting",
    "steer": "steering.hooks",
    "steered_generate": "steering.generation",
    "synthesize_conversations": "synthesis.conversations",
    "synthesize_instructions": "synthesis.instructions",
    "tune": "synthesis.tuning",
    "win_rate": "evaluation.win_rate",
}

if TYPE_CHECKING:
    from hf_icon2.criteria import DEFAULT_CRITERIA as DEFAULT_CRITERIA
    from hf_icon2.criteria import Criterion as Criterion
    from hf_icon2.directions.config import DirectionVectorConfig as DirectionVectorConfig
    from hf_icon2.directions.extraction import extract_directions as extract_directions
    from hf_icon2.directions.vectors import DirectionVectors as DirectionVectors
    from hf_icon2.distillation.answering import answer_questions as answer_questions
    from hf_icon2.distillation.candidates import sample_candidates as sample_candidates
    from hf_icon2.distillation.cycle_recipe import CycleRecipe as CycleRecipe
    from hf_icon2.distillation.cyclealign import CycleAlign as CycleAlign
    from hf_icon2.distillation.minds_mirror import MindsMirror as MindsMirror
    from hf_icon2.distillation.mirror_recipe import MirrorRecipe as MirrorRecipe
    from hf_icon2.distillation.reasoning.answers import same_answer as same_answer
    from hf_icon2.distillation.reasoning.collection import collect_reasoning as collect_reasoning
    from hf_icon2.distillation.reasoning.reading import read_anli as read_anli
    from hf_icon2.distillation.reasoning.reading import read_cqa as read_cqa
    from hf_icon2.distillation.reasoning.reading import read_gsm8k as read_gsm8k
    from hf_icon2.distillation.reasoning.reading import read_svamp as read_svamp
    from hf_icon2.distillation.reasoning.reading import read_text as read_text
    from hf_icon2.distillation.reasoning.records import Question as Question
    from hf_icon2.distillation.reasoning.splitting import split_questions as split_questions
    from hf_icon2.distillation.teacher import score_candidates as score_candidates
    from hf_icon2.evaluation.arena import Battle as Battle
    from hf_icon2.evaluation.arena import arena_scores as arena_scores
    from hf_icon2.evaluation.contamination import contamination as contamination
    from hf_icon2.evaluation.contamination import decontaminate as decontaminate
    from hf_icon2.evaluation.length_control import length_controlled as length_controlled
    from hf_icon2.evaluation.preferences import raw_win_rate as raw_win_rate
    from hf_icon2.evaluation.win_rate import win_rate as win_rate
    from hf_icon2.interchange.gguf_files import export_gguf as export_gguf
    from hf_icon2.interchange.imported import import_gguf as import_gguf
    from hf_icon2.interchange.imported import import_repeng as import_repeng
    from hf_icon2.interchange.lm_eval_file import export_lm_eval as export_lm_eval
    from hf_icon2.interchange.peft_adapter import export_peft as export_peft
    from hf_icon2.judges.chat.budget import Budget as Budget
    from hf_icon2.judges.chat.budget import Prices as Prices
    from hf_icon2.judges.chat.client import ChatClient as ChatClient
    from hf_icon2.judges.chat.records import ChatFailure as ChatFailure
    from hf_icon2.judges.chat.records import ChatReply as ChatReply
    from hf_icon2.judges.chat.records import ChatRequest as ChatRequest
    from hf_icon2.judges.chat_letters import ChatLetterJudge as ChatLetterJudge
    from hf_icon2.judges.evaluation_wording import evaluation_prompt as evaluation_prompt
    from hf_icon2.judges.letters import LetterJudge as LetterJudge
    from hf_icon2.judges.pairwise import PairwiseJudge as PairwiseJudge
    from hf_icon2.judges.ranking import RankingJudge as RankingJudge
    from hf_icon2.judges.reward_judge import RewardJudge as RewardJudge
    from hf_icon2.judges.reward_models import RewardModel as RewardModel
    from hf_icon2.judges.self_evaluation import SelfEvaluation as SelfEvaluation
    from hf_icon2.judges.self_evaluation import SelfEvaluator as SelfEvaluator
    from hf_icon2.judges.self_evaluation import self_evaluate as self_evaluate
    from hf_icon2.judges.verdicts import Demonstration as Demonstration
    from hf_icon2.judges.verdicts import Ranking as Ranking
    from hf_icon2.pipeline.run import run_recipe as run_recipe
    from hf_icon2.recipe import Recipe as Recipe
    from hf_icon2.steering.generation import Icon2GenerationMixin as Icon2GenerationMixin
    from hf_icon2.steering.generation import make_steerable as make_steerable
    from hf_icon2.steering.generation import steered_generate as steered_generate
    from hf_icon2.steering.hooks import steer as steer
    from hf_icon2.steering.logits import Icon2LogitsProcessor as Icon2LogitsProcessor
    from hf_icon2.synthesis.consistency import filter_instructions as filter_instructions
    from hf_icon2.synthesis.consistency import score_consistency as score_consistency
    from hf_icon2.synthesis.conversations import synthesize_conversations as synthesize_conversations
    from hf_icon2.synthesis.icon2_preferences import Icon2PreferenceBuilder as Icon2PreferenceBuilder
    from hf_icon2.synthesis.icon2_preferences import Icon2PreferenceConfig as Icon2PreferenceConfig
    from hf_icon2.synthesis.instructions import health_check as health_check
    from hf_icon2.synthesis.instructions import synthesize_instructions as synthesize_instructions
    from hf_icon2.synthesis.pairs import generate_pairs as generate_pairs
    from hf_icon2.synthesis.publishing import push_pairs_to_hub as push_pairs_to_hub
    from hf_icon2.synthesis.publishing import save_pairs as save_pairs
    from hf_icon2.synthesis.strategies.refined import Refinement as Refinement
    from hf_icon2.synthesis.tuning import tune as tune
    from hf_icon2.trainers.config import Icon2DPOConfig as Icon2DPOConfig
    from hf_icon2.trainers.cyclealign import CycleAlignConfig as CycleAlignConfig
    from hf_icon2.trainers.cyclealign import CycleAlignTrainer as CycleAlignTrainer
    from hf_icon2.trainers.dpo import Icon2DPOTrainer as Icon2DPOTrainer
    from hf_icon2.trainers.minds_mirror import MindsMirrorTrainer as MindsMirrorTrainer
    from hf_icon2.trainers.minds_mirror_config import MindsMirrorConfig as MindsMirrorConfig
    from hf_icon2.trainers.pad import PADConfig as PADConfig
    from hf_icon2.trainers.pad import PADTrainer as PADTrainer
    from hf_icon2.trainers.win_rate_callback import WinRateCallback as WinRateCallback

__all__ = sorted(["__version__", *_HOME])

_EXTRA_OF = {
    "trl": "train",
    "accelerate": "train",
    "peft": "peft",
    "matplotlib": "report",
    "gguf": "gguf",
    "rapidfuzz": "distill",
    "sklearn": "evaluate",
    "gradio": "playground",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}; public names: {', '.join(__all__)}"
        )
    try:
        module = import_module(f"{__name__}.{_HOME[name]}")
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library not in _EXTRA_OF:
            raise
        extra = _EXTRA_OF[library]
        raise ImportError(
            f"{__name__}.{name} needs {library}, which is missing; run: pip install 'hf_icon2[{extra}]'",
            name=library,
        ) from error
    value: object = getattr(module, name)
    globals()[name] = value  # the next access no longer comes here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
