"""A loop like torchvision's reference script for classification, on real images.

    python examples/torchvision_train.py --output runs/torchvision
    python examples/torchvision_train.py --output runs/torchvision --epochs 4 \
        --resume runs/torchvision/checkpoint.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torchvision
from digits import image_folder
from torchvision.transforms import v2

import trainact

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--resume", default="")
parser.add_argument("--clip-grad-norm", type=float, default=1.0)


def make_loader(root: Path, split: str) -> torch.utils.data.DataLoader:
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.3] * 3, [0.3] * 3),
        ]
    )
    data = torchvision.datasets.ImageFolder(root / split, transform)
    return torch.utils.data.DataLoader(data, batch_size=40, shuffle=split == "train")


def train_one_epoch(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: torch.utils.data.DataLoader,
    clip_grad_norm: float,
) -> None:
    model.train()
    for image, target in loader:
        loss = torch.nn.functional.cross_entropy(model(image), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)
        optimizer.step()


@torch.inference_mode()
def evaluate(model: torch.nn.Module, loader: torch.utils.data.DataLoader) -> float:
    model.eval()
    correct = sum((model(x).argmax(1) == y).sum().item() for x, y in loader)
    return 100 * correct / len(loader.dataset)


def main() -> None:
    args = parser.parse_args()
    torch.manual_seed(0)
    model = torchvision.models.get_model("resnet18", weights=None, num_classes=10)
    trainact.apply(model)  # <- the change

    parameters = weight_decay_groups(model)
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    start = 0
    if args.resume:
        checkpoint = torch.load(args.resume, weights_only=True)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["lr_scheduler"])
        start = checkpoint["epoch"] + 1
    root = image_folder(args.output / "digits")
    train, val = make_loader(root, "train"), make_loader(root, "val")
    for epoch in range(start, args.epochs):
        train_one_epoch(model, optimizer, train, args.clip_grad_norm)
        scheduler.step()
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": epoch,
        }
        torch.save(checkpoint, args.output / "checkpoint.pth")
        print(f"epoch {epoch}: accuracy {evaluate(model, val):.1f} %")


def weight_decay_groups(model: torch.nn.Module) -> list[dict]:
    """No weight decay on biases and norms, as the reference script has it."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": 1e-4},
        {"params": others, "weight_decay": 0.0},
    ]


if __name__ == "__main__":
    main()
