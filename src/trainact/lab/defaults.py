r"""The learning rates used when ``--lr`` is not given.

They are tuned on vanilla training only, and every method then uses the same one. The
rule: on the digits, 15 epochs, batch 64, cosine, seeds 0 1 2, the rate with the highest
mean final accuracy; of rates less than 0.001 below it, the smallest. The grids
and the commands (their records: ``records/compare/lr-tuning-digits.jsonl``):

    for lr in 0.003 0.01 0.03 0.1 0.3 1; do
      trainact compare --methods vanilla --model small-cnn mlp small-vit \
        --optimizer sgd --lr $lr --out runs/lr-tuning
    done
    for lr in 0.0003 0.001 0.003 0.01 0.03; do
      trainact compare --methods vanilla --model small-cnn mlp small-vit \
        --optimizer adam --lr $lr --out runs/lr-tuning
    done

AdamW takes Adam's rates. Other models have no tuned rate here: they get their
optimizer's last entry, a starting point and nothing more. Nor is any rate tuned on
other data than the digits.
"""

from __future__ import annotations

_ANY_MODEL = ""
_ADAM = {"small-cnn": 0.003, "mlp": 0.01, "small-vit": 0.003, _ANY_MODEL: 0.001}
LEARNING_RATES: dict[str, dict[str, float]] = {
    "sgd": {"small-cnn": 0.03, "mlp": 0.1, "small-vit": 0.03, _ANY_MODEL: 0.05},
    "adam": _ADAM,
    "adamw": _ADAM,
}


def default_lr(optimizer: str, model: str) -> float:
    """Look up the learning rate for a model.

    Args:
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        model: resolved name of the model.

    Returns:
        Vanilla training's best rate on digits, or the optimizer's general one.
    """
    rates = LEARNING_RATES[optimizer]
    return rates.get(model, rates[_ANY_MODEL])


def default_batch_size(data: str) -> int:
    """Choose a batch size for a data set.

    Args:
        data: as on the command line.

    Returns:
        64 for the digits, 128 otherwise.
    """
    return 64 if data == "digits" else 128
