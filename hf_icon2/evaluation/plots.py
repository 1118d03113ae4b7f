"""Pictures of a run from plain figures; the only place where matplotlib is imported.

Each function returns a `Figure` and leaves it to the caller where to save it. No global state of matplotlib is
touched, so nothing needs a display and threads do not meet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ModuleNotFoundError as error:
    raise ImportError(
        "pictures need matplotlib; run: pip install 'hf_icon2[report]'", name=error.name
    ) from error

COLOURS = ("#3b6fb6", "#d1662b", "#3f9b5f", "#8a5aa8", "#b5485d", "#7c6a4f")
GREY = "#9aa3ad"
INK = "#2b3038"

Curve = Sequence[tuple[float, float]]
"""Points (x, y), ascending in x."""


def accuracy_bars(shares: Mapping[str, Mapping[str, float | None]]) -> Figure:
    """Grouped bars of shares before, after and under the system prompt.

    Args:
        shares: Group (all, honesty, ...) -> bar (before, after, system prompt) -> share, 0 to 1, or None.
    """
    figure, (axes,) = _figure(1, width=8.0)
    bars = list(next(iter(shares.values())))
    colours = dict(zip(bars, (GREY, COLOURS[0], "#c9d7ea"), strict=False))
    width = 0.8 / len(bars)
    for place, bar in enumerate(bars):
        heights = [group[bar] or 0.0 for group in shares.values()]
        centres = [index + (place - (len(bars) - 1) / 2) * width for index in range(len(shares))]
        drawn = axes.bar(centres, heights, width * 0.92, label=bar, color=colours[bar])
        axes.bar_label(drawn, [f"{height:.2f}" for height in heights], fontsize=8, padding=2, color=INK)
    axes.set_xticks(range(len(shares)), list(shares))
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("share of answers")
    axes.legend(frameon=False, ncols=len(bars), loc="upper center", bbox_to_anchor=(0.5, 1.14))
    return figure


def direction_evidence(
    evidence: Mapping[str, Mapping[str, Sequence[float]]],
    layers: Sequence[int],
    control_layers: Mapping[str, Sequence[int]],
) -> Figure:
    """Per criterion and layer: accuracy of the direction on held-out contrasts, beside a random direction.

    Args:
        evidence: Criterion -> `held_out_accuracy` and `random_accuracy`, one value per layer, 0 to 1.
        layers: The layers these values belong to.
        control_layers: Criterion -> layers that are steered; they are marked.
    """
    figure, panels = _figure(len(evidence))
    for axes, colour, (name, found) in zip(panels, _colours(), evidence.items(), strict=False):
        for layer in control_layers.get(name, ()):
            axes.axvspan(layer - 0.5, layer + 0.5, color=colour, alpha=0.12, linewidth=0)
        axes.plot(layers, found["random_accuracy"], "--", color=GREY, marker=".", label="random direction")
        axes.plot(layers, found["held_out_accuracy"], color=colour, marker="o", label="direction")
        axes.set(title=name, xlabel="layer (steered ones shaded)", ylim=(-0.03, 1.05))
        axes.set_xticks(_thinned(layers))
        axes.legend(frameon=False, loc="lower right")
    panels[0].set_ylabel("held-out accuracy")
    return figure


def consistency_histograms(histogram: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Per criterion: how many instructions have which consistency, and how many of them it serves.

    Args:
        histogram: Criterion -> `edges` (bins + 1), `counts` of all instructions and of the `routed` ones.
    """
    figure, panels = _figure(len(histogram))
    for axes, colour, (name, found) in zip(panels, _colours(), histogram.items(), strict=False):
        lows, width = found["edges"][:-1], found["edges"][1] - found["edges"][0]
        for key, shade, label in (("counts", "#d5dae0", "all"), ("routed", colour, "fit this one best")):
            axes.bar(lows, found[key], width * 0.94, align="edge", color=shade, label=label)
        axes.set(
            title=name, xlabel="consistency", ylim=(0, 1.3 * max(1, *found["counts"]))
        )  # room for the legend
        axes.legend(frameon=False, ncols=2, loc="upper center")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("instructions")
    return figure


def tuning_curves(
    trials: Mapping[str, Mapping[str, Curve]], chosen: Mapping[str, Mapping[str, Curve]]
) -> Figure:
    """Per criterion: mean reward against strength, one line per set of layers, and what was chosen.

    Args:
        trials: Criterion -> set of layers -> (strength, reward).
        chosen: Criterion -> set of layers -> the points that were chosen.
    """
    figure, panels = _figure(len(trials))
    for axes, colour, (name, lines) in zip(panels, _colours(), trials.items(), strict=False):
        axes.axvline(0, color=GREY, linewidth=0.8)
        for label, points in lines.items():
            mine = label in chosen.get(name, {})
            axes.plot(*_split(points), marker=".", color=colour if mine else GREY, label=label)
        for points in chosen.get(name, {}).values():
            axes.plot(
                *_split(points), "o", color=colour, markersize=9, markerfacecolor="white", label="chosen"
            )
        axes.set(title=name, xlabel="strength")
        axes.legend(frameon=False, loc="lower right")
    panels[0].set_ylabel("mean reward")
    return figure


