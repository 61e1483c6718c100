"""Schedulers: a fresh one for each run, and what each of its steps predicts the end to be."""

from __future__ import annotations

import functools
from typing import Any

import diffusers

from generator.engines.diffusers.untyped import Scheduler, StepResult, Tensor
from generator.engines.port import RecipeRefused

_SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
"""Those of models that predict noise (SD 1.5, SDXL): one's configuration fits all."""

_FLOW_SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
)
"""Those of models that predict a velocity (SD3, Flux)."""


def fresh_scheduler(own: Scheduler, name: str | None) -> Scheduler:
    """A scheduler for one run, configured as the model's own.

    Schedulers carry a run's state, so none is used twice.

    Args:
        own: the model's.
        name: class name (``EulerDiscreteScheduler``), None for the model's own class.

    Raises:
        RecipeRefused: no such scheduler, or one that cannot take the model's configuration.
    """
    kind = type(own)
    if name not in (None, kind.__name__):
        known = known_schedulers(own)
        if name not in known:
            raise RecipeRefused(
                f"no scheduler {name!r} for this model: expected one of {', '.join(sorted(known))}"
            )
        kind = known[name]
    try:
        return kind.from_config(own.config)
    except (ValueError, TypeError, NotImplementedError, ImportError) as error:
        raise RecipeRefused(
            f"{kind.__name__} cannot stand in for {type(own).__name__}: {error}"
        ) from error


def known_schedulers(own: Scheduler) -> dict[str, Any]:
    """By class name, the schedulers that can take the place of a model's own."""
    flow = is_flow_matching(own)
    known = {type(own).__name__: type(own)}
    for name in _FLOW_SCHEDULERS if flow else _SCHEDULERS:
        kind = getattr(diffusers, name, None)
        # A dummy stands in where a package that the scheduler needs is not installed.
        if kind is not None and "dummy" not in kind.__module__:
            known[name] = kind
    return known


def is_flow_matching(scheduler: Scheduler) -> bool:
    """Whether the model predicts a velocity between picture and noise (SD3, Flux)."""
    return (
        type(scheduler).__name__.startswith("FlowMatch")
        or getattr(scheduler.config, "prediction_type", None) == "flow_prediction"
    )


class StepWatch:
    """Wraps a scheduler's `step` and keeps what each step predicts the end to be.

    Raw latents look noisy nearly to the end; the predicted end ("x0") shows the picture
    forming. It is taken from what `step` returns where it returns it, else computed from
    the step's arguments, else the latents themselves must do.

    Args:
        scheduler: of one run; it is changed.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._latest: Tensor | None = None
        step = scheduler.step

        # Pipelines look at the signature of `step` to see whether it takes a generator.
        @functools.wraps(step)
        def watched(
            model_output: Tensor, timestep: Tensor, sample: Tensor, *args: Tensor, **options: Tensor
        ) -> StepResult:
            result = step(model_output, timestep, sample, *args, **options)
            self._latest = predicted_end(scheduler, model_output, timestep, sample, result)
            return result

        scheduler.step = watched

    def take(self, latents: Tensor) -> Tensor:
        """What the last step predicted; `latents`, those after it, where that is not known."""
        latest, self._latest = self._latest, None
        return latents if latest is None else latest


def predicted_end(
    scheduler: Scheduler, model_output: Tensor, timestep: Tensor, sample: Tensor, result: StepResult
) -> Tensor | None:
    """What a step predicts the finished latents to be; None where it cannot be told.

    Args:
        scheduler: whose step it was.
        model_output: what the network predicted, guidance applied.
        timestep: where on the schedule.
        sample: latents before the step, shape (batch, channels, height, width), or packed.
        result: what `step` returned.
    """
    if isinstance(result, tuple):
        for other in result[1:2]:
            if getattr(other, "shape", None) == sample.shape:
                return other
    else:
        found = getattr(result, "pred_original_sample", None)
        if found is not None:
            return found
    if is_flow_matching(scheduler):
        # x_t = (1 - sigma) x0 + sigma noise and v = noise - x0, hence x0 = x_t - sigma v
        # (Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206).
        sigma = timestep / scheduler.config.num_train_timesteps
        return sample - sigma * model_output
    return _variance_preserving_end(scheduler, model_output, timestep, sample)


def _variance_preserving_end(
    scheduler: Scheduler, model_output: Tensor, timestep: Tensor, sample: Tensor
) -> Tensor | None:
    """x0 of DPM++, UniPC, PNDM, DEIS and their like, whose latents keep unit variance.

    x_t = sqrt(a) x0 + sqrt(1 - a) noise (Ho et al. 2020, arXiv 2006.11239, eq. 4) and
    v = sqrt(a) noise - sqrt(1 - a) x0 (Salimans and Ho 2022, arXiv 2202.00512).
    """
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or float(scheduler.init_noise_sigma) != 1.0:
        return None
    alpha = alphas.to(sample.device)[timestep.long()].to(sample.dtype)
    match getattr(scheduler.config, "prediction_type", "epsilon"):
        case "epsilon":
            return (sample - (1 - alpha) ** 0.5 * model_output) / alpha**0.5
        case "v_prediction":
            return alpha**0.5 * sample - (1 - alpha) ** 0.5 * model_output
        case "sample":
            return model_output
    return None
