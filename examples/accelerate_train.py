"""Accelerate's loop with gradient accumulation and clipping, on real images.

    python examples/accelerate_train.py --output runs/accelerate

`trainact.apply` alone is TrAct with statistics of each micro-batch; the other two lines
make the micro-batches one batch.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
import torchvision
from accelerate import Accelerator
from digits import image_folder
from torchvision.transforms import v2

import trainact

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=2)


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
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = timm.create_model("resnet10t", num_classes=10)
    trainact.apply(model)  # <- the change
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model, optimizer, train, val = accelerator.prepare(
        model, optimizer, make_loader(root, "train"), make_loader(root, "val")
    )
    with trainact.deferred(model, optimizer) as step:  # <- for accumulation
        for epoch in range(args.epochs):
            model.train()
            for image, target in train:
                with accelerator.accumulate(model):
                    loss = torch.nn.functional.cross_entropy(model(image), target)
                    accelerator.backward(loss)
                    if accelerator.sync_gradients:
                        step.precondition()  # <- before the clip
                        accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
            print(f"epoch {epoch}: accuracy {evaluate(model, val):.1f} %")
    accelerator.save_model(model, args.output)


@torch.no_grad()
def evaluate(model: torch.nn.Module, loader: torch.utils.data.DataLoader) -> float:
    model.eval()
    correct = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return 100 * correct / len(loader.dataset)


if __name__ == "__main__":
    main()
