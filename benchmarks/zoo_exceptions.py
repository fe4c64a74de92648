"""Why models of the zoo are exceptions, by name."""

from __future__ import annotations

import re

# (library, regular expression on the whole name) -> reason
EXPLANATIONS: dict[tuple[str, str], str] = {
    ("transformers", "Dinat.*"): "needs the package natten, which was not installed",
    ("transformers", "ImageGPT.*"): (
        "its input is colour clusters that an embedding looks up: refused, as it "
        "should be; TrAct has no linear map to train there"
    ),
    ("transformers", "PerceiverForImageClassificationFourier"): (
        "pixels and Fourier features enter a LayerNorm with trained scales: refused, "
        "as it should be"
    ),
    ("transformers", "Tvp.*"): (
        "a learned visual prompt is added to the pixels before any layer: refused, as "
        "it should be"
    ),
    ("transformers", "(LightGlue|(MM)?GroundingDino|OneFormer|SuperGlue).*"): (
        "its forward branches on values before every layer in doubt has taken part, so "
        "a made-up input settles nothing: refused with candidates; with an example "
        "input the answer is the one recorded as followed"
    ),
    ("transformers", "Cohere2Vision.*|Kosmos2.*|Qwen2VL.*"): (
        "a language model whose text must hold image tokens at the right places, which "
        "the input written down here does not"
    ),
    (
        "transformers",
        "(Blip2ForImageText|EdgeTam|Llama4Vision|LwDetr|PPOCR|Sapiens2|ShieldGemma2|"
        "VitMatte).*",
    ): (
        "its default configuration fails to build, or to run with the input written "
        "down here, for the reason recorded"
    ),
    ("transformers", "Mllama.*|OmDetTurbo.*|PPDocLayout.*"): (
        "it wants further inputs that its own processor makes, which are not written "
        "down here"
    ),
}


def explain(library: str, name: str) -> str | None:
    """The reason why a model is an exception, if one was found."""
    for (of, pattern), reason in EXPLANATIONS.items():
        if of == library and re.fullmatch(pattern, name):
            return reason
    return None
