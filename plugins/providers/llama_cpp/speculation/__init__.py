"""Speculative decoding by prompt lookup. Works on tokens and costs; knows nothing of the engine.

speculation.py    how many tokens to draft in a step
drafter.py        the draft tokens of one answer
prompt_lookup.py  where an answer's last tokens stood before
acceptance.py     how likely a draft token is accepted
step_costs.py     what additional rows of a step cost
"""
