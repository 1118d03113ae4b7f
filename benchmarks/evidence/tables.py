"""The page's tables: ours beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from protocol import table

from evidence import arms, paper
from evidence.cells import Figures
from evidence.figures import Evidence, mean

BEHAVIOURS = ("honesty", "harmlessness", "helpfulness")
LABELS = {
    "icon2": "Icon², shared noise",
    "icon2-independent": "Icon², independent noise (the paper's)",
    "direct-prompting": "direct prompting",
    "sampling-ranking": "Sampling-Ranking, 5 samples",
    "self-rewarding": "Self-Rewarding, 5 samples",
    "self-refine": "Self-Refine, 3 samples",
}


def label(arm: arms.Arm) -> str:
    if arm.reward != "truth":
        return f"{LABELS[arm.strategy]}, noisy reward"
    steered = arm.strategy in ("icon2", "icon2-independent", "direct-prompting")
    return f"{LABELS[arm.strategy]}, {arm.criteria}" if steered else LABELS[arm.strategy]


def known(evidence: Evidence, chosen: Sequence[arms.Arm]) -> list[arms.Arm]:
    """Those that were measured."""
    return [arm for arm in chosen if arm.name in evidence.figures["arms"]]


def win(evidence: Evidence, name: str, kind: str) -> str:
    """Win rate over the model as it was: mean over the seeds, and the widest of their 95 % intervals."""
    found = [figures["win rate"][kind] for figures in evidence.arm(name)]
    low, high = min(one[1] for one in found), max(one[2] for one in found)
    return f"{100 * fmean(one[0] for one in found):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def table_1(evidence: Evidence) -> str:
    header = [
        "",
        "answers right",
        *BEHAVIOURS,
        "win rate over before, %",
        "length-controlled, %",
        "paper, LC %",
    ]
    rows = []
    for name, title in (("before", "before training"), ("prompted", "positive system prompt, untrained")):
        shares = [figures[name] for figures in evidence.study("before")]
        rows.append(
            [title, mean(evidence.before(name)), *(f"{fmean(s[b] for s in shares):.3f}" for b in BEHAVIOURS)]
            + ["", "", f"{paper.TABLE_1['before']}" if name == "before" else ""]
        )
    for arm in known(evidence, arms.TABLE_1):
        shares = [figures["shares"] for figures in evidence.arm(arm.name)]
        theirs = paper.TABLE_1.get(arm.name)
        rows.append(
            [
                label(arm),
                mean(evidence.right(arm.name)),
                *(f"{fmean(s[b] for s in shares):.3f}" for b in BEHAVIOURS),
                win(evidence, arm.name, "raw"),
                win(evidence, arm.name, "length-controlled"),
                "" if theirs is None else f"{theirs}",
            ]
        )
    return table(header, rows)


def beside(evidence: Evidence) -> str:
    """What should stand beside every win rate."""
    header = ["", "characters per answer, after / before", "answers given more than once, after / before"]
    rows = []
    for arm in known(evidence, arms.TABLE_1):
        found = [figures["win rate"] for figures in evidence.arm(arm.name)]
        lengths, same = (
            [fmean(one[key][side] for one in found) for side in (0, 1)]
            for key in ("characters", "same answer")
        )
        rows.append([label(arm), f"{lengths[0]:.1f} / {lengths[1]:.1f}", f"{same[0]:.3f} / {same[1]:.3f}"])
    return table(header, rows)


def table_3(evidence: Evidence) -> str:
    header = ["instructions", "unfiltered", "filtered"]
    rows = []
    for source in dict.fromkeys(arm.source for arm in arms.TABLE_3):
        both = [arms.Arm(source=source, filtered=filtered).name for filtered in (False, True)]
        if all(name in evidence.figures["arms"] for name in both):
            rows.append([source, *(mean(evidence.right(name)) for name in both)])
    theirs = [[f"paper: {name}, LC %", *map(str, both)] for name, both in paper.TABLE_3.items()]
    return table(header, [*rows, *theirs])


def table_4(evidence: Evidence) -> str:
    header = [
        "",
        "pairs made",
        "kept",
        "decisive, of kept",
        "right, of decisive",
        "tokens per kept pair",
        "CPU ms per kept pair",
        "paper: GPU hours, responses + preferences",
        "paper: $",
    ]
    rows = []
    for arm in known(evidence, [one for one in arms.TABLE_1 if one.criteria == "3H"]):
        name = arm.name
        hours = paper.TABLE_4.get(arm.strategy)
        decisive = [
            a / b
            for a, b in zip(evidence.of_pairs(name, "decisive"), evidence.of_pairs(name, "kept"), strict=True)
        ]
        rows.append(
            [
                label(arm),
                f"{fmean(evidence.of_pairs(name, 'made')):.0f}",
                f"{fmean(evidence.of_pairs(name, 'kept')):.0f}",
                mean(decisive, 2),
                mean(evidence.decisive_right(name), 2),
                f"{fmean(evidence.per_pair(name, 'tokens')):.1f}",
                f"{1000 * fmean(evidence.per_pair(name, 'pairs_cpu')):.1f}",
                f"{hours[0]} + {hours[1]}" if hours else "",
                f"{hours[2]}" if hours else "",
            ]
        )
    prepared = evidence.study("prepared")
    once = ", ".join(
        f"{fmean(one[key] for one in prepared):.1f} s for {what}"
        for key, what in (("extraction_cpu", "extraction"), ("tuning_cpu", "tuning"))
    )
    return f"{table(header, rows)}\n\nOnce per model, before any pair is made: {once} (CPU)."


def table_9(evidence: Evidence) -> str:
    studies = evidence.study("stability")
    criteria = list(next(iter(studies[0]["cosines"].values())))
    rows = [
        [
            name,
            *(
                f"{min(min(one['cosines'][name][criterion][1:5]) for one in studies):.3f}"
                for criterion in criteria
            ),
        ]
        for name in studies[0]["cosines"]
    ]
    return table(["directions from", *criteria], rows)


def table_12(evidence: Evidence) -> str:
    """Train reward accuracy at the paper's shares of the run."""
    stops = (0.065, 0.13, 0.2, 0.4, 0.8)
    theirs = {
        "icon2-independent 3H": (0.55, 0.695, 0.755, 0.82, 0.855),
        "direct-prompting 3H": (0.85, 0.98, 0.98, 0.98, 0.98),
    }
    rows = []
    for arm in known(evidence, [one for one in arms.TABLE_1 if one.criteria == "3H"]):
        curves = [figures["curve"] for figures in evidence.arm(arm.name)]
        ours = [fmean(nearest(curve, stop) for curve in curves) for stop in stops]
        paper_row = theirs.get(arm.name, ())
        cells = [
            f"{value:.2f}" + (f" ({paper_row[i]:.2f})" if paper_row else "") for i, value in enumerate(ours)
        ]
        rows.append([label(arm), *cells])
    return table(["", *(f"{100 * stop:.0f} % of the run" for stop in stops)], rows)


