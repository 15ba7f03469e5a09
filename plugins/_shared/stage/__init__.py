"""What every sandbox backend shares: the stage that runs inside, and the talk with it.

stage.py     runs inside as the first process: files in, the program; collect.py: artifacts out
landlock.py  around the program, as one wall more
starter.py   an interpreter that waits for its program; waiting.py: the stage's side of it
job.py       what the stage is told; report.py: what it says, taken as a stranger's bytes
parts.py     modules of this package as they travel inside
requests.py  which requests can be run at all; paths.py: which names of files
output.py    as much of the output as is kept; pipes.py: pipes on the event loop
"""
