"""Code execution for callers.

service.py      SandboxService: capabilities, runs and their events
sessions.py     SessionService: sandbox sessions
programs.py     a caller's program: validation, conversion to a run, result
run_events.py   events of a run, and their buffer
queue_limit.py  limits waiting runs, in total and per user
run_quota.py    limits runs per user and hour
"""
