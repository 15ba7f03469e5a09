"""The durable queue's worker side: claims tasks, runs their handler, writes their end."""

from appliance.scheduler.context import TaskContext, TaskHandler
from appliance.scheduler.scheduler import Scheduler
from appliance.scheduler.stats import QueueStats

__all__ = ["QueueStats", "Scheduler", "TaskContext", "TaskHandler"]
