"""Tasks as their owners see them.

service.py     TaskService: submit, get, list, follow, wait, cancel, delete
retention.py   TaskRetention: deletes old tasks, shrinks the database
validation.py  limits and forms of a task request
"""
