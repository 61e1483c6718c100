"""What is counted: Prometheus metrics in a registry of their own, all named `understudy_…`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from server.core.clock import Clock

Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily)
Label = TypeVar("Label", bound=str)

MetricSource = Callable[[], Iterable[Metric]]
"""Answers with metrics whenever it is asked, for what is not counted as it happens."""

_LAG_PERIOD = 1.0
_LATENESS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class ProcessMetrics:
    """What is counted in every server of ours: how its process does.

    Two servers in one process do not share them.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.job_failures = self._counter(
            "job_failures",
            "Times a long-lived job of the server ended that should not, by job.",
            "job",
        )
        self.job_restarts = self._counter(
            "job_restarts", "Times a long-lived job of the server was started again, by job.", "job"
        )
        self.unhandled_errors = self._counter(
            "unhandled_errors", "Errors that nobody caught, by where.", "where"
        )
        self.loop_lag = self._gauge(
            "loop_lag_seconds", "How late the event loop woke when it was last measured."
        )

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(f"understudy_{name}", meaning, labels, registry=self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"understudy_{name}", meaning, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"understudy_{name}", meaning, buckets=buckets, registry=self.registry)

    def ask(self, *sources: MetricSource) -> None:
        """Expose what `sources` answer as well from now on. They must be quick."""
        for source in sources:
            self.registry.register(_Asked(source))

    def expose(self) -> bytes:
        """The text that `/metrics` answers."""
        return generate_latest(self.registry)


class Metrics(ProcessMetrics):
    """Every metric of one show."""

    def __init__(self) -> None:
        super().__init__()
        self._count_the_show()
        self._count_clients()
        self._count_sets()

    def _count_the_show(self) -> None:
        self.cues = self._counter("cues_fired", "Cues fired, by action.", "action")
        self.cue_lateness = self._histogram(
            "cue_lateness_seconds", "How long after its time a cue fired.", _LATENESS
        )
        self.jumps = self._counter(
            "jumps", "Times the show was set to another position instead of playing there."
        )
        self.runs = self._counter(
            "runs", "Runs performed, by provider and outcome.", "provider", "outcome"
        )
        self.cue_failures = self._counter(
            "cue_failures",
            "Cues that could not be carried out for a mistake of ours, by kind.",
            "kind",
        )
        self.run_failures = self._counter(
            "run_failures",
            "Runs in which a mistake of ours was made, though another rung may have taken over.",
        )
        self.setbacks = self._counter(
            "setbacks",
            "Times a rung of the ladder failed and the next one took over, by rung.",
            "rung",
        )

    def _count_clients(self) -> None:
        self.frames_sent = self._counter("frames_sent", "Frames sent, over all screens.")
        self.frames_skipped = self._counter(
            "frames_skipped", "Frames a screen was too slow to be sent."
        )
        self.presented_lateness = self._histogram(
            "presented_lateness_seconds",
            "How long after it was due a frame reached a display.",
            (0.0, *_LATENESS),
        )
        self.screens = self._gauge("screens", "Screens that are connected.")
        self.screen_errors = self._counter(
            "screen_errors", "Messages of screens that could not be taken, by code.", "code"
        )
        self.technicians = self._gauge("technicians", "Control clients that are connected.")
        self.control_errors = self._counter(
            "control_errors", "Messages of technicians that could not be taken, by code.", "code"
        )

    def _count_sets(self) -> None:
        self.sets_usable = self._gauge("sets_usable", "Sets that can be played.")
        self.cues_without_sets = self._gauge(
            "cues_without_sets", "Generating cues that have no set to play."
        )
        self.preflight_errors = self._gauge(
            "preflight_errors", "Errors that the last preflight found."
        )


class _Asked(Collector):
    def __init__(self, source: MetricSource) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        return self._source()


def sampled(family: Family, samples: Mapping[Label, float]) -> Family:
    """A family with a sample for each value of its label."""
    for value, sample in samples.items():
        family.add_metric([value], sample)
    return family


async def measure_loop_lag(metrics: ProcessMetrics, clock: Clock) -> None:
    """Measure again and again how late the event loop wakes, until cancelled."""
    while True:
        due = clock.now() + _LAG_PERIOD
        await clock.sleep_until(due)
        metrics.loop_lag.set(clock.now() - due)
