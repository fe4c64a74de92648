"""TrAct in the training frameworks that people already use.

One module per framework, none imported before you import it:

- `trainact.integrations.lightning` and `trainact.integrations.pytorch_lightning`,
- `trainact.integrations.transformers`.

timm's and torchvision's scripts, Accelerate and loops of your own need none:
`trainact.apply(model)` after the line that makes the model is all; see ``examples/``.
"""