def nearest(curve: Sequence[Sequence[float]], stop: float) -> float:
    return min(curve, key=lambda point: abs(point[0] - stop))[1]


def tables_14(evidence: Evidence) -> str:
    studies = evidence.study("strengths")
    gammas = studies[0]["gammas"]
    parts = []
    for name in studies[0]["criteria"]:
        found = [one["criteria"][name] for one in studies]

        def over(key: str, place: int, found: Sequence[Figures] = found) -> float:
            return fmean(one[key][place] for one in found)

        rows = [
            ["reward of +", *(f"{over('positive', i):.3f}" for i in range(len(gammas)))],
            ["reward of −", *(f"{over('negative', i):.3f}" for i in range(len(gammas)))],
            [
                "best + above −, of all",
                *(f"{fmean(one['right'][i]['of all'] for one in found):.3f}" for i in range(len(gammas))),
            ],
        ]
        layers = "; ".join(sorted({str(one["layers"]) for one in found}))
        unsteered = fmean(one["unsteered"] for one in found)
        parts.append(
            f"**{name}**, layers {layers}, unsteered reward {unsteered:.3f}\n\n"
            + table(["size of the strength", *map(str, gammas)], rows)
        )
    theirs = table(
        ["paper (ArmoRM)", *map(str, paper.GAMMA_POSITIVE)],
        [
            ["reward of +", *map(str, paper.GAMMA_POSITIVE.values())],
            ["reward of −", *(str(reward) for reward, _ in paper.GAMMA_NEGATIVE.values())],
            ["right", *(str(share) for _, share in paper.GAMMA_NEGATIVE.values())],
        ],
    )
    return "\n\n".join([*parts, theirs])


def tables_16(evidence: Evidence) -> str:
    studies = evidence.study("strengths")
    sizes = list(
        dict.fromkeys(
            size for one in studies for found in one["criteria"].values() for size in found["sub-samples"]
        )
    )

    def worst(size: str, key: str) -> float:
        return max(
            found["sub-samples"][size][key]
            for one in studies
            for found in one["criteria"].values()
            if size in found["sub-samples"]
        )

    rows = [
        ["standard deviation of the mean reward", *(f"{worst(size, 'std'):.3f}" for size in sizes)],
        ["reward lost by choosing + from so few", *(f"{worst(size, 'regret'):.3f}" for size in sizes)],
    ]
    return table(["instructions", *sizes], rows)


def routing(evidence: Evidence) -> str:
    studies = evidence.study("routing")
    rows = []
    for score, kinds in studies[0]["shares"].items():
        for kind, names in kinds.items():
            shares = [fmean(one["shares"][score][kind][name] for one in studies) for name in names]
            rows.append([score, kind, *(f"{share:.2f}" for share in shares)])
    return table(["score", "kind of instruction", *next(iter(studies[0]["shares"]["dot"].values()))], rows)


def additions(evidence: Evidence) -> str:
    chosen = {
        "as in Table 1 (tuned layers, standardized score, one round)": arms.ICON2,
        "independent noise": arms.Arm("icon2-independent"),
        "middle third of the layers for all criteria": arms.Arm(layers="middle"),
        "middle third, and the paper's strengths 0.1 and -0.05": arms.Arm(layers="paper"),
        "consistency by the cosine": arms.Arm(score="cosine"),
        "consistency by the dot product (the paper's)": arms.Arm(score="dot"),
        "conversations of two turns, self-written throughout": arms.TURNS,
        "two self-written instructions behind each other": arms.CHAINED,
        "two rounds, each on half of the tokens and steps": arms.ROUNDS,
    }
    rows = []
    for title, arm in chosen.items():
        if arm.name not in evidence.figures["arms"]:
            continue
        found = evidence.arm(arm.name)
        second = [one["two turns"]["right"] for one in found if one["two turns"]]
        rows.append(
            [
                title,
                f"{fmean(evidence.of_pairs(arm.name, 'kept')):.0f}",
                mean(evidence.decisive_right(arm.name), 2),
                mean(evidence.right(arm.name)),
                mean(second) if second else "",
            ]
        )
    header = ["Icon², 3H", "pairs kept", "right, of decisive", "answers right", "second answers right"]
    before = mean([figures["two turns"]["right"] for figures in evidence.study("before")])
    return table(header, [["before training", "", "", mean(evidence.before()), before], *rows])
