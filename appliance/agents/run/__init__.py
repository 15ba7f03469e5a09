"""State of one task that the planner, the prompts and the candidate rounds share.

Lies above `code` and `verification`, below `prompting`, `candidates` and the modules of `agents`.
"""
