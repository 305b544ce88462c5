"""The server's counters, in the format of Prometheus."""

import functools

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # the time at which each counter began, a second series for each

PAIRS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The counters of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)
        self.requests = counter(
            "cmaclip_requests", "Requests by route and status", labelnames=("route", "status")
        )
        self.seconds = histogram(
            "cmaclip_request_seconds",
            "From the head of a request to the end of its answer",
            labelnames=("route",),
            buckets=SECONDS,
        )
        self.refusals = counter("cmaclip_refusals", "Refusals by reason", labelnames=("reason",))
        self.pairs = counter("cmaclip_pairs", "Pairs that were answered")
        self.batches = histogram("cmaclip_batch_pairs", "Pairs in a batch", buckets=PAIRS)
        self.pending = gauge("cmaclip_pending_pairs", "Pairs without an answer yet")
        self.step = gauge("cmaclip_step", "The step of the checkpoint that answers")
        self.loads = counter(
            "cmaclip_loads", "Checkpoints loaded while serving", labelnames=("outcome",)
        )

    def text(self) -> bytes:
        """All counters, as a scrape reads them."""
        return generate_latest(self.registry)
