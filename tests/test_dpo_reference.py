"""The reference of DPO beside steering, against log-probabilities by hand-made hooks on untouched models."""

import copy

import pytest
import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, load_from_disk
from peft import LoraConfig, get_peft_model
from trl import TrlParser

from hf_icon2 import make_steerable, steer
from hf_icon2.trainers.dpo import Icon2DPOConfig, Icon2DPOTrainer
from hf_icon2.trainers.losses import dpo_loss

STEERING = {"honesty": 1.5, "helpfulness": -1.0}
OUTER = {"helpfulness": 3.0}
CLOSE = {"rel": 0, "abs": 2e-4}  # float32 sums of some twenty log-probabilities, times beta


def pairs(number=4):
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"What is number {'very ' * index}{index}?"}],
                "chosen": [{"role": "assistant", "content": f"It is {index}, of course."}],
                "rejected": [{"role": "assistant", "content": "No idea" + "!" * index}],
            }
            for index in range(number)
        ]
    )


def config(folder, **settings):
    return Icon2DPOConfig(
        **{
            "output_dir": str(folder),
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 4,
            "max_steps": 1,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "max_length": 128,
            "disable_tqdm": True,
        }
        | settings
    )


def lora():
    torch.manual_seed(5)
    return LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )


@pytest.fixture(scope="module")
def directions(tiny_llama, random_directions):
    return random_directions(tiny_llama)


@pytest.fixture
def logps(tiny_tokenizer, directions):
    """Summed log-probabilities of one side, each pair alone and unpadded, hooks from the column asked for; (N,)."""

    def compute(model, side, steering, start="last prompt token"):
        sums = []
        for row in pairs():
            prompt, whole = (
                tiny_tokenizer.apply_chat_template(
                    messages, tokenize=True, return_dict=False, add_generation_prompt=add
                )
                for messages, add in ((row["prompt"], True), (row["prompt"] + row[side], False))
            )
            first = len(prompt) - 1 if start == "last prompt token" else start

            def adder(layer, first=first):
                def hook(_module, _args, output):
                    output = output.clone()
                    for name, strength in (steering or {}).items():
                        if layer in directions.config.control_layers[name]:
                            output[:, first:] += strength * directions.at(name, layer)
                    return output

                return hook

            handles = [block.register_forward_hook(adder(n)) for n, block in enumerate(model.model.layers)]
            with torch.no_grad():
                scores = model(torch.tensor([whole]), use_cache=False).logits[0].log_softmax(-1)
            for handle in handles:
                handle.remove()
            sums.append(sum(scores[at - 1, whole[at]] for at in range(len(prompt), len(whole))))
        return torch.stack(sums)

    return compute


@pytest.fixture
def trainer(tiny_model, tiny_tokenizer, directions, tmp_path):
    """A trainer of a steerable model, in the ways a reference can come about."""

    def build(kind, **settings):
        model = make_steerable(tiny_model("llama"), directions)
        extra = {}
        if kind == "peft":
            extra["peft_config"] = lora()
        elif kind == "wrapped":
            model = get_peft_model(model, lora())
        elif kind == "given":
            extra["ref_model"] = make_steerable(tiny_model("llama"), directions)
        elif kind == "precompute":
            settings["precompute_ref_log_probs"] = True
        return Icon2DPOTrainer(
            model,
            args=config(tmp_path, **settings),
            train_dataset=pairs(),
            eval_dataset=pairs(),
            processing_class=tiny_tokenizer,
            **extra,
        )

    return build


KINDS = pytest.mark.parametrize("kind", ["copy", "given", "precompute", "peft"])


def policy_of(tiny_model, trainer):
    """An untouched model with the weights of the trainer's, its adapter merged."""
    model, trained = tiny_model("llama"), copy.deepcopy(trainer.model)
    model.load_state_dict((trained.merge_and_unload() if is_peft_model(trained) else trained).state_dict())
    return model


@KINDS
@pytest.mark.parametrize("steering", [None, STEERING], ids=["by default", "on request"])
def test_the_reference_is_steered_on_request_only(tiny_model, trainer, logps, kind, steering):
    """Steered as `generate` steers: from each prompt's last token on, though the batch is padded on the right."""
    built = trainer(kind, reference_steering=steering)
    policy, reference = policy_of(tiny_model, built), tiny_model("llama")
    sides = ("chosen", "rejected")
    policies = [logps(policy, side, None) for side in sides]
    references = [logps(reference, side, steering) for side in sides]
    expected = dpo_loss(*policies, *references, beta=0.1).mean().item()
    found = built.evaluate()["eval_loss"]
    assert found == pytest.approx(expected, **CLOSE)
    if steering:
        unsteered = [logps(reference, side, None) for side in sides]
        assert found != pytest.approx(dpo_loss(*policies, *unsteered, beta=0.1).mean().item(), **CLOSE)


