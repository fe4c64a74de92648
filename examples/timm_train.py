"""timm's parts in the order of its train.py, on real images.

    python examples/timm_train.py --output runs/timm
    python examples/timm_train.py --output runs/timm --epochs 4 \
        --resume runs/timm/last.pth.tar

In timm's own train.py the same one line follows `create_model`. The checkpoints are
those of the plain model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from digits import SIZE, image_folder
from timm.data import create_dataset, create_loader
from timm.models import resume_checkpoint
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import CheckpointSaver, ModelEmaV3, accuracy, dispatch_clip_grad

import trainact

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--resume", default="")
parser.add_argument("--opt", default="adamw")
parser.add_argument("--clip-mode", default="norm")


def make_loader(root: Path, split: str) -> torch.utils.data.DataLoader:
    return create_loader(
        create_dataset("", root / split),
        input_size=(3, SIZE, SIZE),
        batch_size=40,
        is_training=split == "train",
        no_aug=True,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )


def main() -> None:
    args = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10)
    trainact.apply(model)  # <- the change

    optimizer = create_optimizer_v2(model, opt=args.opt, lr=3e-3, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, "cosine", num_epochs=10)
    start = 0
    if args.resume:
        start = resume_checkpoint(model, args.resume, optimizer)
        scheduler.step(start)
    ema = ModelEmaV3(model, decay=0.9)
    root = image_folder(args.output / "digits")
    train, val = make_loader(root, "train"), make_loader(root, "val")
    saver = CheckpointSaver(
        model, optimizer, model_ema=ema, checkpoint_dir=args.output, max_history=2
    )
    for epoch in range(start, args.epochs):
        model.train()
        for x, y in train:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x), y)
            loss.backward()
            dispatch_clip_grad(model.parameters(), 1.0, mode=args.clip_mode)
            optimizer.step()
            ema.update(model)
        scheduler.step(epoch + 1)
        top1 = evaluate(model, val)
        saver.save_checkpoint(epoch, metric=top1)
        print(f"epoch {epoch}: accuracy {top1:.1f} %")


@torch.no_grad()
def evaluate(model: torch.nn.Module, loader: torch.utils.data.DataLoader) -> float:
    model.eval()
    outputs, labels = zip(*((model(x), y) for x, y in loader), strict=True)
    return float(accuracy(torch.cat(outputs), torch.cat(labels))[0])


if __name__ == "__main__":
    main()
