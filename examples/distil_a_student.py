"""A small student learns how a teacher ranks the student's own answers (PAD), step by step, on the bundled models.

    python examples/distil_a_student.py --prompts 200

`hf-icon2 distill` does the same for any two models, keeps what is finished, and can go several rounds.
"""

import argparse

from hf_icon2 import DEFAULT_CRITERIA, PADConfig, PADTrainer, sample_candidates, score_candidates
from hf_icon2.steering.decoding import Sampling
from hf_icon2.toy import instructions, load_assistant, load_student, reward


def mean_reward(model, tokenizer, prompts):
    """Share of what the truth table asks of an answer, over sampled answers."""
    answers = sample_candidates(
        model, tokenizer, prompts, samples=2, keep=2, sampling=Sampling(32), show_progress=False
    )
    rewards = [
        reward(row["prompt"], response[0]["content"]) for row in answers for response in row["responses"]
    ]
    return sum(rewards) / len(rewards)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=800, help="prompts to learn from")
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--output", default="runs/distilled")
    arguments = parser.parse_args()

    student, tokenizer = load_student()
    teacher, teacher_tokenizer = load_assistant()
    asked = [item.text for item in instructions("train")][:: max(1, 800 // arguments.prompts)]
    held_out = [item.text for item in instructions("validation")]
    print(f"before: {mean_reward(student, tokenizer, held_out):.3f}")

    drawn = sample_candidates(
        student, tokenizer, asked, samples=8, keep=4, sampling=Sampling(32, temperature=1.0, top_p=0.95)
    )
    scored = score_candidates(
        drawn, teacher, teacher_tokenizer, alpha=1.0, system=DEFAULT_CRITERIA[0].positive
    )
    trainer = PADTrainer(
        student,
        args=PADConfig(
            arguments.output,
            learning_rate=3e-4,
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=16,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=scored,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(arguments.output)
    print(f"after: {mean_reward(trainer.model.eval(), tokenizer, held_out):.3f}")


if __name__ == "__main__":
    main()
