"""The same ViT in timm and in Flax NNX takes the same first step under TrAct.

    python examples/jax_vit.py

timm's weights go into the Flax model by their names (`load_timm`); both train one step
of SGD on the same images, and what every parameter has moved by is compared.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timm
import torch
from flax import nnx

import trainact
import trainact.jax.nnx

SIZE, PATCH, WIDTH, DEPTH, HEADS, CLASSES = 32, 8, 64, 2, 4, 10
FIRST = "patch_embed.proj"
LR = 0.1


class PatchEmbed(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        patch = (PATCH, PATCH)
        self.proj = nnx.Conv(3, WIDTH, patch, patch, padding="VALID", rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.proj(x)
        return x.reshape(len(x), -1, WIDTH)


class Attention(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.qkv = nnx.Linear(WIDTH, 3 * WIDTH, rngs=rngs)
        self.proj = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        parts = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, -1)
        mixed = jax.nn.dot_product_attention(*(parts[:, :, i] for i in range(3)))
        return self.proj(mixed.reshape(x.shape))


class Mlp(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.fc1 = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.fc2 = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(nnx.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attn = Attention(rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = Mlp(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nnx.Module):
    """timm's VisionTransformer, with its names."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        tokens = (SIZE // PATCH) ** 2 + 1
        self.patch_embed = PatchEmbed(rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, WIDTH)))
        self.pos_embed = nnx.Param(jnp.zeros((1, tokens, WIDTH)))
        self.blocks = nnx.List([Block(rngs) for _ in range(DEPTH)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.patch_embed(x)
        first = jnp.broadcast_to(self.cls_token[...], (len(x), 1, WIDTH))
        x = jnp.concatenate([first, x], axis=1) + self.pos_embed[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def to_flax(name: str, value: torch.Tensor) -> tuple[str, np.ndarray]:
    """A parameter of timm's model under the name and in the layout of Flax."""
    array = value.detach().numpy()
    if not name.endswith(".weight"):
        return name, array
    stem = name.removesuffix(".weight")
    if array.ndim == 1:
        return f"{stem}.scale", array
    return f"{stem}.kernel", array.transpose((2, 3, 1, 0) if array.ndim == 4 else None)


def parameters(model: ViT) -> dict[str, Any]:
    """Name -> parameter."""
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {".".join(map(str, path)): variable for path, variable in flat}


def load_timm(model: ViT, weights: dict[str, torch.Tensor]) -> None:
    """Give a Flax model the weights of timm's."""
    ours = parameters(model)
    theirs = dict(to_flax(name, value) for name, value in weights.items())
    if ours.keys() != theirs.keys():
        raise ValueError(f"names differ: {sorted(ours.keys() ^ theirs.keys())}")
    loaded = [  # copies: torch's weights go on in their own memory
        (_path(name), variable.replace(jnp.array(theirs[name])))
        for name, variable in ours.items()
    ]
    nnx.update(model, nnx.from_flat_state(loaded))


def _path(name: str) -> tuple[str | int, ...]:
    return tuple(int(part) if part.isdecimal() else part for part in name.split("."))


def differences(lam: float | None = 0.1) -> dict[str, float]:
    """What the two models moved each parameter by, compared: relative differences."""
    torch.manual_seed(0)
    settings = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=SIZE,
        patch_size=PATCH,
        num_classes=CLASSES,
        **settings,
    )
    torch.nn.init.normal_(theirs.head.weight, std=0.1)
    ours = ViT(nnx.Rngs(0))
    load_timm(ours, theirs.state_dict())
    if lam is not None:
        trainact.apply(theirs, lam, layer=FIRST)
        trainact.jax.nnx.apply(ours, lam, layer=FIRST)
    images, labels = torch.randn(16, 3, SIZE, SIZE), torch.arange(16) % CLASSES

    before = {n: to_flax(n, p.clone())[1] for n, p in theirs.named_parameters()}
    sgd = torch.optim.SGD(theirs.parameters(), LR)
    torch.nn.functional.cross_entropy(theirs(images), labels).backward()
    sgd.step()

    x, y = jnp.asarray(images.permute(0, 2, 3, 1).numpy()), jnp.asarray(labels.numpy())
    optimizer = nnx.Optimizer(ours, optax.sgd(LR), wrt=nnx.Param)

    @nnx.jit
    def step(model: ViT, optimizer: Any) -> None:
        def loss(model: ViT) -> jax.Array:
            losses = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
            return losses.mean()

        optimizer.update(model, nnx.grad(loss)(model))

    step(ours, optimizer)
    after = parameters(ours)
    found: dict[str, float] = {}
    for name, parameter in theirs.named_parameters():
        flax_name, value = to_flax(name, parameter)
        moved = value - before[name]
        difference = np.asarray(after[flax_name][...]) - value
        found[name] = float(np.linalg.norm(difference) / np.linalg.norm(moved))
    return found


def main() -> None:
    """Print the largest differences."""
    for lam in (None, 0.1):
        found = differences(lam)
        worst = max(found, key=lambda name: found[name])
        print(
            f"{'vanilla' if lam is None else f'TrAct λ={lam}'}: the first layer's step "
            f"differs by {found[f'{FIRST}.weight']:.1e}, the most of all by "
            f"{found[worst]:.1e} ({worst})"
        )


if __name__ == "__main__":
    main()
