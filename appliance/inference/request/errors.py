"""Requests that the box itself holds back: the provider has not seen them."""

from appliance.errors import ModelUnavailable, QueueFull, RateLimited


class CircuitOpen(ModelUnavailable):
    """The provider has failed so often that it is left alone for a while."""


class LimitReached(RateLimited):
    """A limit that the administrator set for a provider or a model."""


class GateFull(QueueFull):
    """Too many wait already. `details`: {queue_length, queue_limit, place, expected_wait_s}."""


NOT_TRIED = (CircuitOpen, LimitReached, GateFull)
