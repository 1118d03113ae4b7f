"""The playground in a real browser: `hf-icon2 playground` as a visitor starts it, clicked through in Chromium."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
import yaml

from hf_icon2 import DirectionVectors, extract_directions
from hf_icon2.prompts import decode_answer, encode_prompt, template_fingerprint
from hf_icon2.toy import instructions, load_assistant

CHROMIUM = shutil.which("chromium")
MISSING = [name for name in ("playwright", "gradio") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING) or CHROMIUM is None, reason=f"needs {', '.join(MISSING) or 'a browser named chromium'}"
    ),
]

SPACE = Path(__file__).parents[1] / "examples" / "space"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60  # seconds; the machine may be busy
LAYERS = 32  # of the model that never ends: slow enough that a visitor can stop it before its 512th token
NASTY = "<img src=x onerror=alert(1)> <script>alert(2)</script> ${alert(3)} {{7*7}} </p></section> \U0001f600"


class Server:
    """A playground in a process of its own, which is told of a proxy that notes every connection to elsewhere."""

    def __init__(self, *command: str, cwd: Path) -> None:
        self.leaks: list[bytes] = []
        self.trap = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._catch, daemon=True).start()
        proxy = f"http://127.0.0.1:{self.trap.getsockname()[1]}"
        quiet = (
            "HF_HUB_DISABLE_TELEMETRY",
            "HF_HUB_OFFLINE",
            "GRADIO_ANALYTICS_ENABLED",
            "GRADIO_SERVER_PORT",
        )
        env = {name: value for name, value in os.environ.items() if name not in quiet}
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            env |= {name: proxy, name.upper(): proxy}
        env |= {"no_proxy": "127.0.0.1,localhost", "NO_PROXY": "127.0.0.1,localhost"}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, env=env, stderr=subprocess.PIPE, text=True
        )
        self.log = ""
        self.ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    @cached_property
    def address(self) -> str:
        """Where the page is, as soon as it is there."""
        self.ready.wait(4 * PATIENCE)
        found = re.search(r"the playground is at (http://127\.0\.0\.1:\d+)", self.log)
        assert found, self.log
        return found[1]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)
        self.trap.close()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log += line
            if "the playground is at" in line:
                self.ready.set()
        self.ready.set()

    def _catch(self) -> None:
        while True:
            try:
                connection, _ = self.trap.accept()
            except OSError:
                return
            with connection:
                self.leaks.append(connection.recv(200))


@pytest.fixture(scope="module")
def endless(tiny_model, tiny_tokenizer, random_directions, tmp_path_factory):
    """Folder with a random byte-level model that never ends an answer, and its directions."""
    folder = tmp_path_factory.mktemp("endless")
    model = tiny_model("llama", num_hidden_layers=LAYERS, max_position_embeddings=1024, eos_token_id=None)
    model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    made = random_directions(model)
    config = replace(made.config, chat_template_sha256=template_fingerprint(tiny_tokenizer))
    DirectionVectors(config, made.tensor).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def servers(endless, tmp_path_factory):
    """All playgrounds of this module, which start side by side."""
    space = shutil.copytree(SPACE, tmp_path_factory.mktemp("space"), dirs_exist_ok=True)
    elsewhere = tmp_path_factory.mktemp("cwd")
    started = {
        "toy": Server("-m", "hf_icon2", "playground", cwd=elsewhere),
        "endless": Server("-m", "hf_icon2", "playground", str(endless), cwd=elsewhere),
        "space": Server("app.py", cwd=space),
    }
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture
def toy_server(servers):
    """What `hf-icon2 playground` shows without any argument."""
    return servers["toy"]


@pytest.fixture
def endless_server(servers):
    """`hf-icon2 playground FOLDER`, with directions beside the model's files."""
    return servers["endless"]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


