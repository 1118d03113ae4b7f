"""CycleAlign: a student and a black box rank the student's responses, again and again, and each learns from the other.

The student learns the black box's order by training, the black box what both agree on by demonstrations in its prompt.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset
from tqdm.auto import tqdm

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.distillation.candidates import sample_candidates
from hf_icon2.distillation.claim import claim_folder
from hf_icon2.distillation.cycle_figures import Compared, compare, cycle_figures, why_ended
from hf_icon2.distillation.cycle_ranking import rank_candidates
from hf_icon2.distillation.cycle_recipe import FREE, CycleRecipe
from hf_icon2.distillation.cycle_state import CycleState, Row
from hf_icon2.distillation.demonstrations import DemonstrationPool
from hf_icon2.distillation.passes import load_student, pass_arguments, round_seed, train_student
from hf_icon2.judges.wording import question_text
from hf_icon2.likelihood import continuation_log_probs
from hf_icon2.loading import load_tokenizer
from hf_icon2.prompts import Instruction, as_messages, encode_exchange, refuse_one_text
from hf_icon2.steering.decoding import Sampling
from hf_icon2.storage import locked, read_json, write_atomic

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hf_icon2.judges.chat.client import ChatClient
    from hf_icon2.judges.ranking import Ranker
    from hf_icon2.judges.verdicts import Demonstration

logger = logging.getLogger(__name__)


class CycleAlign:
    """Runs the cycles in a folder; the same call goes on where an earlier one was interrupted.

    A cycle samples K responses per instruction from the student of the cycle before, has the black box and the
    student rank them, turns what both agree on into demonstrations for the next cycle, and trains on the black box's
    rankings. It ends after `recipe.cycles`, or after a cycle in which the mean Kendall's tau did not rise.

    Args:
        student: Model id or path.
        prompts: What the student answers.
        ranker: The black box, such as a `RankingJudge`; a `PairwiseJudge` or `RewardModel` ranks too, without
            heeding demonstrations. What it says of a question must not depend on the questions beside it.
        output: Folder; `cycle-k/` holds the cycles, `history.json` their figures.
        recipe: The settings; student, prompts, endpoint and demonstrations are those given here.
        demonstrations: Hand-written ones, always shown to the black box.
        directions: Spread the responses by steering; loaded from `recipe.sampling.directions` by default.
        chat: Client whose requests, tokens and cost the figures note; the ranker's `chat` by default.
        show_progress: Whether to show progress bars.
    """

    def __init__(
        self,
        student: str | os.PathLike[str],
        prompts: Sequence[Instruction],
        ranker: Ranker,
        output: str | os.PathLike[str],
        recipe: CycleRecipe | None = None,
        *,
        demonstrations: Sequence[Demonstration] = (),
        directions: DirectionVectors | None = None,
        chat: ChatClient | None = None,
        show_progress: bool = True,
    ) -> None:
        refuse_one_text(prompts)
        if not isinstance(student, (str, os.PathLike)):
            raise TypeError(
                f"student must be a model id or path, got {type(student).__name__}: every cycle loads its own; save "
                "the model and its tokenizer with save_pretrained() and pass the folder"
            )
        if not callable(getattr(ranker, "rank", None)):
            raise TypeError(
                f"ranker must have a method rank(questions, answers, demonstrations, *, progress), got "
                f"{type(ranker).__name__}; see hf_icon2.judges.ranking.Ranker"
            )
        self.student = os.fspath(student)
        self.prompts = list(prompts)
        for prompt in self.prompts:
            as_messages(prompt)  # raises now rather than after hours
        self.ranker = ranker
        self.output = Path(output)
        self.recipe = recipe or CycleRecipe()
        self.demonstrations = tuple(demonstrations)
        self.directions = directions
        self.chat: ChatClient | None = getattr(ranker, "chat", None) if chat is None else chat
        self.show_progress = show_progress

    @property
    def history(self) -> list[Row]:
        """The figures of the cycles that are done; see `cycle_figures`."""
        found = (self._state(number).figures for number in range(1, self.recipe.cycles + 1))
        return [figures for figures in found if figures is not None]

    def run(self) -> Path:
        """Runs the cycles that are not done yet.

        Returns:
            Folder of the last student, with its tokenizer and card.

        Raises:
            OSError: If the black box stopped before all instructions were ranked. What is ranked is kept.
            ValueError: If the folder belongs to another recipe or another process works in it, or fewer than a tenth
                of the instructions are ranked.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        with locked(self.output):
            self._claim()
            return self._cycles()

    def _cycles(self) -> Path:
        source, done = self.student, list[Row]()
        pool = DemonstrationPool(self.demonstrations, (), self.recipe.ranker.pool)
        ended = None
        while ended is None:
            state = self._state(len(done) + 1)
            done.append(state.figures or self._cycle(state, len(done) + 1, source, pool))
            source, pool = str(state.model), state.pool or pool
            ended = why_ended(done, self.recipe.cycles, stop_early=self.recipe.stop_early)
            history = {"cycles": done, "ended": ended}
            write_atomic(self.output / "history.json", json.dumps(history, indent=2) + "\n")
        logger.info("%s; the student is in %s", ended, source)
        return Path(source)

    def _state(self, number: int) -> CycleState:
        return CycleState(self.output / f"cycle-{number}")

    def _claim(self) -> None:
        """Keeps other settings, students, prompts and demonstrations out of a folder in which a run has begun."""
        first, record = self._state(1), self.output / "begun.json"
        candidates = first.candidates
        claim_folder(
            self.output,
            self.recipe.to_dict(),
            begun=candidates is not None,
            free=(
                *FREE,
                *([] if first.rankings is not None else ["ranker"]),
                *([] if first.figures is not None else ["training"]),
            ),
        )
        if not all(map(self._is_ours, candidates or ())):
            raise ValueError(f"{self.output} holds responses to other prompts; give another output folder")
        ours = {
            "student": os.path.realpath(self.student) if Path(self.student).is_dir() else self.student,
            "demonstrations": [[one.question, *one.answers] for one in self.demonstrations],
        }
        kept = read_json(record) if candidates is not None and record.is_file() else ours
        for name in ours if first.rankings is not None else ["student"]:
            if kept[name] != ours[name]:
                other = "another student" if name == "student" else "other demonstrations"
                raise ValueError(f"{self.output} holds a run with {other}; give another output folder")
        write_atomic(record, json.dumps(ours, indent=2, ensure_ascii=False) + "\n")

    def _is_ours(self, candidate: Row) -> bool:
        index = int(candidate["id"])
        return index < len(self.prompts) and as_messages(candidate["prompt"]) == as_messages(
            self.prompts[index]
        )

    def _cycle(self, state: CycleState, number: int, source: str, pool: DemonstrationPool) -> Row:
        logger.info("cycle %d of at most %d", number, self.recipe.cycles)
        tokenizer = load_tokenizer(source)
        candidates = state.candidates
        if candidates is None:
            candidates = self._candidates(source, tokenizer, number)
            state.write_rows("candidates", candidates)
        rankings = self._rankings(state, candidates, pool, number)
        compared = compare(candidates, rankings)
        after = self._pool_after(state, pool, compared)
        figures = {
            "cycle": number,
            **cycle_figures(compared, rankings),
            "demonstrations": _sizes(pool, after),
            "train_loss": self._train(state, source, tokenizer, compared),
            "usage": state.usage,
        }
        state.write("figures", figures)
        logger.info(
            "cycle %d: Kendall's tau %.3f, %.0f %% agreed, %d of %d instructions ranked",
            number,
            figures["tau"],
            100 * figures["agreed"],
            figures["ranked"],
            figures["instructions"],
        )
        return figures

    def _candidates(self, source: str, tokenizer: PreTrainedTokenizerBase, number: int) -> list[Row]:
        """K different responses per instruction and what the student makes of them."""
        settings, student = self.recipe.sampling, load_student(source)
        directions = self._directions()
        drawn = sample_candidates(
            student,
            tokenizer,
            self.prompts,
            samples=settings.samples,
            keep=settings.keep,
            sampling=Sampling(settings.max_new_tokens, top_p=settings.top_p),
            temperatures=settings.temperatures,
            directions=directions,
            steerings=[{}] if directions is None else both_ways(directions.names, settings.strength),
            seed=round_seed(self.recipe.seed, number),
            batch_size=settings.batch_size,
            show_progress=self.show_progress,
        )
        rows = []
        for row in tqdm(drawn, desc="student's ranking", disable=not self.show_progress):
            prompt, responses = encode_exchange(tokenizer, row["prompt"], row["responses"])
            values = continuation_log_probs(student, prompt, responses)
            white_box = {
                "mean_log_probs": [float(value.mean()) for value in values],
                "tokens": [len(value) for value in values],
            }
            rows.append({**row, **white_box})
        return rows

    def _directions(self) -> DirectionVectors | None:
        source = self.recipe.sampling.directions
        if self.directions is None and source is not None:
            self.directions = DirectionVectors.from_pretrained(source)
        return self.directions

    def _rankings(
        self, state: CycleState, candidates: Sequence[Row], pool: DemonstrationPool, number: int
    ) -> list[Row]:
        return rank_candidates(
            self.ranker,
            self.chat,
            state,
            list(map(question_text, self.prompts)),
            candidates,
            pool.shown,
            missing=f"fewer than {self.recipe.sampling.keep} different responses",
            progress=f"cycle {number}: rankings" if self.show_progress else None,
        )

    def _pool_after(
        self, state: CycleState, pool: DemonstrationPool, compared: Sequence[Compared]
    ) -> DemonstrationPool:
        kept = state.pool
        if kept is not None:
            return kept
        if self.recipe.update_demonstrations:
            pool = pool.updated(one.agreed() for one in compared if one.is_agreed)
        state.write("demonstrations", pool.to_dict())
        return pool

    def _train(
        self,
        state: CycleState,
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        compared: Sequence[Compared],
    ) -> float:
        """One pass over the black box's rankings; the mean loss."""
        from hf_icon2.trainers.cyclealign import CycleAlignConfig, CycleAlignTrainer

        settings = self.recipe.training
        config = CycleAlignConfig(
            loss_type=settings.loss_type,
            pro_gaps=settings.pro_gaps,
            student_temperature=settings.student_temperature,
            sft_weight=settings.sft_weight,
            **pass_arguments(settings, state.model, self.recipe.seed, self.show_progress),
        )
        rows = Dataset.from_list([{**one.candidate, "scores": list(one.scores)} for one in compared])
        name = f"{Path(self.student).name}-cyclealign"
        return train_student(CycleAlignTrainer, source, tokenizer, rows, config, settings, name)


def both_ways(names: Sequence[str], strength: float) -> list[dict[str, float]]:
    """Steerings that spread responses: none, then each criterion both ways."""
    return [{}, *({name: sign * strength} for name in names for sign in (1, -1))]


def _sizes(before: DemonstrationPool, after: DemonstrationPool) -> dict[str, int]:
    """How many demonstrations the cycle's black box saw, and how many are new for the next."""
    new = len({*after.dynamic} - {*before.dynamic})
    return {"static": len(before.static), "dynamic": len(before.dynamic), "new": new}
