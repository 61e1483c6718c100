"""What is counted: Prometheus metrics in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from server.core.clock import Clock

_LAG_PERIOD = 1.0
_LATENESS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Every metric of one server; two servers in one process do not share them."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.cues = Counter(
            "understudy_cues_fired", "Cues fired, by action.", ["action"], registry=self.registry
        )
        self.cue_lateness = Histogram(
            "understudy_cue_lateness_seconds",
            "How long after its time a cue fired.",
            buckets=_LATENESS,
            registry=self.registry,
        )
        self.jumps = Counter(
            "understudy_jumps",
            "Times the show was set to another position instead of playing there.",
            registry=self.registry,
        )
        self.runs = Counter(
            "understudy_runs",
            "Runs performed, by provider and outcome.",
            ["provider", "outcome"],
            registry=self.registry,
        )
        self.cue_failures = Counter(
            "understudy_cue_failures",
            "Cues that could not be carried out for a mistake of ours, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.run_failures = Counter(
            "understudy_run_failures",
            "Runs in which a mistake of ours was made, though another rung may have taken over.",
            registry=self.registry,
        )
        self.setbacks = Counter(
            "understudy_setbacks",
            "Times a rung of the ladder failed and the next one took over, by rung.",
            ["rung"],
            registry=self.registry,
        )
        self.frames_sent = Counter(
            "understudy_frames_sent", "Frames sent, over all screens.", registry=self.registry
        )
        self.frames_skipped = Counter(
            "understudy_frames_skipped",
            "Frames a screen was too slow to be sent.",
            registry=self.registry,
        )
        self.presented_lateness = Histogram(
            "understudy_presented_lateness_seconds",
            "How long after it was due a frame reached a display.",
            buckets=(0.0, *_LATENESS),
            registry=self.registry,
        )
        self.screens = Gauge(
            "understudy_screens", "Screens that are connected.", registry=self.registry
        )
        self.screen_errors = Counter(
            "understudy_screen_errors",
            "Messages of screens that could not be taken, by code.",
            ["code"],
            registry=self.registry,
        )
        self.technicians = Gauge(
            "understudy_technicians", "Control clients that are connected.", registry=self.registry
        )
        self.control_errors = Counter(
            "understudy_control_errors",
            "Messages of technicians that could not be taken, by code.",
            ["code"],
            registry=self.registry,
        )
        self.job_failures = Counter(
            "understudy_job_failures",
            "Times a long-lived job of the server ended that should not, by job.",
            ["job"],
            registry=self.registry,
        )
        self.job_restarts = Counter(
            "understudy_job_restarts",
            "Times a long-lived job of the server was started again, by job.",
            ["job"],
            registry=self.registry,
        )
        self.unhandled_errors = Counter(
            "understudy_unhandled_errors",
            "Errors that nobody caught, by where.",
            ["where"],
            registry=self.registry,
        )
        self.loop_lag = Gauge(
            "understudy_loop_lag_seconds",
            "How late the event loop woke when it was last measured.",
            registry=self.registry,
        )
        self.sets_usable = Gauge(
            "understudy_sets_usable", "Sets that can be played.", registry=self.registry
        )
        self.cues_without_sets = Gauge(
            "understudy_cues_without_sets",
            "Generating cues that have no set to play.",
            registry=self.registry,
        )

        self.preflight_errors = Gauge(
            "understudy_preflight_errors",
            "Errors that the last preflight found.",
            registry=self.registry,
        )

    def expose(self) -> bytes:
        """The text that `/metrics` answers."""
        return generate_latest(self.registry)


async def measure_loop_lag(metrics: Metrics, clock: Clock) -> None:
    """Measure again and again how late the event loop wakes, until cancelled."""
    while True:
        due = clock.now() + _LAG_PERIOD
        await clock.sleep_until(due)
        metrics.loop_lag.set(clock.now() - due)