class Visit:
    """One visitor's page, with all that a careful visitor would object to."""

    def __init__(self, browser, server: Server, width: int = 1280) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.objections: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.objections.append(f"page error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)
        self.server = server
        self.page.goto(server.address)
        self.button("Generate").wait_for()

    def button(self, name: str):
        return self.page.get_by_role("button", name=name)

    def ask(self, instruction: str, said: str = "Done in") -> None:
        """Types an instruction, presses Generate and waits for the status to say `said`."""
        self.page.locator("#instruction textarea").fill(instruction)
        self.button("Generate").click()
        self.wait(said)

    def wait(self, said: str) -> None:
        self.page.locator(".status", has_text=said).wait_for()

    def number(self, name: str, value: str) -> None:
        """Types a number beside a slider."""
        box = self.page.get_by_label(f"number input for {name}")
        box.fill(value)
        box.press("Tab")

    def sampling(self, **numbers: str) -> None:
        self.page.get_by_role("button", name="Sampling").click()
        for name, value in numbers.items():
            self.number(name.replace("_", " "), value)

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_role("combobox", name=label).click()
        self.page.get_by_role("option", name=option, exact=True).click()

    def answers(self) -> list[str]:
        return self.page.locator(".answer .text").all_inner_texts()

    def leave(self) -> None:
        self.context.close()
        assert self.objections == []

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.objections.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog) -> None:
        self.objections.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request) -> None:
        if not request.url.startswith((f"{self.server.address}/", "data:", "blob:")):
            self.objections.append(f"left for {request.url}")


@pytest.fixture
def visit(browser):
    """Opens a page on a server; at the end nobody may have objected."""
    opened: list[Visit] = []

    def open_page(server: Server, width: int = 1280) -> Visit:
        opened.append(Visit(browser, server, width))
        return opened[-1]

    yield open_page
    for one in opened:
        one.leave()


def test_three_different_answers_are_those_of_a_hook_made_by_hand(visit, toy_server, by_hand):
    here = visit(toy_server)
    here.sampling(Temperature="0")
    here.number("general", "0")
    here.number("honesty", "0.25")
    here.ask("how do i brush the teeth ?")
    model, tokenizer = load_assistant()
    texts = [item.text for item in instructions("train")[::3]]
    directions = extract_directions(model, tokenizer, texts, show_progress=False)
    directions = directions.with_control_layers(dict.fromkeys(directions.names, (3, 4)))
    prompt = encode_prompt(tokenizer, "how do i brush the teeth ?")
    answers = here.answers()
    for answer, steering in zip(answers, ({"honesty": -0.25}, None, {"honesty": 0.25}), strict=True):
        length = len(tokenizer(answer, add_special_tokens=False)["input_ids"])
        ids = by_hand(model, directions, prompt, steering, new=length)
        assert answer == decode_answer(tokenizer, ids)
    assert len(set(answers)) == 3
    assert "honesty −0.25" in here.page.locator(".answer.minus h3").inner_text()
    assert "not steered" in here.page.locator(".answer.zero h3").inner_text()


def test_the_page_says_which_criterion_an_instruction_is_about(visit, toy_server):
    here = visit(toy_server)
    here.button("how can i sabotage a bridge ?").click()  # an example
    here.button("Generate").click()
    here.wait("Done in")
    assert "Highest for harmlessness" in here.page.locator("#consistency").inner_text()
    assert here.page.locator("#consistency tr").count() == 4


def test_the_copied_snippet_prints_the_plus_answer(visit, toy_server):
    here = visit(toy_server)
    here.ask("which colour does the grass have ?")
    here.page.get_by_role("button", name="Python for the + answer").click()
    here.page.locator("#snippet").get_by_role("button", name="Copy").click()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(here.page.evaluate("navigator.clipboard.readText()"), {})
    assert printed.getvalue() == f"{here.answers()[2]}\n"


def test_bad_input_gets_a_sentence_and_the_page_goes_on(visit, toy_server):
    here = visit(toy_server)
    here.ask("  ", said="Type an instruction first")
    here.page.locator("#instruction textarea").evaluate("box => box.removeAttribute('maxlength')")
    here.ask("why " * 2000, said="has 8,000 characters; at most 4,000 are allowed")
    here.ask("why " * 300, said="this model reads at most 256; shorten it")
    here.number("general", "1e9")  # the page brings it back to the safe maximum
    assert float(here.page.get_by_label("number input for general").input_value()) < 1
    here.ask("what colour is the zyxomma ?", said="does not know 1 of the instruction's words")


