"""Settings that tests of trainers share."""

from pathlib import Path


def settings_for(folder: Path, **changes: object) -> dict[str, object]:
    """Of a quiet training on the CPU that logs every step, with `changes`."""
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "report_to": "none",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "per_device_train_batch_size": 2,
        "disable_tqdm": True,
    }
    return settings | changes
