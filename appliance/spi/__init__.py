"""The interfaces for plugins, and what plugins may use of the appliance.

provider.py       Provider: a source of models
sandbox.py        SandboxBackend: runs untrusted programs
registry.py       Registry, where plugins register; PluginContext, what they get
fair_queue/       FairQueue: who is served next, wherever users wait for each other
host.py           CPUs and memory that this process may use
cancellation.py   running work to its end although its caller is cancelled
"""
