"""Domain types: frozen msgspec Structs and enums, without input or output.

users.py             accounts, API keys, roles and scopes, the principal of a request
tasks.py             tasks, their results and the events of their journal
task_kinds.py        kinds of tasks: the request and the result of each
user_events.py       events of a user's feed: of all tasks, and of no task
messages.py          requests to models and the events that stream back
completions.py       completions as callers request them, and reports on them
usage.py             recorded usage and cost of completions
models.py            registered model files and the models that providers offer
split_models.py      file names of models that are split into parts
execution.py         sandbox runs: requests, limits, results, backend status
sandbox_limits.py    table of the sandbox limits: units, ranges, setting and wire names
language_programs.py  programs of each language, and which the settings hide
rootfs.py            records of root file systems and their layout on disk
toolchain_cache.py   where cached toolchain artifacts lie
rate_policy.py       the table of rate limits by plan, dialect and class of routes
addresses.py         IP addresses of clients, and the key under which limits count them
paths.py             validation of relative paths
moving_average.py    moving average of durations
"""
