"""Length control: the planted truth comes back, AlpacaEval's own numbers are met, and what is missing is said."""

import csv
import json
import subprocess
import sys
from statistics import NormalDist

import numpy as np
import pytest

from hf_icon2.evaluation.length_control import GamedBaseline, length_controlled, win_rate_from_weights
from hf_icon2.evaluation.preferences import from_alpaca_eval, raw_win_rate

sklearn = pytest.importorskip("sklearn", reason="length control needs hf_icon2[evaluate]")

MODELS = ("claude-2", "vicuna-7b-v1.5", "phi-2")
# Published LC win rate, psi and theta of models that are not in the sample.
OTHERS = {
    "gemma-2b-it": (5.437454, 0.890761, -3.628114),
    "FuseChat-Llama-3.2-1B-Instruct": (25.270982, 0.670854, -1.239629),
    "NullModel": (86.457807, 0.253845, 1.905793),
    "gpt4_1106_preview_verbose": (51.575008, 0.833489, 0.192353),
    "gpt4_1106_preview_concise": (41.896602, 0.683578, -0.318206),
}
# What alpaca_eval 0.6.6 fits on the sample without difficulty and gamed rows: phi, theta, LC in per cent.
OFFICIAL = {
    "claude-2": (-2.107765278409149, -0.5416123626310196, 36.78125854014985),
    "vicuna-7b-v1.5": (-1.9160321060440026, -2.0677174678461117, 11.227433456200679),
    "phi-2": (-1.2460048466465308, -3.0973857601014503, 4.321521866699979),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def judged(number, *, phi, psi=0.0, theta, seed=0, longer=400, hard=True):
    """Preferences of a judge with planted weights, both lengths, and the difficulties, of which it has seen all."""
    chance = np.random.default_rng(seed)
    baseline = chance.integers(500, 3000, number)
    lengths = np.maximum(1, baseline + chance.normal(longer, 500, number).round())
    difference = baseline - lengths
    difficulty = chance.normal(0, 1, number)
    scores = phi * np.tanh(difference / difference.std(ddof=1)) + psi * difficulty + theta
    wins = sigmoid(scores)
    return (chance.random(number) < wins if hard else wins).astype(float), lengths, baseline, difficulty


def sample(folder, model):
    rows = [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["model"] == model]
    columns = ([row[name] for row in rows] for name in ("preference", "len_2", "len_1"))
    preferences, lengths, baseline = columns
    return from_alpaca_eval(preferences), lengths, baseline


def published(folder):
    """LC win rate, psi and theta of the sample's models."""
    with (folder / "leaderboard_ae2.csv").open() as board, (folder / "lc_glm_weights.csv").open() as weights:
        rates = {row[""]: float(row["length_controlled_winrate"]) for row in csv.DictReader(board)}
        found = {
            row[""]: [float(value) for name, value in row.items() if name] for row in csv.DictReader(weights)
        }
    return {name: (rates[name], *found[name][1:]) for name in MODELS}


QUANTILES = np.array([NormalDist().inv_cdf((place + 0.5) / 805) for place in range(805)])


def percent(model, mean, spread):
    """LC win rate of published weights, for difficulties that are a normal distribution's 805 quantiles."""
    _, psi, theta = model
    return 100 * win_rate_from_weights(theta, psi, mean + spread * QUANTILES)


def normal_difficulty(models):
    """Mean and standard deviation that miss the LC win rates of `models` least, on ever finer grids."""
    mean, spread, step = 0.0, 1.5, 0.4
    for _ in range(7):
        grid = [(mean + i * step, spread + j * step) for i in range(-4, 5) for j in range(-4, 5)]
        mean, spread = min(grid, key=lambda at: sum((percent(item, *at) - item[0]) ** 2 for item in models))
        step /= 3
    return mean, spread


@pytest.mark.parametrize(("phi", "psi", "theta"), [(-1.5, 0.9, -1.2), (-2.0, 0.5, 0.6), (0.8, 1.2, 0.0)])
def test_the_fit_recovers_planted_weights(phi, psi, theta):
    """20,000 prompts: the weights are known to about 0.03; the LC win rate is that of the planted weights."""
    preferences, lengths, baseline, difficulty = judged(20_000, phi=phi, psi=psi, theta=theta)
    found = length_controlled(preferences, lengths, baseline, difficulty=difficulty, rounds=10)
    weights = found.weights
    assert (weights.length, weights.difficulty, weights.strength) == pytest.approx((phi, psi, theta), abs=0.1)
    assert found.value == pytest.approx(win_rate_from_weights(theta, psi, difficulty), abs=0.01)
    assert found.left_out == "without rows of gamed baselines, which AlpacaEval's has"


def test_soft_preferences_recover_the_planted_weights_almost_exactly():
    """Without noise only the penalty is left: 1/C of some thousand rows' worth."""
    preferences, lengths, baseline, difficulty = judged(2000, phi=-1.5, psi=0.9, theta=-1.2, hard=False)
    found = length_controlled(preferences, lengths, baseline, difficulty=difficulty, rounds=2)
    assert found.weights.length == pytest.approx(-1.5, abs=1e-3)
    assert found.weights.strength == pytest.approx(-1.2, abs=1e-3)


def test_a_judge_that_only_likes_length_gives_one_half():
    preferences, lengths, baseline, _ = judged(2000, phi=-2.5, theta=0.0, longer=700)
    assert raw_win_rate(preferences).value > 0.75
    found = length_controlled(preferences, lengths, baseline)
    assert found.value == pytest.approx(0.5, abs=0.08)
    assert found.low < 0.5 < found.high


def test_gamed_rows_pull_towards_the_effect_of_length_they_show():
    """Second formulation of their weight: 0.2 shared by two gamed baselines is 0.1 a row, so ten of them weigh as one.

    A judge of 300 rows likes length (phi -1.5); gamed rows of a judge that does not pull phi towards 0.
    """
    preferences, lengths, baseline, _ = judged(300, phi=-1.5, theta=0.0)
    gamed = [GamedBaseline(*judged(3000, phi=0.0, theta=0.0, seed=seed, hard=False)[:3]) for seed in (1, 2)]
    alone = length_controlled(preferences, lengths, baseline, rounds=2).weights
    pulled = length_controlled(preferences, lengths, baseline, gamed=gamed, rounds=2).weights
    assert alone.length < 2 * pulled.length < 0
    one = length_controlled(preferences, lengths, baseline, gamed=gamed[:1] * 2, rounds=2)
    both = length_controlled(preferences, lengths, baseline, gamed=gamed[:1], rounds=2)
    assert one.weights.length == pytest.approx(both.weights.length, abs=0.02)
    assert one.gamed == 6000


@pytest.mark.parametrize("model", MODELS)
def test_the_official_fit_on_the_same_rows_is_met(model, data_dir):
    """Oracle: alpaca_eval 0.6.6 with its formula less the difficulty, and without gamed rows."""
    found = length_controlled(*sample(data_dir / "alpaca_eval_sample", model), rounds=50)
    phi, theta, rate = OFFICIAL[model]
    assert (found.weights.length, found.weights.strength) == pytest.approx((phi, theta), abs=1e-6)
    assert 100 * found.value == pytest.approx(rate, abs=1e-5)
    assert found.weights.difficulty is None
    assert "without the difficulty of instructions and rows of gamed baselines" in str(found)


@pytest.mark.parametrize("model", MODELS)
def test_published_weights_give_the_published_rates_with_difficulties_from_other_models(model, data_dir):
    """The difficulties are not at hand; they are taken for normal, mean and deviation from five models elsewhere."""
    wanted = published(data_dir / "alpaca_eval_sample")[model]
    assert percent(wanted, *normal_difficulty(OTHERS.values())) == pytest.approx(wanted[0], abs=1.5)


@pytest.mark.parametrize("model", MODELS)
def test_published_weights_give_the_published_rates_with_difficulties_from_the_two_others(model, data_dir):
    """The same from the sample's files alone, leaving the model out that is predicted."""
    known = published(data_dir / "alpaca_eval_sample")
    others = [item for name, item in known.items() if name != model]
    assert percent(known[model], *normal_difficulty(others)) == pytest.approx(known[model][0], abs=1.5)


def test_the_win_rate_of_weights_by_hand():
    """sigmoid(ln 3) = 3/4 and sigmoid(-ln 3) = 1/4: at theta 0 and psi 1 the mean of +-ln 3 is one half."""
    assert win_rate_from_weights(0.0, 1.0, [np.log(3), -np.log(3)]) == pytest.approx(0.5)
    assert win_rate_from_weights(np.log(3), 0.0, [5.0, -7.0]) == pytest.approx(0.75)


@pytest.mark.parametrize(("wins", "side"), [(1.0, "high"), (0.0, "low")])
def test_a_side_that_wins_everywhere_is_no_riddle(wins, side):
    """Where no row has the other label, liblinear would return the wrong sign."""
    _, lengths, baseline, _ = judged(100, phi=-1.0, theta=0.0)
    found = length_controlled([wins] * 100, lengths, baseline, rounds=50)
    assert getattr(found, side) == pytest.approx(wins, abs=0.01)
    assert 0.01 < found.high - found.low < 0.2


def test_copies_of_prompts_do_not_narrow_the_interval():
    preferences, lengths, baseline, _ = judged(60, phi=-1.0, theta=0.3)
    columns = [np.tile(column, 20) for column in (preferences, lengths, baseline)]
    once = length_controlled(preferences, lengths, baseline)
    copied = length_controlled(*columns, prompts=list(range(60)) * 20, rounds=100)
    alone = length_controlled(*columns, rounds=100)
    assert (copied.high - copied.low) > 0.8 * (once.high - once.low)
    assert (alone.high - alone.low) < 0.4 * (once.high - once.low)


@pytest.mark.slow
def test_the_interval_covers_the_planted_win_rate():
    """50 studies of 150 prompts, 60 draws each: 95 % of 50, less 3 deviations, is 43."""
    truth = sigmoid(0.4)
    inside = 0
    for seed in range(50):
        preferences, lengths, baseline, _ = judged(150, phi=-1.2, theta=0.4, seed=seed)
        found = length_controlled(preferences, lengths, baseline, rounds=60, seed=seed)
        inside += found.low <= truth <= found.high
    assert inside >= 43


def test_rows_without_a_verdict_are_left_out_of_the_fit():
    preferences, lengths, baseline, _ = judged(80, phi=-1.0, theta=0.3)
    preferences[::10] = np.nan
    found = length_controlled(preferences, lengths, baseline, rounds=5)
    assert found.rows == 72
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()


def test_no_setting_of_scikit_learn_is_changed():
    before = sklearn.get_config()
    length_controlled(*judged(50, phi=-1.0, theta=0.0)[:3], rounds=2)
    assert sklearn.get_config() == before


def test_lengths_that_hardly_differ_are_called_out():
    preferences, _, baseline, _ = judged(50, phi=0.0, theta=0.5)
    lengths = baseline + 900 + np.arange(50)
    found = length_controlled(preferences, lengths, baseline, rounds=5)
    assert "length and quality can hardly be told apart" in found.warnings[0]
    assert length_controlled(preferences, baseline, baseline, rounds=5).warnings == ()
    with pytest.raises(ValueError, match="all answers are 7 characters longer than the baseline's"):
        length_controlled(preferences, baseline + 7, baseline)


def test_a_penalty_that_takes_the_win_rate_away_is_called_out():
    """20 of 30 rows are won; the penalty with the best loss on the folds leaves nothing but one half."""
    chance = np.random.default_rng(1)
    lengths, baseline = (chance.normal(1000, 300, 30) for _ in range(2))
    longer = np.tanh((lengths - baseline) / (baseline - lengths).std(ddof=1))
    preferences = (chance.random(30) < sigmoid(0.6 + longer)) * 1.0
    assert preferences.sum() == 20
    found = length_controlled(preferences, lengths, baseline, rounds=5)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert "moves the win rate from 0.6" in found.warnings[0]
    assert "to 0.500" in found.warnings[0]
    assert length_controlled(*judged(300, phi=-1.0, theta=0.4)[:3], rounds=5).warnings == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lengths": [[1]] * 10}, "are lists of one number per row"),
        ({"preferences": [[1]] * 10}, "the preferences have the shape"),
        ({"preferences": [1, 2] * 5}, "a preference is 2; allowed: 0 to 1"),
        ({"lengths": [1] * 9}, "10 preferences, 9 lengths, 10 of the baseline; give one of each per row"),
        ({"lengths": [np.nan] * 10}, "is no finite number"),
        ({"difficulty": [0.0] * 3}, "10 of the baseline, 3 difficulties"),
        ({"prompts": ["a"]}, "1 prompts for 10 preferences"),
        ({"prompts": ["a", "b"] * 5}, "2 prompts have a verdict; length control needs 5 or more"),
        ({"rounds": 1}, "rounds=1; an interval needs 2 or more"),
        (
            {"difficulty": [0.0] * 10, "gamed": [GamedBaseline([0.5], [1], [2])]},
            "gamed baseline 1 comes without difficulty, unlike the model's rows",
        ),
    ],
)
def test_what_cannot_be_fitted_is_a_sentence(change, said):
    given = {
        "preferences": [0.0, 1.0] * 5,
        "lengths": list(range(10)),
        "baseline_lengths": list(range(5, 25, 2)),
    }
    with pytest.raises(ValueError, match=said):
        length_controlled(**given | change)


def test_a_missing_scikit_learn_is_a_sentence():
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'sklearn':\n"
        "            raise ModuleNotFoundError(name, name='sklearn')\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from hf_icon2.evaluation.length_control import length_controlled\n"
        "try:\n    length_controlled([1, 0], [1, 2], [2, 1])\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'hf_icon2[evaluate]'" in done.stdout
