"""Tasks as their owners see them.

service.py     TaskService: submit, get, list, follow, wait, cancel
validation.py  limits and forms of a task request
"""
