"""Coding agents and client packages of others, as their makers publish them; see .ci/agents."""
