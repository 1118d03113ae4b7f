"""`hf-icon2 distill --method minds-mirror`: from a recipe to its objects."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_icon2.commands.endpoints import CACHE, chat_client, served
from hf_icon2.distillation.mirror_recipe import MirrorRecipe
from hf_icon2.recipe import TOY

if TYPE_CHECKING:
    from hf_icon2.distillation.mirror_figures import Examination
    from hf_icon2.distillation.reasoning.records import Question
    from hf_icon2.judges.evaluation_wording import EvaluationWording
    from hf_icon2.toy.skills import Sum

RECIPE, TOY_RECIPE = MirrorRecipe, "minds-mirror.yaml"

SUMS, HELD_OUT_SUMS = 400, 200


def distil(recipe: MirrorRecipe, output: Path) -> Path:
    """Runs both stages; returns the folder of the last student."""
    from hf_icon2.commands.students import student_source
    from hf_icon2.distillation.minds_mirror import MindsMirror
    from hf_icon2.toy.reasoner import ReasonerServer

    questions = _questions(recipe)
    with served(recipe.teacher, ReasonerServer) as endpoint:
        return MindsMirror(
            student_source(recipe.student),
            questions,
            chat_client(recipe.teacher, endpoint, output / CACHE),
            output,
            recipe,
            wording=_wording(recipe),
        ).run()


def measured(recipe: MirrorRecipe, student: Path) -> str:
    """How good the bundled student was and is on sums that nobody was trained on; nothing of another one."""
    if recipe.student != TOY or recipe.questions is not None:
        return ""
    from hf_icon2.loading import load_model, load_tokenizer
    from hf_icon2.toy import student_path

    held_out = held_out_sums(recipe, HELD_OUT_SUMS)
    before, after = (
        held_out.figures(load_model(path), load_tokenizer(path)) for path in (student_path(), str(student))
    )
    told = f"; right labels of {before['questions']} held-out sums: {before['accuracy']:.3f} before, "
    told += f"{after['accuracy']:.3f} after; balanced accuracy of verdicts on {before['chains']} rationales: "
    old, new = (figures["verdicts"]["balanced_accuracy"] for figures in (before, after))
    return f"{told}{old:.3f} before, {new:.3f} after"


def held_out_sums(recipe: MirrorRecipe, number: int) -> Examination:
    """Sums that no model was trained on: each with a right, a wrong and an unfinished rationale, and true verdicts.

    Args:
        recipe: Prefixes, what a judge is shown, and the seed.
        number: Of sums.
    """
    from hf_icon2.distillation.mirror_figures import Examination
    from hf_icon2.distillation.reasoning.parsing import parse_chain
    from hf_icon2.toy.reasoner import ReasoningRule
    from hf_icon2.toy.reasoning import evaluation, sums

    rules = [ReasoningRule(*chances, malformed=0) for chances in ((0, 0), (1, 0), (0, 1))]
    questions, chains = [], []
    for problem in sums("test", number, recipe.seed):
        question = _question(problem)
        questions.append(question)
        for rule in rules:
            chain = parse_chain(rule.chain(question.text), question)
            _, verdict = evaluation(problem, chain.rationale, chain.label)
            said = {"rationale": chain.rationale, "label": chain.label, "verdict": verdict}
            chains.append({"id": question.id, "prompt": question.text, **said})
    return Examination(questions, chains, recipe, _wording(recipe))


def _questions(recipe: MirrorRecipe) -> list[Question]:
    if recipe.questions is None:
        from hf_icon2.toy.reasoning import sums

        return [_question(problem) for problem in sums("train", recipe.number or SUMS, recipe.seed)]
    from hf_icon2.distillation.question_files import read_questions

    return read_questions(
        recipe.questions,
        recipe.task,
        subset=recipe.subset,
        part=recipe.part,
        number=recipe.number,
        seed=recipe.seed,
    )


def _question(problem: Sum) -> Question:
    from hf_icon2.distillation.reasoning.records import Question

    return Question(problem.expression, problem.text, str(problem.result), "gsm8k")


def _wording(recipe: MirrorRecipe) -> EvaluationWording:
    """How the student is asked to judge: of the toy's sums in the words it knows."""
    if recipe.questions is None:
        from hf_icon2.toy.reasoning import evaluation_prompt as in_words_of_the_toy

        return in_words_of_the_toy
    from hf_icon2.judges.evaluation_wording import evaluation_prompt

    return evaluation_prompt