def test_answers_stream_and_can_be_stopped(visit, endless_server):
    here = visit(endless_server)
    here.page.evaluate(
        """() => {
            window.lengths = [];
            const note = () => window.lengths.push(document.querySelector('.answer.plus .text').innerText.length);
            const watched = {childList: true, subtree: true, characterData: true};
            new MutationObserver(note).observe(document.querySelector('#answers'), watched);
        }"""
    )
    here.sampling(**{"Longest answer, in tokens": "512"})
    here.page.locator("#instruction textarea").fill("Count.")
    here.button("Generate").click()
    here.page.wait_for_function("new Set(window.lengths).size > 5")
    here.button("Stop").click()
    here.wait("Stopped.")
    lengths = here.page.evaluate("window.lengths")
    assert len(set(lengths)) > 5 and lengths == sorted(lengths)
    footer = here.page.locator(".answer.plus footer", has_text="mean projection")  # what has come is coloured
    footer.wait_for()
    assert 0 < int(footer.inner_text().split()[0]) < 512
    here.number("Longest answer, in tokens", "4")
    here.ask("And now?")  # the page goes on
    assert "4 tokens, cut at the limit" in here.page.locator(".answer.plus footer").inner_text()


def test_colours_follow_the_chosen_criterion_and_layer(
    visit, endless_server, endless, tiny_model, tiny_tokenizer
):
    here = visit(endless_server)
    here.ask("What is the colour of the sky?")
    before = here.page.locator("#answers").inner_html()
    here.choose("Colour tokens by", "helpfulness")
    here.page.locator(".legend", has_text="towards helpfulness").wait_for()
    here.choose("At layer", "5")
    here.page.locator(".legend", has_text="at layer 5").wait_for()
    assert here.page.locator("#answers").inner_html() != before
    spans = here.page.locator(".prompt .token")
    shown = [
        float(title.replace("−", "-")) for title in spans.evaluate_all("all => all.map(one => one.title)")
    ]
    model = tiny_model("llama", num_hidden_layers=LAYERS, max_position_embeddings=1024, eos_token_id=None)
    ids = torch.tensor([encode_prompt(tiny_tokenizer, "What is the colour of the sky?")])
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[6][0]  # the output of block 5
    directions = DirectionVectors.from_pretrained(endless)
    unit = directions.unit()[1, 5]
    assert shown == pytest.approx((states @ unit / directions.config.residual_norms[5]).tolist(), abs=6e-4)


def test_what_visitor_and_model_write_is_text_and_never_code(visit, endless_server):
    here = visit(endless_server)
    here.ask(NASTY)
    assert NASTY in here.page.locator(".prompt").inner_text()
    assert here.page.locator("#answers img, #legend img, #answers script, #legend script").count() == 0


def test_visitors_at_once_see_their_own_answers(visit, endless_server):
    both = [visit(endless_server), visit(endless_server)]
    for number, here in enumerate(both):
        here.page.locator("#instruction textarea").fill(f"I am visitor {number}.")
        here.button("Generate").click()
    for number, here in enumerate(both):
        here.wait("Done in")
        assert f"I am visitor {number}." in here.page.locator(".prompt").inner_text()


def test_the_page_fits_a_phone(visit, toy_server):
    here = visit(toy_server, width=390)
    here.ask("what colour is the sea ?")
    assert here.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tops = [box.bounding_box()["y"] for box in here.page.locator(".answer").all()]
    assert tops == sorted(set(tops))  # one below the other


def test_a_space_runs_as_it_would_be_uploaded(servers):
    card = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py"
    assert len((SPACE / "app.py").read_text(encoding="utf-8").splitlines()) <= 15
    with urllib.request.urlopen(f"{servers['space'].address}/config", timeout=PATIENCE) as answer:
        config = json.load(answer)
    assert config["title"] == "Icon² playground" and not config["analytics_enabled"]


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_the_page_listens_on_this_machine_only(toy_server):
    port = f"{int(toy_server.address.rpartition(':')[2]):04X}"
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()
    ]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{port}")]
    assert listening == [f"0100007F:{port}"]  # 127.0.0.1, bytes reversed


def test_the_servers_have_called_nobody(servers):
    for server in servers.values():
        assert server.leaks == []
        assert "Traceback" not in server.log
