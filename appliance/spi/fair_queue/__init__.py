"""The fair queue: who is served next, wherever users wait for each other.

The order is:

1. By class: interactive before normal before batch. The requests of one user in one class are a
   flow, served in the order of arrival. A flow rises by one class for each `ageing_s` that it
   has waited: since the arrival of its oldest request, or since its last service if that is
   later, so that a long queue of one user does not age as a whole above the others.
2. Within a class by user: start-time fair queueing (Goyal, Vin, Cheng 1996). A service costs its
   user 1/weight of virtual time and the lowest start tag is next, so a user with weight 2 is
   served twice as often as one with weight 1. A user that was idle has saved nothing up, and a
   request that is removed while it waits costs nothing.
3. By arrival.

A request is served only while its limits allow: those of its pool, of its user in that pool, and
of the whole queue. One that has to wait for its own pool or user delays no other, and nothing
stays free that a waiting request may use. Only a bounded number of requests may wait.

FairQueue decides the order and knows nothing of waiting; FairSemaphore waits. Every operation
takes O(log n) for n waiting requests, amortized, and O(number of pools with waiting requests)
where it selects one; only a refusal takes O(n), which the limit bounds.
"""

from appliance.spi.fair_queue.fair_queue import FairQueue
from appliance.spi.fair_queue.requests import Caps, Entry, QueueRequest
from appliance.spi.fair_queue.semaphore import FairSemaphore, Ticket
from appliance.spi.fair_queue.user_weights import UserWeights

__all__ = ["Caps", "Entry", "FairQueue", "FairSemaphore", "QueueRequest", "Ticket", "UserWeights"]