@KINDS
@pytest.mark.parametrize("steering", [None, STEERING], ids=["by default", "on request"])
def test_a_steer_block_around_the_trainer_reaches_the_policy_alone(
    tiny_model, trainer, logps, directions, kind, steering
):
    built = trainer(kind, reference_steering=steering)
    policy, reference = policy_of(tiny_model, built), tiny_model("llama")
    sides = ("chosen", "rejected")
    policies = [logps(policy, side, OUTER, start=0) for side in sides]
    references = [logps(reference, side, steering) for side in sides]
    expected = dpo_loss(*policies, *references, beta=0.1).mean().item()
    with steer(built.model, directions, OUTER):
        found = built.evaluate()["eval_loss"]
    assert found == pytest.approx(expected, **CLOSE)


def test_references_computed_beforehand_inside_a_steer_block_are_unsteered(
    tiny_model, tiny_tokenizer, directions, logps, tmp_path
):
    model = make_steerable(tiny_model("llama"), directions)
    with steer(model, directions, OUTER):
        built = Icon2DPOTrainer(
            model,
            args=config(tmp_path, precompute_ref_log_probs=True),
            train_dataset=pairs(),
            processing_class=tiny_tokenizer,
        )
    found = torch.tensor(built.train_dataset["ref_chosen_logps"])
    torch.testing.assert_close(found, logps(tiny_model("llama"), "chosen", None), atol=2e-3, rtol=0)


def test_references_kept_on_disk_are_not_taken_for_another_steering(
    tiny_model, tiny_tokenizer, directions, logps, tmp_path
):
    """TRL keeps them beside the dataset's files, by dataset, settings and weights, none of which knows directions."""
    pairs().save_to_disk(tmp_path / "pairs")
    for sign, steering in ((1, None), (1, STEERING), (-1, STEERING), (1, None)):
        built = Icon2DPOTrainer(
            make_steerable(tiny_model("llama"), directions if sign == 1 else -directions),
            args=config(tmp_path / "run", precompute_ref_log_probs=True, reference_steering=steering),
            train_dataset=load_from_disk(tmp_path / "pairs"),
            processing_class=tiny_tokenizer,
        )
        found = torch.tensor(built.train_dataset["ref_chosen_logps"])
        signed = steering and {name: sign * strength for name, strength in steering.items()}
        torch.testing.assert_close(found, logps(tiny_model("llama"), "chosen", signed), atol=2e-3, rtol=0)


def test_training_beside_a_steered_reference_leaves_no_state_and_says_so_on_the_card(trainer, tmp_path):
    built = trainer("copy", reference_steering=STEERING, max_steps=3)
    built.train()
    from hf_icon2.steering.hooks import installed_state

    assert installed_state(built.model).plan is None and installed_state(built.ref_model).plan is None
    built.create_model_card()
    assert "| reference steered by | honesty 1.5, helpfulness -1 |" in (tmp_path / "README.md").read_text()


def test_an_adapter_already_on_the_model_keeps_its_beginning_as_the_reference(tiny_model, trainer, logps):
    built = trainer("wrapped", reference_steering=STEERING)
    policy = policy_of(tiny_model, built)
    sides = ("chosen", "rejected")
    policies = [logps(policy, side, None) for side in sides]
    references = [logps(policy, side, STEERING) for side in sides]
    expected = dpo_loss(*policies, *references, beta=0.1).mean().item()
    assert built.evaluate()["eval_loss"] == pytest.approx(expected, **CLOSE)


def test_the_steering_comes_from_the_command_line(tmp_path):
    flags = ["--output_dir", str(tmp_path), "--use_cpu", "true", "--reference_steering", '{"honesty": 0.1}']
    (args,) = TrlParser((Icon2DPOConfig,)).parse_args_and_config(flags)
    assert args.reference_steering == {"honesty": 0.1}


def test_a_steering_that_cannot_be_used_gets_a_sentence(tiny_model, trainer, tiny_tokenizer, tmp_path):
    with pytest.raises(ValueError, match="unknown criterion 'mind'; these directions have: honesty"):
        trainer("copy", reference_steering={"mind": 1.0})
    with pytest.raises(ValueError, match="as JSON like .*; got 'honesty'"):
        config(tmp_path, reference_steering="honesty")
    args = config(tmp_path, reference_steering=STEERING)
    with pytest.raises(ValueError, match=r"has no directions; call make_steerable\(model, directions\)"):
        Icon2DPOTrainer(
            tiny_model("llama"), args=args, train_dataset=pairs(), processing_class=tiny_tokenizer
        )
    with pytest.raises(ValueError, match="a model given by its name has not; load it"):
        Icon2DPOTrainer("some/model", args=args, train_dataset=pairs(), processing_class=tiny_tokenizer)
