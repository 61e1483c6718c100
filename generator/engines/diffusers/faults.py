"""What goes wrong inside torch, in the words of the engine port (free of torch)."""

from __future__ import annotations

from generator.engines.port import (
    DrawingFailed,
    EngineError,
    EnginePoisoned,
    RecipeRefused,
)

_OUT_OF_MEMORY = (
    "outofmemoryerror",
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cublas_status_alloc_failed",  # these two find no room for a workspace, and harm nothing
    "cudnn_status_alloc_failed",
)
_POISONED = ("CUDA error", "CUBLAS_STATUS", "CUDNN_STATUS", "device-side assert")


class Cancelled(Exception):
    """Nobody wants the drawing any more. Never leaves the engine."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the device or beside it."""
    if isinstance(error, MemoryError):
        return True
    text = f"{type(error).__name__} {error}".lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)


def is_poison(error: BaseException) -> bool:
    """Whether the process can draw no more: after a CUDA error every further call fails."""
    if is_out_of_memory(error):
        return False
    named = type(error).__name__ == "AcceleratorError"
    return named or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in _POISONED)
    )


def translated(error: Exception, *, begun: bool) -> EngineError:
    """An error of torch or diffusers as the port's.

    Args:
        error: what was raised.
        begun: whether a step had been drawn. Before that a ValueError or TypeError is
            diffusers' refusal of an argument, and no other try will help.
    """
    if isinstance(error, EngineError):
        return error
    said = f"{type(error).__name__}: {error}"
    if is_out_of_memory(error):
        return DrawingFailed(f"the memory did not suffice: {said}")
    if is_poison(error):
        return EnginePoisoned(f"the GPU is lost to this process: {said}")
    if not begun and isinstance(error, ValueError | TypeError):
        return RecipeRefused(f"diffusers refuses the recipe: {said}")
    return DrawingFailed(f"drawing broke off: {said}")
