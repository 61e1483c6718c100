"""The border to torch and diffusers, which we take as untyped: names for what is meant."""

from __future__ import annotations

from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A `torch.Tensor`, on any device."""

Precision: TypeAlias = Any
"""A `torch.dtype`."""

Pipeline: TypeAlias = Any
"""A `diffusers.DiffusionPipeline` of one of the families we know."""

Scheduler: TypeAlias = Any
"""A `diffusers.SchedulerMixin`."""

StepResult: TypeAlias = Any
"""What a scheduler's step returns: a tuple, or an object with fields."""

Autoencoder: TypeAlias = Any
"""A `diffusers.AutoencoderKL`: turns pictures into latents and back."""

Mark: TypeAlias = Any
"""A moment: seconds on the host, or a `torch.cuda.Event` in a stream."""
