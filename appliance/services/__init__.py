"""The use cases that the API and the command line call, one package per subject.

container.py       Services: all of them, as the composition root builds them
accounts/          users, login, sessions, API keys, permissions
tasks/             tasks: submit, get, list, follow, wait, cancel
completions/       chats, raw completions, embeddings
sandbox/           code execution
catalog.py         providers, models and capabilities
health.py          health, readiness, load
rate_window.py     RateWindow: at most so many events per key over a sliding window
model_recovery.py  loads the default model again after a failure
"""
