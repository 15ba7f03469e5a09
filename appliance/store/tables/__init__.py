"""One module per table; functions take a Connection or a Transaction.

users.py           users and their password hashes
api_keys.py        API keys
refresh_tokens.py  sessions and refresh tokens
login_networks.py  the networks from which users have logged in
rate_events.py     the events that rate windows count
tasks.py           requests and results of tasks
task_queue.py      selection of the next task, changes of status
task_leases.py     owners of running tasks
task_storage.py    size, expiry and deletion of tasks
task_events.py     the journal of each task
user_feeds.py      the feed of each user, over all tasks, and its events of no task
models.py          registered models
model_probes.py    measurements of loaded models
usage_records.py   tokens and cost of completions
"""
