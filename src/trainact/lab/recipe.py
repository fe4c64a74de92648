"""A recipe: one experiment of the paper, typed, frozen and complete.

A recipe is made by a function whose docstring is its header: where it comes from, what
is unverified, what to expect, how long it takes. A variant calls its parent and changes
what differs, so that the difference is the experiment.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainact.lab.config import RunConfig, Setting, arm_name


@dataclass(frozen=True)
class Expected:
    """What the paper reports of one arm, in per cent.

    Attributes:
        top1: accuracy after the last epoch, mean over seeds.
        top1_std: over seeds, with Bessel's correction; None where the paper gives none.
        top5: as `top1`; None likewise.
        top5_std: as `top1_std`.
    """

    top1: float
    top1_std: float | None = None
    top5: float | None = None
    top5_std: float | None = None


@dataclass(frozen=True)
class Arm:
    """One line of an experiment.

    Attributes:
        method: name in `trainact.lab.methods.METHODS`.
        lam: λ, or None for a method without.
        expected: the paper's numbers, where it prints any.
    """

    method: str
    lam: float | None = None
    expected: Expected | None = None

    @property
    def name(self) -> str:
        """For example ``tract λ=0.1``."""
        return arm_name(self.method, self.lam)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One experiment.

    Attributes:
        name: as on the command line, such as ``fig3-sgd-100``.
        artefact: of the paper, such as ``Figure 3``.
        setting: what all arms share.
        arms: what is compared, the baseline first.
        seeds: of the paper.
        claim: what the paper says of the outcome, in one sentence.
        unverified: what no source states, and the reading that was chosen, a sentence
            each.
        deviations: where it knowingly differs from the source, a sentence each.
        hours: for one run on the hardware named, None where nobody has measured it.
        hardware: to which `hours` belongs.
        keep_weights: whether the trained weights are kept for recipes that begin with
            them.
    """

    name: str
    artefact: str
    setting: Setting
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    claim: str = ""
    unverified: tuple[str, ...] = ()
    deviations: tuple[str, ...] = ()
    hours: float | None = None
    hardware: str = ""
    keep_weights: bool = False

    def config(self, arm: Arm, seed: int, device: str) -> RunConfig:
        """Describe one run of the recipe.

        Args:
            arm: one of `arms`.
            seed: of the run.
            device: kind of device.

        Returns:
            Its configuration.
        """
        return RunConfig(
            **self.setting.to_json(),
            method=arm.method,
            lam=arm.lam,
            seed=seed,
            device=device,
        )
