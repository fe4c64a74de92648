"""What a step on a first layer is asked for, what it obtains, and from whom.

The figures that `benchmarks.why` records, as functions of what the layer saw.

Legend: N rows of the unfolded batch (the paper's b), P entries of a row (n), O outputs,
B images, L rows of an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from trainact.diagnostics import gradient_rows
from trainact.geometry import layer_geometry
from trainact.gram.patches import extract_patches

LAM = 0.1
POINTS = 250  # rows of a scatter plot
BINS = 10
Record = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """What a first layer was given in a step, and the gradient of what it returned."""

    rows: Tensor  # N x P
    grad: Tensor  # N x O
    num_images: int

    def precondition(self, value_XP: Tensor, lam: float = LAM) -> Tensor:
        """Value (A + lam I)^-1."""
        damped_PP = self.rows.mT @ self.rows / len(self.rows)
        damped_PP.diagonal().add_(lam)
        return torch.linalg.solve(damped_PP, value_XP.mT).mT


def observe(model: nn.Module, layer: nn.Module, x: Tensor, labels: Tensor) -> Call:
    """Run a training step up to its gradients, and keep what the layer saw."""
    seen: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, inputs: tuple[Tensor, ...], z: Tensor) -> None:
        z.retain_grad()
        seen.append((inputs[0].detach(), z))

    handle = layer.register_forward_hook(note)
    cross_entropy(model.train()(x), labels).backward()
    handle.remove()
    model.zero_grad()
    ((x, z),) = seen
    geometry = layer_geometry(layer)
    assert z.grad is not None  # noqa: S101
    return Call(
        extract_patches(x, geometry)[0].double(),
        gradient_rows(z.grad, geometry)[0].double(),
        len(labels),
    )


def changes(call: Call, lam: float = LAM) -> tuple[Tensor, dict[str, Tensor]]:
    """The change of the pre-activations that is asked for (Eq. 3), and those obtained.

    All N x O and for a learning rate of -1. The ordinary step has the length that
    serves it best, as its own has no natural unit. `best` is nearest to what is asked
    for of all that any change of the weights makes.
    """
    asked = len(call.rows) * call.grad
    grad_OP = call.grad.mT @ call.rows
    plain = call.rows @ grad_OP.mT
    scale = (plain * asked).sum() / plain.square().sum()
    best_PO = torch.linalg.lstsq(call.rows, asked, driver="gelsd").solution
    return asked, {
        "plain": scale * plain,
        "tract": call.rows @ call.precondition(grad_OP, lam).mT,
        "best": call.rows @ best_PO,
    }


def own_parts(call: Call) -> dict[str, Tensor]:
    """How much of a row's own gradient comes back in its own change, up to a factor."""
    rows = call.rows
    return {
        "plain": rows.square().sum(1),
        "tract": (call.precondition(rows) * rows).sum(1),
    }


def cosine(one: Tensor, other: Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


def proposal(call: Call, with_points: bool) -> Record:
    """How near a step comes to what is asked for and to what can be had."""
    asked, moved = changes(call)
    best = moved["best"]
    own = own_parts(call)
    record: Record = {
        "rows": len(asked),
        "entries": call.rows.shape[1],
        # of `trainact.diagnostics`: proposal_error and plain_proposal_error
        "error": {
            w: number((m - asked).norm() / asked.norm()) for w, m in moved.items()
        },
        "cosine": {way: number(cosine(m, asked)) for way, m in moved.items()},
        "slope": {
            way: number((m * asked).sum() / asked.square().sum())
            for way, m in moved.items()
        },
        "cosine_to_best": {way: number(cosine(m, best)) for way, m in moved.items()},
        "own_variation": {way: number(v.std() / v.mean()) for way, v in own.items()},
    }
    if with_points:
        some = torch.randperm(len(asked), generator=seeded(0))[:POINTS]
        record["points"] = {
            "asked": points(asked[some], moved, some),
            "best": points(best[some], moved, some),
        }
    return record


def points(aim: Tensor, moved: dict[str, Tensor], some: Tensor) -> dict[str, Any]:
    """Length of each row's aim, and how far steps go along it; in units of its rms."""
    lengths = aim.norm(dim=1)
    unit = lengths.square().mean().sqrt()
    along = {w: (m[some] * aim).sum(1) / lengths / unit for w, m in moved.items()}
    return {
        "length": numbers(lengths / unit),
        **{w: numbers(v) for w, v in along.items()},
    }


def image_norms(call: Call) -> dict[str, Tensor]:
    """Norm of each image's part of a batch's update, [B].

    `alone` is without the size of the image's own gradient of the pre-activations,
    which is `gradient`.
    """
    rows_BLP = call.rows.unflatten(0, (call.num_images, -1))
    grad_BLO = call.grad.unflatten(0, (call.num_images, -1))
    plain_BOP = grad_BLO.mT @ rows_BLP
    plain = plain_BOP.flatten(1).norm(dim=1)
    tract = call.precondition(plain_BOP).flatten(1).norm(dim=1)
    gradient = grad_BLO.flatten(1).norm(dim=1)
    return {
        "gradient": gradient,
        "plain": plain,
        "tract": tract,
        "plain alone": plain / gradient,
        "tract alone": tract / gradient,
    }


def shares(batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Each image's share of its batch's sum of norms, over batches; the sum is 1."""
    listed = list(batches)
    return {
        name: torch.cat([of_batch[name] / of_batch[name].sum() for of_batch in listed])
        / len(listed)
        for name in listed[0]
    }


def by_decile(share_N: Tensor, key_N: Tensor) -> list[float]:
    """Sum of the shares of each tenth of the images, by ascending key."""
    tenths = share_N[key_N.argsort()].tensor_split(BINS)
    return [number(part.sum()) for part in tenths]


def rank_correlation(one: Tensor, other: Tensor) -> float:
    result: Any = spearmanr(one.numpy(), other.numpy())
    return result.statistic


def share_records(images: Tensor, share: dict[str, Tensor]) -> Iterator[Record]:
    """Shares by contrast and by brightness of the images (bytes)."""
    pixels = images.flatten(1).double() / 255
    for by, key in (("contrast", pixels.std(1)), ("brightness", pixels.mean(1))):
        yield {
            "measure": "shares",
            "by": by,
            "deciles": {name: by_decile(values, key) for name, values in share.items()},
            "variation": {n: number(v.std() / v.mean()) for n, v in share.items()},
            "rank_correlation": {
                name: number(rank_correlation(key, values))
                for name, values in share.items()
            },
        }


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def number(value: Tensor | float, places: int = 4) -> float:
    """With so many significant digits."""
    return float(f"{float(value):.{places}g}")


def numbers(values: Tensor, places: int = 4) -> list[Any]:
    if values.ndim > 1:
        return [numbers(row, places) for row in values]
    return [number(value, places) for value in values.tolist()]
