"""Mind's Mirror: a student learns from a black box first to evaluate reasoning, then to reason.

What the black box says is kept in files and never asked for twice; the student of the second stage begins with that
of the first.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_icon2.distillation.claim import claim_folder
from hf_icon2.distillation.files import Row, RunFiles
from hf_icon2.distillation.mirror_figures import Examination, examination
from hf_icon2.distillation.mirror_recipe import COLLECTED, FREE, MirrorRecipe
from hf_icon2.distillation.mirror_rows import epochs_over_rows, reasoning_rows, verdict_rows, with_replay
from hf_icon2.distillation.mirror_training import Score, remove_checkpoints, train_stage
from hf_icon2.distillation.passes import load_student
from hf_icon2.distillation.reasoning.collection import Collection, collect_reasoning
from hf_icon2.distillation.reasoning.records import Question
from hf_icon2.distillation.reasoning.splitting import QuestionSplits, split_questions
from hf_icon2.distillation.spending import added, spent
from hf_icon2.judges.evaluation_wording import EvaluationWording, evaluation_prompt
from hf_icon2.loading import load_tokenizer
from hf_icon2.storage import locked

if TYPE_CHECKING:
    from hf_icon2.judges.chat.records import Chat

logger = logging.getLogger(__name__)

SELF_EVALUATION, REASONING = "self-evaluation", "reasoning"
"""The stages, and their folders."""


class MindsMirror:
    """Collects reasoning and trains on it in a folder; the same call goes on where an earlier one was interrupted.

    Args:
        student: Model id or path, of a causal LM or an encoder-decoder such as T5.
        questions: What the black box and the student answer; split before anything is asked.
        chat: Asks the black box, such as a `ChatClient` with a cache.
        output: Folder; `self-evaluation/` and `reasoning/` hold the stages, `history.json` all figures.
        recipe: The settings; student, questions and endpoint are those given here.
        wording: How the student is asked to judge reasoning; `self_evaluate` must be given the same.
        show_progress: Whether to show progress bars.
    """

    def __init__(
        self,
        student: str | os.PathLike[str],
        questions: Sequence[Question],
        chat: Chat,
        output: str | os.PathLike[str],
        recipe: MirrorRecipe | None = None,
        *,
        wording: EvaluationWording = evaluation_prompt,
        show_progress: bool = True,
    ) -> None:
        if not isinstance(student, (str, os.PathLike)):
            raise TypeError(
                f"student must be a model id or path, got {type(student).__name__}: every stage loads its own; save "
                "the model and its tokenizer with save_pretrained() and pass the folder"
            )
        self.student = os.fspath(student)
        self.recipe = recipe or MirrorRecipe()
        self.questions = list(questions)
        if not all(isinstance(one, Question) for one in self.questions):
            raise TypeError(
                "questions must be of the class Question; read rows with read_gsm8k or its like, or make them with "
                "Question(id, text, answer)"
            )
        self.splits: QuestionSplits = split_questions(
            self.questions, self.recipe.split.validation, self.recipe.split.test, self.recipe.seed
        )
        self.chat = chat
        self.output = Path(output)
        self.wording = wording
        self.show_progress = show_progress
        self._files = RunFiles(self.output)

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in their order."""
        return [SELF_EVALUATION, REASONING] if self.recipe.training.self_evaluation else [REASONING]

    def run(self) -> Path:
        """Does what is not done yet.

        Returns:
            Folder of the last student, with its tokenizer and card.

        Raises:
            OSError: If the black box stopped before all was answered. What is answered is kept.
            ValueError: If the folder belongs to another recipe or another process works in it, or nothing that the
                black box said can be learned from.
        """
        self.output.mkdir(parents=True, exist_ok=True)
        with locked(self.output):
            self._claim()
            self._collect()
            source, figures = self.student, [self._before()]
            for name in self.stages:
                figures.append(self._stage(name, source))
                source = str(self.output / name / "model")
            report = self._files.read("collection")
            self._files.write("history", {"collection": report, "before": figures[0], "stages": figures[1:]})
        return Path(source)

    def _claim(self) -> None:
        """Keeps other recipes and questions out of a folder in which a run has begun."""
        given, before = self._question_rows(), self._files.read("before")
        collected = self._files.read("collection") is not None
        claim_folder(
            self.output,
            self.recipe.to_dict(),
            begun=collected,
            free=COLLECTED if before is None else FREE,
        )
        if collected and self._files.rows("questions") != given:
            raise ValueError(f"{self.output} holds a run with other questions; give another output folder")
        if before is not None and before["student"] != self._student:
            raise ValueError(f"{self.output} holds a run with another student; give another output folder")
        self._files.write_rows("questions", given)

    @property
    def _student(self) -> str:
        """The student as it is called from any folder."""
        return os.path.realpath(self.student) if Path(self.student).is_dir() else self.student

    def _question_rows(self) -> list[Row]:
        """All questions, each with its side of the split."""
        sides = self.splits._asdict()
        rows = ({"split": side, **asdict(one)} for side, part in sides.items() for one in part)
        return [json.loads(json.dumps(row)) for row in rows]

    def _collect(self) -> None:
        """Asks the black box, unless it is done; the report is the last file, so that it makes it done."""
        if self._files.read("collection") is not None:
            return
        (
            load_student(self.student, encoder_decoder=True),
            load_tokenizer(self.student),
        )  # before it costs anything
        before = spent(self.chat)
        try:
            found = self._asked()
        finally:  # what was paid counts, whether or not it was enough
            usage = added(self._files.read("usage"), before, spent(self.chat))
            if usage is not None:
                self._files.write("usage", usage)
        self._files.write_rows("chains", found.chains.to_list())
        self._files.write_rows("evaluations", found.evaluations.to_list())
        self._files.write("collection", {**found.report, "usage": usage})

    def _asked(self) -> Collection:
        teacher = self.recipe.teacher
        return collect_reasoning(
            self.chat,
            [*self.splits.train, *self.splits.validation],
            chains=teacher.chains,
            evaluations=teacher.evaluations if self.recipe.training.self_evaluation else 0,
            temperature=teacher.temperature,
            max_tokens=teacher.reply_tokens,
            seed=self.recipe.seed if teacher.send_seed else None,
            progress=self.show_progress,
        )

    @cached_property
    def _said(self) -> tuple[list[Row], list[Row]]:
        """Chains and evaluations of the black box."""
        return self._files.rows("chains") or [], self._files.rows("evaluations") or []

    @cached_property
    def _validation(self) -> Examination:
        return self._examination(self.splits.validation, *self._said)

    @cached_property
    def _test(self) -> Examination:
        return self._examination(self.splits.test, (), ())

    def _examination(
        self, questions: Sequence[Question], chains: Sequence[Row], evaluations: Sequence[Row]
    ) -> Examination:
        shown = {"show_progress": self.show_progress}
        return examination(questions, chains, evaluations, self.recipe, self.wording, **shown)

    def _before(self) -> Row:
        """The student as it was given, in figures."""
        found = self._files.read("before")
        if found is None:
            found = {"student": self._student, **self._measured(self.student, test=True)}
            self._files.write("before", found)
        return found

    def _measured(self, source: str, *, test: bool) -> dict[str, Any]:
        """Figures on validation questions; on those of the test only before and after everything."""
        model, tokenizer = load_student(source, encoder_decoder=True), load_tokenizer(source)
        figures = {"validation": self._validation.figures(model, tokenizer)}
        if test and self._test.questions:
            figures["test"] = self._test.figures(model, tokenizer)
        return figures

    def _stage(self, name: str, source: str) -> Row:
        files = RunFiles(self.output / name)
        target = files.path / "model"
        figures = files.read("figures")
        if figures is None:
            logger.info("stage %s", name)
            settings, train = self.recipe.training, self._rows(name, self.splits.train)
            validation = self._rows(name, self.splits.validation)
            if name == REASONING and settings.self_evaluation:
                verdicts = self._rows(SELF_EVALUATION, self.splits.train)
                train = with_replay(train, verdicts, settings.replay, self.recipe.seed)
            files.write_rows("validation", validation)
            files.write_rows("train", train)
            passes = settings.epochs if name == REASONING else settings.evaluation_epochs
            trained = train_stage(
                source,
                target,
                train,
                validation,
                settings,
                epochs=epochs_over_rows(passes, train),
                score=self._score(name),
                seed=self.recipe.seed,
                name=f"{Path(self.student).name}-minds-mirror",
                show_progress=self.show_progress,
            )
            figures = {
                "stage": name,
                "rows": len(train),
                "replayed": sum(row["kind"] != train[0]["kind"] for row in train),
                "validation_rows": len(validation),
                **trained,
                **self._measured(str(target), test=name == REASONING),
            }
            files.write("figures", figures)
        remove_checkpoints(target)
        return figures

    def _rows(self, stage: str, questions: Sequence[Question]) -> list[Row]:
        """What a stage learns from questions."""
        chains, evaluations = self._said
        by_id = {one.id: one for one in questions}
        if stage == REASONING:
            rows = reasoning_rows(chains, by_id, self.recipe.training)
        else:
            rows = verdict_rows(evaluations, by_id.keys(), self.recipe.training.shows, self.wording)
        if not rows:
            raise ValueError(
                f"of {len(questions)} questions, nothing that the teacher said can be used in the stage {stage}; "
                f"{self.output / 'collection.json'} says why; ask more questions, or another teacher"
            )
        return rows

    def _score(self, stage: str) -> Score:
        """What the checkpoint of a stage is chosen by: what the stage is there for."""
        if stage == REASONING:
            return self._validation.accuracy
        return lambda model, tokenizer: self._validation.verdicts(model, tokenizer)["balanced_accuracy"]
