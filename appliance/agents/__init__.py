"""Agents: a task in, a verified answer out."""

from appliance.agents.agent import CodingAgent

__all__ = ["CodingAgent"]
