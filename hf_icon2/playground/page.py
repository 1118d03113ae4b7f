"""The page itself: gradio components around `events`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from hf_icon2.cards import directions_card
from hf_icon2.playground.answers import MAX_CHARACTERS, MAX_NEW_TOKENS, MAX_TEMPERATURE
from hf_icon2.playground.events import Events, Shown, Update, status_html
from hf_icon2.playground.markup import card_markdown, empty_html
from hf_icon2.playground.sliders import slider
from hf_icon2.playground.subject import Subject

logger = logging.getLogger(__name__)

_STYLE = Path(__file__).parent / "page.css"
_AT_ONCE, _WAITING = 4, 64  # visitors that are answered, and that may wait
_FORGET_AFTER = 3600  # seconds
_FONT, _MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # none to fetch
_INTRODUCTION = """\
# Icon² playground
Steer **{name}** along directions found in its own hidden states: one instruction, and its answers pushed
**against** the sliders (−), left **plain** (0) and pushed **along** them (+). {note}
"""
_STRENGTHS = """\
### Strengths of the + answer
The − answer gets the opposite ones. {limit} What each criterion means stands below, in *About these directions*.
"""


def launch(subject: Subject, *, port: int | None = None) -> None:
    """Serves the page until Ctrl-C, on 127.0.0.1 unless `GRADIO_SERVER_NAME` says otherwise, without telemetry.

    Args:
        subject: The model on show.
        port: Where to listen; by default the first free one from 7860 on, or `GRADIO_SERVER_PORT`.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = build_page(subject).queue(max_size=_WAITING, default_concurrency_limit=_AT_ONCE)
    _, address, _ = page.launch(
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,  # a Space would ask for it, and for Node with it
        footer_links=[],
        css_paths=_STYLE,
        theme=gr.themes.Default(primary_hue="orange", neutral_hue="slate", font=_FONT, font_mono=_MONO),
    )
    logger.info("the playground is at %s; Ctrl-C ends it", address)
    page.block_thread()


def build_page(subject: Subject) -> gr.Blocks:
    """The page of a subject."""
    page: gr.Blocks = _Page(subject).blocks
    return page


class _Page:
    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.events = Events(subject)
        self.parts: dict[str, Any] = {}
        with gr.Blocks(title="Icon² playground", analytics_enabled=False, fill_width=True) as self.blocks:
            gr.Markdown(_INTRODUCTION.format(name=subject.name, note=subject.note), elem_id="introduction")
            self.parts["shown"] = gr.State(None, time_to_live=_FORGET_AFTER)
            with gr.Row(elem_id="desk"):
                with gr.Column(scale=2, min_width=320):
                    self._controls()
                with gr.Column(scale=5, min_width=320):
                    self._results()
            self._more()
            self._connect()

    def _controls(self) -> None:
        subject, config = self.subject, self.subject.directions.config
        calibrated = all(known.maximum for known in config.strengths.values()) and config.strengths
        limit = "A slider ends where the text would begin to break." if calibrated else ""
        self.prompt = gr.Textbox(
            subject.examples[0],
            label="Instruction",
            lines=2,
            max_lines=8,
            max_length=MAX_CHARACTERS,
            elem_id="instruction",
        )
        with gr.Row(elem_id="buttons"):
            self.run = gr.Button("Generate", variant="primary", min_width=110, elem_id="generate")
            self.halt = gr.Button("Stop", min_width=110, elem_id="stop")
        self.parts["status"] = gr.HTML(status_html("Ready."), elem_id="status", padding=False)
        gr.Examples(list(subject.examples), self.prompt, label="Examples")
        gr.Markdown(_STRENGTHS.format(limit=limit), elem_id="strengths")
        self.sliders = []
        for index, criterion in enumerate(config.criteria):
            one = slider(subject.directions, criterion.name)
            self.sliders.append(
                gr.Slider(
                    -one.limit,
                    one.limit,
                    0.0 if index else one.recommended,
                    step=one.step,
                    label=criterion.name,
                    info=one.info,
                    elem_id=f"strength-{index}",
                    elem_classes="strength",
                )
            )
        with gr.Accordion("Sampling", open=False, elem_id="sampling"):
            self.temperature = gr.Slider(
                0,
                MAX_TEMPERATURE,
                min(subject.temperature, MAX_TEMPERATURE),
                step=0.05,
                label="Temperature",
                info="0 takes the likeliest token",
            )
            self.seed = gr.Number(1, label="Seed", precision=0, info="All three answers share their noise")
            self.length = gr.Slider(1, MAX_NEW_TOKENS, 64, step=1, label="Longest answer, in tokens")

    def _results(self) -> None:
        config = self.subject.directions.config
        self.parts["answers"] = gr.HTML(empty_html(), elem_id="answers")
        with gr.Row(elem_id="look"):
            first = config.names[0]
            self.criterion = gr.Dropdown(
                list(config.names), value=first, label="Colour tokens by", elem_id="criterion"
            )
            self.layer = gr.Dropdown(
                list(config.layers), value=config.control_layers[first][-1], label="At layer", elem_id="layer"
            )
        self.parts["legend"] = gr.HTML(elem_id="legend")
        gr.Markdown("### What the instruction is about", elem_id="about")
        self.parts["consistency"] = gr.HTML(
            "<p>Generate to see how the model reads the instruction itself.</p>", elem_id="consistency"
        )

    def _more(self) -> None:
        with gr.Accordion("Python for the + answer", open=False, elem_id="code"):
            self.parts["snippet"] = gr.Code(
                "# Generate first.", language="python", interactive=False, elem_id="snippet", show_label=False
            )
        with gr.Accordion("About these directions", open=False, elem_id="card"):
            gr.Markdown(card_markdown(directions_card(self.subject.directions.config)))

    def _connect(self) -> None:
        look = [self.criterion, self.layer]
        outputs = list(self.parts.values())
        running = gr.on(
            [self.run.click, self.prompt.submit],
            self._generate,
            [self.prompt, self.temperature, self.seed, self.length, *look, *self.sliders],
            outputs,
            show_progress="hidden",
            api_name="generate",
        )
        # First cancelled, then coloured: the other way round a last streamed step could overwrite the colours.
        self.halt.click(None, cancels=[running], api_visibility="private").then(
            self._stop,
            [self.parts["shown"], *look],
            outputs,
            show_progress="hidden",
            api_visibility="private",
        )
        gr.on(
            [self.criterion.input, self.layer.input],
            self._recolour,
            [self.parts["shown"], *look],
            outputs,
            show_progress="hidden",
            api_visibility="private",
        )

    def _generate(
        self,
        prompt: str,
        temperature: float,
        seed: int,
        length: int,
        criterion: str,
        layer: int,
        *strengths: float,
    ) -> Iterator[dict[Any, Any]]:
        sampling = {"max_new_tokens": length, "temperature": temperature, "seed": seed}
        steering = dict(zip(self.subject.directions.names, strengths, strict=True))
        for update in self.events.generate(prompt, steering, sampling, (criterion, layer)):
            yield self._placed(update)

    def _stop(self, shown: Shown | None, criterion: str, layer: int) -> dict[Any, Any]:
        return self._placed(self.events.stop(shown, (criterion, layer)))

    def _recolour(self, shown: Shown | None, criterion: str, layer: int) -> dict[Any, Any]:
        return self._placed(self.events.recolour(shown, (criterion, layer)))

    def _placed(self, update: Update) -> dict[Any, Any]:
        return {self.parts[name]: value for name, value in update.items()}