def training_curves(
    train: Curve, held_out: Curve, losses: Mapping[str, Curve], paper: Mapping[str, Curve], best: float | None
) -> Figure:
    """Left: reward accuracy beside the paper's runs. Right: loss. Both against the share of examples seen.

    Args:
        train: Share of examples, reward accuracy on the examples trained on.
        held_out: The same on held-out pairs.
        losses: Name -> share, loss in nats.
        paper: Name -> share, the paper's train reward accuracy.
        best: Share at which the model that was kept was reached, None if it is the last one.
    """
    figure, (left, right) = _figure(2, width=9.5)
    for (name, points), style in zip(paper.items(), ("--", ":"), strict=False):
        left.plot(*_split(points), style, color=GREY, label=name)
    left.plot(*_split(train), color=COLOURS[0], alpha=0.85, linewidth=1.2, label="train")
    left.plot(*_split(held_out), color=COLOURS[1], marker="o", markersize=4, label="held-out")
    left.set(title="reward accuracy", ylim=(0, 1.05))
    for (name, points), colour in zip(losses.items(), COLOURS, strict=False):
        right.plot(
            *_split(points), color=colour, marker="" if name == "train" else "o", markersize=4, label=name
        )
    right.set(title="loss (nats)", ylim=(0, None))
    for axes in (left, right):
        if best is not None:
            axes.axvline(best, color=INK, linewidth=0.8, alpha=0.6, label="model kept")
        axes.set(xlabel="share of examples seen", xlim=(0, 1.02))
        axes.legend(frameon=False, fontsize=8, loc="lower right" if axes is left else "best")
    return figure


def funnel(counts: Mapping[str, int]) -> Figure:
    """Horizontal bars of what was left after each step, the numbers beside them."""
    figure, (axes,) = _figure(1, width=8.0, height=0.42 * len(counts) + 0.5)
    drawn = axes.barh(list(counts), list(counts.values()), color=COLOURS[0], height=0.66)
    axes.bar_label(drawn, [f"{count:,}" for count in counts.values()], padding=4, color=INK)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.grid(visible=False)
    axes.tick_params(left=False)
    return figure


def lines(panels: Mapping[str, Mapping[str, Curve]], *, x: str, y: str, logarithmic: bool = False) -> Figure:
    """Curves in panels side by side that share their axis of values.

    Args:
        panels: Title -> label -> points; a label that begins with "paper" is drawn dashed.
        x: Label of the abscissae.
        y: Label of the values.
        logarithmic: Whether the abscissae are.
    """
    figure, drawn = _figure(len(panels))
    limits = [value for curves in panels.values() for points in curves.values() for _, value in points]
    margin = 0.05 * (max(limits) - min(limits) or 1)
    for axes, (title, curves) in zip(drawn, panels.items(), strict=False):
        for colour, (label, points) in zip(_colours(), curves.items(), strict=False):
            style = "--" if label.startswith("paper") else "-"
            axes.plot(*_split(points), style, color=colour, marker="o", markersize=3, label=label)
        axes.set(title=title, xlabel=x, ylim=(min(limits) - margin, max(limits) + margin))
        if logarithmic:
            axes.set_xscale("log")
        axes.legend(frameon=False, fontsize=8)
    drawn[0].set_ylabel(y)
    return figure


def bars_with_seeds(bars: Mapping[str, Sequence[float]], *, label: str, marks: Mapping[str, float]) -> Figure:
    """Horizontal bars of means, a dot for each seed.

    Args:
        bars: Name -> one value per seed.
        label: Of the values.
        marks: Name -> value of a line across all bars.
    """
    figure, (axes,) = _figure(1, width=8.0, height=0.34 * len(bars) + 0.9)
    means = [sum(values) / len(values) for values in bars.values()]
    axes.barh(list(bars), means, color="#c9d7ea", height=0.66)
    for place, values in enumerate(bars.values()):
        axes.plot(values, [place] * len(values), "o", color=COLOURS[0], markersize=4)
    for colour, (name, value) in zip(COLOURS[1:], marks.items(), strict=False):
        axes.axvline(value, color=colour, linewidth=1, linestyle="--", label=name)
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlabel(label)
    axes.legend(frameon=False, fontsize=8, ncols=len(marks), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def heat_maps(
    panels: Mapping[str, Sequence[Sequence[float]]], *, rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Tables of numbers as colours, the numbers in them; all panels share rows, columns and colours.

    Args:
        panels: Title -> one row of values per name in `rows`.
        rows: Names of the rows.
        columns: Names of the columns.
    """
    figure, drawn = _figure(len(panels))
    most = max(abs(value) for table in panels.values() for row in table for value in row) or 1.0
    for axes, (title, table) in zip(drawn, panels.items(), strict=False):
        axes.imshow(table, cmap="RdBu", vmin=-most, vmax=most, aspect="auto")
        for place, row in enumerate(table):
            for column, value in enumerate(row):
                ink = "white" if abs(value) > 0.6 * most else INK
                axes.text(column, place, f"{value:.2f}", ha="center", va="center", fontsize=8, color=ink)
        axes.set_title(title)
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.grid(visible=False)
    return figure


def _figure(panels: int, *, width: float | None = None, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, three to a row, in one quiet style."""
    columns = min(panels, 3)
    rows = -(-panels // 3)
    figure = Figure(figsize=(width or max(4.6, 3.6 * columns), height * rows), dpi=130, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes: list[Any] = [axis for row in grid for axis in row]
    for axis in axes[panels:]:
        axis.set_visible(False)
    for axis in axes[:panels]:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
        axis.tick_params(colors=INK, labelsize=9)
        axis.grid(axis="y", color="#e6e9ed", linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes[:panels]


def _colours() -> list[str]:
    """Enough colours for any number of criteria, the same one for the same place everywhere."""
    return [COLOURS[place % len(COLOURS)] for place in range(64)]


def _split(points: Curve) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _thinned(layers: Sequence[int]) -> list[int]:
    """At most a dozen ticks."""
    return list(layers[:: -(-len(layers) // 12)])
