"""Marks in time where the device is, not where the host has got to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from generator.engines.diffusers.untyped import Mark, Tensor


class DeviceClock:
    """Tells how long a device took: a CPU, or a GPU of Apple's, waited for at each mark.

    Args:
        device: ``cpu`` or ``mps``.
    """

    def __init__(self, device: str) -> None:
        self._waits = device.startswith("mps")

    def mark(self) -> Mark:
        """The moment at which the device has done all it was given so far."""
        if self._waits:
            torch.mps.synchronize()
        return time.perf_counter()

    def seconds(self, start: Mark, end: Mark) -> float:
        """Seconds between two marks, more than 0; waits until the second has come."""
        return max(float(end - start), 1e-6)

    def catch_up(self, mark: Mark) -> None:
        """Wait until the device has reached `mark`: here it is made when it has come."""

    @contextmanager
    def beside(self, mark: Mark, *tensors: Tensor) -> Iterator[None]:
        """Work on `tensors`, which are ready at `mark`, beside the drawing: in another thread."""
        del mark, tensors
        yield


class CudaClock(DeviceClock):
    """For CUDA: marks are events in the drawing's stream, so that nothing waits for them.

    A callback of diffusers comes when a step's kernels are launched, well before they are
    done; an event is stamped by the GPU itself.

    Args:
        device: ``cuda`` or ``cuda:1``.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._device = torch.device(device)
        self._stream = torch.cuda.Stream(self._device)

    def mark(self) -> Mark:
        """An event in the drawing's stream."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def seconds(self, start: Mark, end: Mark) -> float:
        """Seconds between two events, as the GPU stamped them."""
        end.synchronize()
        return max(float(start.elapsed_time(end)) / 1000, 1e-6)

    def catch_up(self, mark: Mark) -> None:
        """Wait for an event: keeps the host from running many steps ahead."""
        mark.synchronize()

    @contextmanager
    def beside(self, mark: Mark, *tensors: Tensor) -> Iterator[None]:
        """Work in a stream of its own, once `mark` is reached in the drawing's."""
        self._stream.wait_event(mark)
        with torch.cuda.stream(self._stream):
            for tensor in tensors:
                # Not to be handed out anew by the allocator while this stream reads it.
                tensor.record_stream(self._stream)
            yield


def clock_for(device: str) -> DeviceClock:
    """The clock of a device."""
    return CudaClock(device) if device.startswith("cuda") else DeviceClock(device)
