"""Inference: which provider answers for which model."""

from appliance.inference.gateway import Gateway, Route

__all__ = ["Gateway", "Route"]
