"""The worker side of the durable queue: claims tasks, runs their handler, writes their end.

scheduler.py   Scheduler: claims tasks, keeps the workers busy, cancels and drains
context.py     TaskHandler: runs the tasks of a kind; TaskContext: what it gets
attempt.py     Attempt: one run of the handler, up to its deadline or a stop
outcome.py     Outcome: how an attempt ended
leases.py      LeaseKeeper: renews the leases of running tasks, recovers abandoned tasks
server_id.py   the id of this server in its leases
journal.py     Journal: the status of a task and its events, changed in one transaction
stats.py       QueueStats and the expected wait
"""

from appliance.scheduler.context import RunTask, TaskContext, TaskHandler
from appliance.scheduler.journal import EndHook
from appliance.scheduler.scheduler import Scheduler
from appliance.scheduler.stats import QueueStats

__all__ = ["EndHook", "QueueStats", "RunTask", "Scheduler", "TaskContext", "TaskHandler"]
