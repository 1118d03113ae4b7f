"""The page: what fails first, then every claim, then the tables behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protocol import table

from evidence import arms, tables
from evidence.claims import FAILS, MEAN_ONLY, Finding, findings
from evidence.figures import Evidence
from hf_icon2.storage import write_atomic

HOW = (
    "Everything here is measured on the bundled assistant, whose answers a truth table judges: an answer "
    "is right if all behaviours that apply to it are. Every arm starts from the same model and gets the "
    "same {tokens:,} generated tokens to make pairs with (samples that are thrown away, critiques and "
    "refinements included), then {steps} steps of DPO of 32 pairs (beta 0.5, learning rate 1e-4, no early "
    "stopping), then answers 512 held-out prompts twice. {seeds}. Figures are means ± standard deviations "
    "over the seeds; brackets are 95 % intervals that resample prompts, the widest of the seeds'. The "
    "truth table tunes layers and strengths on at most 100 instructions and is the reward of Sampling-"
    "Ranking, which here has a perfect judge; the other strategies never see it. What the toy says of a "
    "claim is about the claim's mechanism at this scale, not about Llama."
)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Args:
        title: Its heading.
        what: How to read it.
        sources: Whose claims are repeated below it.
        show: Makes its tables.
        picture: Name of its picture, if it has one.
    """

    title: str
    what: str
    sources: Sequence[str]
    show: Callable[[Evidence], str] = lambda _evidence: ""
    picture: str = ""


SECTIONS = (
    Section(
        "Tables 1 and 2: strategies",
        "The win rate is over the answers before training, by the truth table, ties half. The length-"
        "controlled one is AlpacaEval 2's regression without its term for the prompt's difficulty and its rows "
        "of gamed baselines, which exist for AlpacaEval's own prompts only; in this world right answers are the "
        "longer ones, so it takes away a part of what was really gained. Strategies that do not steer and ask "
        "no system prompt have no criteria: one row each. The noisy reward is right in 0.90 of the decisive "
        "pairs of samples.",
        (
            "Table 1",
            "Table 2",
        ),
        lambda evidence: f"{tables.table_1(evidence)}\n\n{tables.beside(evidence)}",
        picture="strategies",
    ),
    Section(
        "Table 3: instructions and the filter",
        "Share of held-out answers right after Icon² (3H) on 300 instructions of each source; filtered means "
        "the more consistent half of each criterion's. The world's own instructions stand in for curated "
        "ones, its facts alone for a narrow set.",
        ("Table 3",),
        tables.table_3,
    ),
    Section(
        "Table 4: cost",
        "All strategies spend the same tokens, so what differs is how many pairs that buys and how good they "
        "are. CPU time is one core's, judging and ranking included, on a machine shared with other work.",
        ("Table 4",),
        tables.table_4,
    ),
    Section(
        "Table 9: stability of the directions",
        "Lowest cosine, over the seeds and layers 1 to 4, with the directions of all 800 training "
        "instructions. The last row shows what centring the contrasts before the PCA does: it takes the "
        "signal away.",
        ("Table 9",),
        tables.table_9,
        picture="stability",
    ),
    Section(
        "Tables 12 and 13: reward accuracy while training",
        "Train reward accuracy, the paper's in brackets. Where it rushes to 1, the sides are told apart by "
        "something easy.",
        ("Tables 12-13",),
        tables.table_12,
        picture="reward-accuracy",
    ),
    Section(
        "Tables 14 and 15: strengths",
        "Mean reward of up to 200 self-written instructions routed to the criterion, without training.",
        (
            "Table 14",
            "Table 15",
        ),
        tables.tables_14,
        picture="strengths",
    ),
    Section(
        "Tables 16 and 17: how many instructions choose a strength",
        "1,000 random samples with replacement of each size; the worst criterion and seed.",
        ("Tables 16-17",),
        tables.tables_16,
    ),
    Section(
        "Figure 4: layers and strengths",
        "Gap between the mean rewards of both signs by pair of neighbouring layers (the paper trains; here "
        "nothing is trained).",
        ("Figure 4",),
        picture="layers",
    ),
    Section(
        "Beyond the paper",
        "Shared noise, layers per criterion, the scale of the consistency score, conversations of two turns, "
        "and pairs made anew from the policy. Second answers are those in conversations of two held-out "
        "prompts, whose first answer is the model's own. In the toy's corpus a conversation keeps one manner "
        "throughout, so a second answer follows the first whatever steers it; that is how we explain, but have "
        "not tested, that pairs which differ in the second answer only teach it less.",
        ("ours",),
        tables.additions,
    ),
    Section(
        "Where consistency sends instructions",
        "Share of the self-written instructions of each kind that each score routes to each criterion.",
        (),
        tables.routing,
    ),
)


def write(page: Path, figures: Path) -> None:
    """Writes the page and its pictures from the figures file, which lies beside the pictures."""
    from evidence.pictures import draw

    evidence = Evidence.load(figures)
    shown = {tables.label(arm): arm.name for arm in tables.known(evidence, arms.TABLE_1)}
    draw(evidence, shown, figures.parent)
    write_atomic(page, text(evidence, figures.parent.name))


def text(evidence: Evidence, pictures: str) -> str:
    """The page as Markdown; `pictures` is their folder, relative to the page."""
    found = findings(evidence)
    seeds = (
        f"Seeds {', '.join(evidence.seeds)}"
        if len(evidence.seeds) > 1
        else "One seed only: no spread is known"
    )
    how = HOW.format(seeds=seeds, **evidence.figures["scale"])
    parts = ["# Evidence", opening(found), how, verdicts(found)]
    for section in SECTIONS:
        shown = f"![{section.title}]({pictures}/{section.picture}.png)" if section.picture else ""
        said = sentences([one for one in found if one.claim.source in section.sources])
        blocks = (f"## {section.title}", section.what, section.show(evidence), shown, said)
        parts.append("\n\n".join(block for block in blocks if block))
    parts.append(
        f"Every number on this page comes from [figures.json]({pictures}/figures.json), which "
        f"`python benchmarks/paper_tables.py` writes. {evidence.figures['machine']}."
    )
    return "\n\n".join(parts) + "\n"


def opening(found: Sequence[Finding]) -> str:
    """The first paragraph: what fails, with its figures."""
    failed, weak = ([one for one in found if one.verdict == verdict] for verdict in (FAILS, MEAN_ONLY))
    good = len(found) - len(failed) - len(weak)
    lead = f"Of {len(found)} claims {good} hold in every seed."
    if failed:
        lead += f" **Not so on this model:** {listed(failed)}."
    if weak:
        lead += f" In the mean only, not in every seed: {listed(weak)}."
    return lead


def listed(found: Sequence[Finding]) -> str:
    return "; ".join(f"“{one.claim.text}” ({one.claim.source}; {one.figure})" for one in found)


def sentences(found: Sequence[Finding]) -> str:
    return "\n".join(f"- {one.claim.text}: **{one.verdict}**, {one.figure}." for one in found)


def verdicts(found: Sequence[Finding]) -> str:
    rows = [[one.claim.source, one.claim.text, one.verdict, one.figure] for one in found]
    return "## All claims\n\n" + table(["source", "claim", "here", "mean (lowest to highest seed)"], rows)
