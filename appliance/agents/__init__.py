"""Coding agent: carries out a task, from its request to a verified answer.

agent.py           CodingAgent, the entry point
planner.py         form of the answer, checks, number of candidates
text_task.py       tasks that answer with text
result_builder.py  the task's result from its candidates
candidates/        rounds of candidates, consensus, repair, synthesis, choice of the answer
prompting/         personas and prompts
run/               execution plan, journal, context and writer that the above share
verification/      checks and the sandbox harness that runs them
code/              answers, languages, Python source, stubs, solutions
"""

from appliance.agents.agent import CodingAgent

__all__ = ["CodingAgent"]
