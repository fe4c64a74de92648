"""A LightningModule and its Trainer on real images; TrAct is one callback.

    python examples/lightning_train.py --output runs/lightning
    python examples/lightning_train.py --output runs/lightning --epochs 4 \
        --resume runs/lightning/last.ckpt
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightning
import torch
import torchvision
from digits import image_folder
from torchvision.transforms import v2

from trainact.integrations.lightning import TrActCallback

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--resume", default=None)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = torchvision.models.resnet18(num_classes=10)

    def training_step(self, batch: tuple, batch_idx: int) -> torch.Tensor:
        image, target = batch
        return torch.nn.functional.cross_entropy(self.model(image), target)

    def validation_step(self, batch: tuple, batch_idx: int) -> None:
        image, target = batch
        accuracy = (self.model(image).argmax(1) == target).float().mean()
        self.log("accuracy", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def make_loader(root: Path, split: str) -> torch.utils.data.DataLoader:
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.3] * 3, [0.3] * 3),
        ]
    )
    data = torchvision.datasets.ImageFolder(root / split, transform)
    return torch.utils.data.DataLoader(data, batch_size=20, shuffle=split == "train")


def main() -> None:
    args = parser.parse_args()
    torch.manual_seed(0)
    root = image_folder(args.output / "digits")
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=args.epochs,
        enable_checkpointing=False,  # saved below
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
        logger=lightning.pytorch.loggers.CSVLogger(args.output),
        log_every_n_steps=5,
        callbacks=[TrActCallback(deferred=True, log_every_n_steps=5)],  # <- the change
    )
    loaders = make_loader(root, "train"), make_loader(root, "val")
    trainer.fit(Classifier(), *loaders, ckpt_path=args.resume)
    trainer.save_checkpoint(args.output / "last.ckpt")
    accuracy = 100 * float(trainer.callback_metrics["accuracy"])
    print(f"epoch {args.epochs - 1}: accuracy {accuracy:.1f} %")


if __name__ == "__main__":
    main()
