"""Inference: which provider answers for which model."""

from appliance.inference.completion_run import Running
from appliance.inference.gateway import Gateway
from appliance.inference.request.call import Caller, CompletionCall
from appliance.inference.request.route import Route

__all__ = ["Caller", "CompletionCall", "Gateway", "Route", "Running"]
