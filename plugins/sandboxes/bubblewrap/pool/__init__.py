"""Prewarmed sandboxes: started before they are needed, each serves one run.

idle_pool.py  keeps a number of idle sandboxes of each kind
warm_pool.py  gives a run a prewarmed sandbox with its limits; tests whether Node may be prewarmed
"""
