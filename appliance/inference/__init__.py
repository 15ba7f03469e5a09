"""Inference: which provider answers for which model."""

from appliance.inference.call import Caller, CompletionCall
from appliance.inference.gateway import Gateway
from appliance.inference.routes import Route
from appliance.inference.running import Running

__all__ = ["Caller", "CompletionCall", "Gateway", "Route", "Running"]
