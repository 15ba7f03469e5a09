"""What several commands share.

instance.py         settings, data directory and database that a command works on
account_store.py    the accounts in that database; tables of rows
api_client.py       HTTP client of a running server
task_output.py      stream frames and answers as text
program_request.py  request body of `sandbox run`
answer_files.py     writes files of an answer, never outside a folder
doctor_checks.py    the checks of `doctor`
hardware.py         processor and file systems of this machine
progress.py         progress of long steps
"""
