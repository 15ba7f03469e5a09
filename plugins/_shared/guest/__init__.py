"""A run inside a machine of its own: everything said over one duplex byte channel.

A guest (gVisor's sandbox, a micro virtual machine) has no bundle of pipes into the
service, only one channel: the standard input and output of a process, or a serial port.
The same stage as everywhere (plugins/_shared/stage) plays the run in there; agent.py is the
first process of the guest and carries what the stage's five pipes would carry.

    agent.py      runs inside as PID 1: the channel on one side, the stage's pipes on the other
    pidfd.py, filecount.py    inside: what an odd kernel may lack
    frames.py     outside: takes the agent's frames, and makes those for it
    run.py        outside: one run, over two descriptors, with limits, watcher and deadlines
    results.py    outside: a finished run as the result that callers get
    compiled.py   what has to lie together in the guest for the agent to run

On the channel travel frames, as in the stage's report: a kind (1 byte), a length
(4 bytes, big-endian) and that many bytes, FRAME_BYTES at most. To the agent:

    J  a piece of the job (see plugins/_shared/stage/job.py); an empty one ends it
    I  a piece of the program's input; an empty one ends it

and from the agent, never empty but the last:

    R  a piece of the stage's report, cut anywhere
    O  a piece of the program's standard output
    E  the same of its standard error
    Z  the end: nothing follows (empty)

How a backend plays one run:

    run = GuestRun(guest, source, sink, request, watcher)   # see run.py for `guest`
    await run.play(job(request, own_user=True, watch_memory=...))
    return result(run, isolation, failure=...)
"""
