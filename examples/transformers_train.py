"""Hugging Face's Trainer on real images; TrAct is one callback.

    python examples/transformers_train.py --output runs/transformers

For the update of the whole batch under gradient accumulation the Trainer is a
``class MyTrainer(DeferredMixin, Trainer)``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torchvision
from digits import image_folder
from torchvision.transforms import v2
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

from trainact.integrations.transformers import TrActCallback

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=2)


class Images(torchvision.datasets.ImageFolder):
    def __init__(self, root: Path) -> None:
        steps = [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.3] * 3, [0.3] * 3),
        ]
        super().__init__(root, v2.Compose(steps))

    def __getitem__(self, index: int) -> dict:
        image, label = super().__getitem__(index)
        return {"pixel_values": image, "labels": label}


def accuracy(prediction: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(1) == labels).mean())}


def main() -> None:
    args = parser.parse_args()
    set_seed(0)
    root = image_folder(args.output / "digits")
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64],
        depths=[1, 1],
        layer_type="basic",
        num_labels=10,
    )
    trainer = Trainer(
        ResNetForImageClassification(config),
        TrainingArguments(
            output_dir=args.output,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=40,
            learning_rate=3e-3,
            use_cpu=True,
            eval_strategy="epoch",
            report_to="none",
            dataloader_pin_memory=False,
        ),
        train_dataset=Images(root / "train"),
        eval_dataset=Images(root / "val"),
        compute_metrics=accuracy,
        callbacks=[TrActCallback()],  # <- the change
    )
    trainer.train()
    trainer.save_model(args.output / "model")
    found = 100 * trainer.evaluate()["eval_accuracy"]
    print(f"epoch {args.epochs - 1}: accuracy {found:.1f} %")


if __name__ == "__main__":
    main()
